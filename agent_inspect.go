package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"piko/agent"
	"piko/inspect"
	"piko/listen"
)

// inspectConfig is the inspect.* section of an agent.
type inspectConfig struct {
	Enabled     bool     `name:"inspect" filekey:"inspect.enabled" help:"Serve a page with the latest requests and answers, from which each can be sent to the service again. Whoever reaches its address sees them all. When off, requests cost nothing more."`
	Addr        bindAddr `name:"inspect.addr" default:"127.0.0.1:4040" help:"Address of the inspector's page. If its port is taken, as by another agent, the next one that is free is used, and the log says which."`
	MaxBytes    byteSize `name:"inspect.max-bytes" default:"64MiB" help:"Memory for all requests that the inspector keeps. Beyond it, and beyond 2000 requests, the oldest is forgotten."`
	MaxBody     byteSize `name:"inspect.max-body" default:"1MiB" help:"How much of each body, and of all messages of a WebSocket or a stream, the inspector keeps."`
	ShowSecrets bool     `name:"inspect.show-secrets" help:"Show credentials in the inspector: tokens, cookies, passwords and the like. When not given, their values are [redacted], though a replay sends them."`
}

// inspectPorts is how many ports from that of inspect.addr on are tried.
const inspectPorts = 10

// check finds what no single value shows.
func (c *inspectConfig) check(listeners []agent.Listener) error {
	if !c.Enabled {
		return nil
	}
	isHTTP := func(l agent.Listener) bool { return l.Protocol != "tcp" }
	switch {
	case !slices.ContainsFunc(listeners, isHTTP):
		return errors.New("--inspect: there are only TCP endpoints, whose bytes are not looked at; take it away, or use piko agent http")
	case c.MaxBody < 1<<10:
		return fmt.Errorf("--inspect.max-body: %d bytes show nothing; use 1KiB or more", c.MaxBody)
	case c.MaxBytes < 1<<20 || c.MaxBytes < 4*c.MaxBody:
		return fmt.Errorf("--inspect.max-bytes: %d is too little; use 1MiB or more, and at least four times --inspect.max-body", c.MaxBytes)
	}
	return nil
}

// inspectorPort is an agent's inspector with the port of its page; nil is off.
type inspectorPort struct {
	*inspect.Inspector
	port *port
	url  string
}

// openInspector opens the inspector's port, if there is to be one, and has the
// agent's requests pass through it.
func (a *agentCmd) openInspector(cfg *agent.Config, log *slog.Logger, reg prometheus.Registerer) (*inspectorPort, error) {
	c := &a.Inspect
	if !c.Enabled {
		return nil, nil
	}
	ln, err := c.listen(log)
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(string(c.Addr)) // is checked
	address, notAddress := netip.ParseAddr(host)
	i := inspect.New(inspect.Config{
		MaxBytes: int(c.MaxBytes), MaxBody: int(c.MaxBody), ShowSecrets: c.ShowSecrets,
		Hosts: []string{strings.ToLower(cmp.Or(host, "localhost"))}, AnyAddress: host == "" || notAddress == nil && address.IsUnspecified(),
	})
	cfg.Wrap = i.Wrap
	bound := ln.Addr().(*net.TCPAddr)
	if !bound.IP.IsLoopback() {
		log.Warn("the inspector can be reached from other machines, and shows requests to whoever does; give --inspect.addr an address of this machine only, such as 127.0.0.1:4040", "addr", bound.String())
	}
	p := &inspectorPort{Inspector: i, url: "http://" + bound.String()}
	p.port = newPort("--inspect.addr", ln, newHTTPServer(i.Handler(), log),
		listen.Options{Port: "inspect", Descriptors: listen.NewDescriptors(), UseReserve: true, Logger: log, Registerer: reg})
	log.Info("inspecting requests", "url", p.url, "secrets", c.ShowSecrets)
	return p, nil
}

// listen opens the port, or the next one that is free.
func (c *inspectConfig) listen(log *slog.Logger) (net.Listener, error) {
	host, text, _ := net.SplitHostPort(string(c.Addr))
	first, _ := strconv.Atoi(text)
	for n := first; ; n++ {
		ln, err := openTCP("--inspect.addr", bindAddr(net.JoinHostPort(host, strconv.Itoa(n))))
		last := n == first+inspectPorts-1 || n == 65535 || first == 0
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || last {
			return ln, err
		}
		log.Info("port of the inspector is taken, trying the next", "port", n)
	}
}

// run serves the page until ctx ends.
func (p *inspectorPort) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, p.Close)()
	err := p.port.serveUntil(ctx)
	p.Close()
	return err
}

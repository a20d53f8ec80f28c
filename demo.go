package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"text/tabwriter"
	"time"

	"piko/agent"
	"piko/client"
)

// demoEndpoint is what the demo's agent listens on.
const demoEndpoint = "my-endpoint"

// demoConnectTimeout is how long the demo's agent may take to be reachable.
const demoConnectTimeout = 10 * time.Second

// demoCmd is `piko demo`.
type demoCmd struct {
	Exit    bool `flagonly:"" help:"Stop after the requests, with status 0 if all of them worked."`
	Verbose bool `short:"v" flagonly:"" help:"Show what server and agent log."`
}

// Run starts a server, an agent and a service in this process, sends requests
// through them and, without --exit, leaves them running until a signal.
func (c *demoCmd) Run(p *process) (err error) {
	level := "warn"
	if c.Verbose {
		level = "info"
	}
	d, err := newDemo(p.logger(logConfig{Level: level, Format: "text"}))
	if err != nil {
		return err
	}
	d.start(p.ctx)
	defer func() {
		if stopped := d.stop(); stopped != nil {
			err = stopped // why the requests failed, if they did
		}
	}()

	d.describe(p.stdout)
	if err := d.try(p.ctx, p.stdout); err != nil || c.Exit {
		return err
	}
	d.invite(p.stdout)
	select {
	case <-p.ctx.Done():
		fmt.Fprintln(p.stdout, "\nStopping.")
		return nil
	case <-d.failed:
		return errors.New("run demo: a part of it ended by itself")
	}
}

// demo is the main job in one process: a service, a node and an agent that
// makes the service reachable through the node.
type demo struct {
	// Static after construction.
	origin net.Listener
	node   *server
	agent  *agent.Agent

	// Static after start; in the order in which they are stopped.
	parts  []*demoPart
	failed chan struct{} // gets a value from every part that ends
}

// newDemo puts the parts together, on free ports of the loopback interface.
func newDemo(log *slog.Logger) (*demo, error) {
	d := &demo{failed: make(chan struct{}, 3)}
	cfg := defaultServerConfig()
	cfg.Proxy.BindAddr, cfg.Upstream.BindAddr, cfg.Admin.BindAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	var err error
	if d.node, err = newServer(cfg, log); err != nil {
		return nil, err
	}
	if d.origin, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("listen for the demo's service: %w", err)
	}
	d.agent, err = agent.New(agent.Config{
		Listeners:   []agent.Listener{{Endpoint: demoEndpoint, Addr: d.origin.Addr().String()}},
		GracePeriod: 5 * time.Second,
	}, &client.Client{URL: "http://" + d.node.UpstreamAddr().String()}, log, nil, nil)
	return d, err
}

// start runs the parts until stop. They do not end with ctx, since stopping has
// an order: the agent lets go of the server, the server of its clients, and
// only then the service goes.
func (d *demo) start(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	origin := startPart(ctx, d.failed, "service", d.serveOrigin)
	node := startPart(ctx, d.failed, "server", d.node.Run)
	agent := startPart(ctx, d.failed, "agent", d.agent.Run)
	d.parts = []*demoPart{agent, node, origin}
}

// stop ends the parts and returns why one of them had failed, if it had.
func (d *demo) stop() error {
	var errs []error
	for _, p := range d.parts {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

// serveOrigin is the service.
func (d *demo) serveOrigin(ctx context.Context) error {
	srv := &http.Server{Handler: demoOrigin(), ReadHeaderTimeout: 10 * time.Second}
	unhook := context.AfterFunc(ctx, func() { srv.Close() })
	defer unhook()
	if err := srv.Serve(d.origin); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// demoPart is something that runs until it is stopped.
type demoPart struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended; then err is set
	err    error
}

func startPart(ctx context.Context, ended chan<- struct{}, name string, run func(context.Context) error) *demoPart {
	ctx, cancel := context.WithCancel(ctx)
	p := &demoPart{name: name, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = run(ctx)
		ended <- struct{}{}
	}()
	return p
}

func (p *demoPart) stop() error {
	p.cancel()
	<-p.done
	if p.err != nil {
		return fmt.Errorf("run %s of the demo: %w", p.name, p.err)
	}
	return nil
}

// describe says what runs where.
func (d *demo) describe(w io.Writer) {
	fmt.Fprintf(w, "A piko server, an agent and a service, in one process:\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  server\tproxy port http://%s (clients)\n", d.node.ProxyAddr())
	fmt.Fprintf(t, "\tupstream port http://%s (agents)\n", d.node.UpstreamAddr())
	fmt.Fprintf(t, "\tadmin port http://%s (operators)\n", d.node.AdminAddr())
	fmt.Fprintf(t, "  agent\tlistens on endpoint %s, forwards to the service\n", demoEndpoint)
	fmt.Fprintf(t, "  service\thttp://%s\n\n", d.origin.Addr())
	t.Flush()
}

// invite says what to try.
func (d *demo) invite(w io.Writer) {
	_, port, _ := net.SplitHostPort(d.node.ProxyAddr().String())
	fmt.Fprintf(w, "Try it:\n\n"+
		"  curl -H 'x-piko-endpoint: %[1]s' http://localhost:%[2]s/\n"+
		"  curl -H 'Host: %[1]s.example.com' http://localhost:%[2]s/\n"+
		"  curl -N -H 'x-piko-endpoint: %[1]s' http://localhost:%[2]s/events\n\n"+
		"Press Ctrl-C to stop.\n", demoEndpoint, port)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"piko/bench"
	"piko/client"
)

// The benchmarks of what is no request: tunnels, and what nodes tell each other.

// benchState is what they have in common.
type benchState struct {
	PID  []benchProcess `name:"pid" sep:"none" placeholder:"NAME=PID" help:"A process whose CPU time and memory to report. May be repeated. Linux only."`
	JSON bool           `name:"json" flagonly:"" help:"Print the result as JSON."`

	Log    benchLog    `embed:"" prefix:"log." group:"Log"`
	Config configFlags `embed:"" prefix:"config."`
}

// benchUpstream is where tunnels are opened.
type benchUpstream struct {
	UpstreamURL serverURL     `name:"upstream-url" default:"http://localhost:8001" help:"URL of the server's upstream port."`
	Timeout     time.Duration `default:"30s" help:"How long connecting may take."`

	TLS clientTLSConfig `embed:"" prefix:"tls."`
}

// client opens the tunnels.
func (c *benchUpstream) client(log *slog.Logger) (*client.Client, error) {
	config, err := benchTLS(c.TLS)
	if err != nil {
		return nil, err
	}
	return &client.Client{URL: string(c.UpstreamURL), ConnectTimeout: c.Timeout, TLS: config, Logger: log}, nil
}

// benchIdleCmd is `piko bench idle`.
type benchIdleCmd struct {
	Tunnels int           `default:"1000" help:"Tunnels to open, each for an endpoint of its own."`
	Hold    time.Duration `default:"10s" help:"How long to keep them."`
	Connect benchUpstream `embed:"" prefix:"connect." group:"Server to measure"`
	benchState
}

// Help is the long help.
func (*benchIdleCmd) Help() string {
	return `
Examples:
  piko bench idle --tunnels 10000 --hold 30s --pid server=1234

Each tunnel takes a file descriptor here and one of the server's.
Exit status: 0 if all tunnels were opened and none was lost, else 1.`
}

// Validate is called by the command line's parser.
func (c *benchIdleCmd) Validate() error {
	switch {
	case c.Tunnels < 1:
		return errors.New("--tunnels must be at least 1")
	case c.Hold < 0:
		return errors.New("--hold must not be negative")
	}
	return nil
}

// Run measures and prints.
func (c *benchIdleCmd) Run(p *process) error {
	log := p.logger(c.Log.config())
	sdk, err := c.Connect.client(log)
	if err != nil {
		return err
	}
	b := bench.Idle{
		Client:  sdk,
		Tunnels: c.Tunnels, Hold: c.Hold, Processes: processList(c.PID), Logger: log,
	}
	ctx, cancel := context.WithTimeout(p.ctx, c.Connect.Timeout+c.Hold)
	defer cancel()
	r, err := b.Run(ctx)
	if err != nil {
		return err
	}
	if err := printResult(p, c.JSON, r, func(w io.Writer) error { return r.Write(w) }); err != nil || r.Lost == 0 {
		return err
	}
	return fmt.Errorf("%d tunnels were lost", r.Lost)
}

// benchConnectCmd is `piko bench connect`.
type benchConnectCmd struct {
	Listeners int           `default:"1000" help:"Listeners that are connected, each to an endpoint of its own."`
	Outage    time.Duration `default:"0s" help:"How long nobody can connect after all were cut."`
	Restart   bool          `flagonly:"" help:"Connect to the server itself, without a relay, and wait until somebody starts it anew."`
	Within    time.Duration `default:"1m" help:"How long to wait until all are back."`
	Connect   benchUpstream `embed:"" prefix:"connect." group:"Server to measure"`
	benchState
}

// Help is the long help.
func (*benchConnectCmd) Help() string {
	return `
The listeners are connected through a relay in this process, which cuts all of their
connections at once. How long they were away includes the outage. A listener takes
three file descriptors here, and one with --restart.

Examples:
  piko bench connect --listeners 2000 --outage 5s --pid server=1234
  piko bench connect --listeners 10000 --restart   # then stop the server and start it

Exit status: 0 if all listeners are back in time, else 1.`
}

// Validate is called by the command line's parser.
func (c *benchConnectCmd) Validate() error {
	switch {
	case c.Listeners < 1:
		return errors.New("--listeners must be at least 1")
	case c.Outage < 0:
		return errors.New("--outage must not be negative")
	case c.Restart && c.Outage > 0:
		return errors.New("--outage is how long a relay keeps connections out; with --restart there is none")
	case c.Restart && len(c.PID) > 0:
		return errors.New("--pid names a process that --restart waits to see replaced; leave out one of them")
	case c.Within <= c.Outage:
		return errors.New("--within must be more than --outage")
	}
	return nil
}

// Run measures and prints.
func (c *benchConnectCmd) Run(p *process) error {
	log := p.logger(c.Log.config())
	sdk, err := c.Connect.client(log)
	if err != nil {
		return err
	}
	b := bench.Reconnect{
		Client:    sdk,
		Listeners: c.Listeners, Outage: c.Outage, Restart: c.Restart, Timeout: c.Within, Processes: processList(c.PID), Logger: log,
	}
	if c.Restart {
		b.Await = func() { fmt.Fprintln(p.stderr, "all are connected: restart the server") }
	}
	r, err := b.Run(p.ctx)
	if err != nil {
		return err
	}
	if err := printResult(p, c.JSON, r, func(w io.Writer) error { return r.Write(w) }); err != nil || int(r.Back) == c.Listeners {
		return err
	}
	return fmt.Errorf("%d listeners are not back", c.Listeners-int(r.Back))
}

// benchClusterCmd is `piko bench cluster`.
type benchClusterCmd struct {
	Endpoints int                 `default:"100" help:"Endpoints to register, one after the other."`
	Pause     time.Duration       `default:"50ms" help:"Time between the end of one and the next."`
	Connect   benchClusterConnect `embed:"" prefix:"connect." group:"Cluster to measure"`
	benchState
}

// benchClusterConnect is where a cluster is.
type benchClusterConnect struct {
	UpstreamURL serverURL     `name:"upstream-url" default:"http://localhost:8001" help:"URL of the upstream port of one of the nodes."`
	ProxyURL    []httpURL     `name:"proxy-url" default:"http://localhost:8000" help:"URL of the proxy port of a node. Repeat it for each."`
	Timeout     time.Duration `default:"5s" help:"How long an endpoint may take to be reachable."`

	TLS clientTLSConfig `embed:"" prefix:"tls."`
}

// Help is the long help.
func (*benchClusterCmd) Help() string {
	return `
Each endpoint gets a tunnel to the one node, and every node is asked for it each
millisecond until a request is answered.

Examples:
  piko bench cluster --connect.upstream-url http://node-1:8001 \
    --connect.proxy-url http://node-1:8000 --connect.proxy-url http://node-2:8000 --connect.proxy-url http://node-3:8000

Exit status: 0 if all endpoints were reachable through all nodes in time, else 1.`
}

// Validate is called by the command line's parser.
func (c *benchClusterCmd) Validate() error {
	switch {
	case c.Endpoints < 1:
		return errors.New("--endpoints must be at least 1")
	case c.Pause < 0:
		return errors.New("--pause must not be negative")
	case c.Connect.Timeout <= 0:
		return errors.New("--connect.timeout must be positive")
	}
	return nil
}

// Run measures and prints.
func (c *benchClusterCmd) Run(p *process) error {
	log := p.logger(c.Log.config())
	config, err := benchTLS(c.Connect.TLS)
	if err != nil {
		return err
	}
	b := bench.Cluster{
		Client:    &client.Client{URL: string(c.Connect.UpstreamURL), ConnectTimeout: c.Connect.Timeout, TLS: config, Logger: log},
		TLS:       config,
		Endpoints: c.Endpoints, Pause: c.Pause, Timeout: c.Connect.Timeout, Processes: processList(c.PID), Logger: log,
	}
	for _, u := range c.Connect.ProxyURL {
		b.URLs = append(b.URLs, string(u))
	}
	r, err := b.Run(p.ctx)
	if err != nil {
		return err
	}
	if err := printResult(p, c.JSON, r, func(w io.Writer) error { return r.Write(w) }); err != nil || r.Failed() == 0 {
		return err
	}
	return fmt.Errorf("%d times an endpoint was not reachable through a node", r.Failed())
}

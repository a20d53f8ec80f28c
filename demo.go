package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"

	"piko/agent"
	"piko/client"
)

// demoEndpoint is what the demo's agents listen on.
const demoEndpoint = "my-endpoint"

// demoAgents is how many there are.
const demoAgents = 2

// demoConnectTimeout is how long the demo's agents may take to be reachable.
const demoConnectTimeout = 10 * time.Second

// maxDemoNodes is what fits on a machine and a screen.
const maxDemoNodes = 9

// demoCmd is `piko demo`: without a further command it shows everything.
type demoCmd struct {
	Show    demoShowCmd    `cmd:"" hidden:"" default:"withargs" help:"Show the whole thing in this process: a cluster, agents and a service, requests through them, and restarts under load."`
	Service demoServiceCmd `cmd:"" help:"Run a small HTTP service, to have something to put behind an agent."`
}

// demoShowCmd shows everything in this process.
type demoShowCmd struct {
	Nodes   int  `flagonly:"" default:"3" help:"How many nodes the cluster has, 1 to 9. With more than one, each is restarted under load."`
	Exit    bool `flagonly:"" help:"Stop after the requests, with status 0 if all of them worked."`
	Verbose bool `short:"v" flagonly:"" help:"Show what nodes and agents log."`
}

// Run starts a cluster, agents and a service in this process, sends requests
// through them, restarts the nodes meanwhile and, without --exit, leaves all of
// it running until a signal.
func (c *demoShowCmd) Run(p *process) (err error) {
	if c.Nodes < 1 || c.Nodes > maxDemoNodes {
		return &usageError{err: fmt.Errorf("--nodes: %d; use 1 to %d", c.Nodes, maxDemoNodes), try: "piko demo --help"}
	}
	level := "error" // connections that a restart ends are warnings
	if c.Verbose {
		level = "info"
	}
	d, err := newDemo(c.Nodes, p.logger(logConfig{Level: level, Format: "text"}))
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
	if err := d.show(p.ctx, p.stdout); err != nil || c.Exit {
		return err
	}
	d.invite(p.stdout)
	select {
	case <-p.ctx.Done():
		fmt.Fprintln(p.stdout, "\nStopping.")
		return nil
	case <-d.failed:
		return errPartEnded
	}
}

var errPartEnded = errors.New("run demo: a part of it ended by itself")

// demo is the main job in one process: a service, agents that make it reachable
// through a cluster of nodes, and a load balancer before those.
type demo struct {
	// Static after construction.
	origin   net.Listener
	nodes    []*demoNode
	balancer *demoBalancer
	agents   []*agent.Agent

	// Static after start; in the order in which they are stopped, the nodes
	// between the first agents and the others.
	agentParts, otherParts []*demoPart
	failed                 chan struct{} // gets a value from a part that ends by itself
}

// newDemo puts the parts together, on free ports of the loopback interface.
func newDemo(nodes int, log *slog.Logger) (*demo, error) {
	d := &demo{failed: make(chan struct{}, 1)}
	var join []joinAddr
	key := secret(rand.Text())
	for i := range nodes {
		n, err := newDemoNode(fmt.Sprintf("node-%d", i+1), slices.Clone(join), key, log)
		if err != nil {
			return nil, err
		}
		d.nodes = append(d.nodes, n)
		join = append(join, n.gossipAddr())
	}
	for _, n := range d.nodes {
		n.rejoin = join
	}
	var err error
	if d.balancer, err = newDemoBalancer(d.nodes); err != nil {
		return nil, err
	}
	if d.origin, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("listen for the demo's service: %w", err)
	}
	for range demoAgents {
		a, err := agent.New(agent.Config{
			Listeners:   []agent.Listener{{Endpoint: demoEndpoint, Addr: d.origin.Addr().String()}},
			GracePeriod: demoGrace,
		}, &client.Client{URL: "http://" + d.balancer.upstreamAddr()}, log, nil, nil)
		if err != nil {
			return nil, err
		}
		d.agents = append(d.agents, a)
	}
	return d, nil
}

// start runs the parts until stop. They do not end with ctx, since stopping has
// an order: the agents let go of the nodes, the nodes of their clients, and only
// then balancer and service go.
func (d *demo) start(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	d.otherParts = []*demoPart{startPart(ctx, d.failed, "balancer", d.balancer.run), startPart(ctx, d.failed, "service", d.serveOrigin)}
	for _, n := range d.nodes {
		n.start(ctx, d.failed)
	}
	for i, a := range d.agents {
		d.agentParts = append(d.agentParts, startPart(ctx, d.failed, fmt.Sprintf("agent-%d", i+1), a.Run))
	}
}

// stop ends the parts, those of a kind at once, and returns why one of them had
// failed, if it had.
func (d *demo) stop() error {
	nodes := make([]*demoPart, len(d.nodes))
	for i, n := range d.nodes {
		nodes[i] = n.part
	}
	return errors.Join(stopParts(d.agentParts), stopParts(nodes), stopParts(d.otherParts))
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

// describe says what runs where.
func (d *demo) describe(w io.Writer) {
	what := "A piko cluster"
	if len(d.nodes) == 1 {
		what = "A piko server"
	}
	fmt.Fprintf(w, "%s, agents and a service, in one process:\n\n", what)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  balancer\tclients http://%s, agents http://%s\n", d.balancer.proxyAddr(), d.balancer.upstreamAddr())
	for _, n := range d.nodes {
		fmt.Fprintf(t, "  %s\tclients http://%s, agents http://%s, operators http://%s\n", n.name, n.proxyAddr(), n.upstreamAddr(), n.adminAddr())
	}
	for i := range d.agents {
		fmt.Fprintf(t, "  agent-%d\tlistens on endpoint %s, forwards to the service\n", i+1, demoEndpoint)
	}
	fmt.Fprintf(t, "  service\thttp://%s\n\n", d.origin.Addr())
	t.Flush()
}

// show sends requests of all kinds, asks every node, and restarts the nodes. It
// fails if a request did.
func (d *demo) show(ctx context.Context, w io.Writer) error {
	if err := d.awaitNodes(ctx); err != nil {
		return err
	}
	if err := d.try(ctx, w); err != nil {
		return err
	}
	if len(d.nodes) == 1 {
		return nil // without another one, nobody serves while it restarts
	}
	if err := d.askEach(ctx, w); err != nil {
		return err
	}
	return d.restartAll(ctx, w)
}

// invite says what to try.
func (d *demo) invite(w io.Writer) {
	_, port, _ := net.SplitHostPort(d.balancer.proxyAddr())
	fmt.Fprintf(w, "Try it:\n\n"+
		"  curl -H 'x-piko-endpoint: %[1]s' http://localhost:%[2]s/\n"+
		"  curl -H 'Host: %[1]s.example.com' http://localhost:%[2]s/\n"+
		"  curl -N -H 'x-piko-endpoint: %[1]s' http://localhost:%[2]s/events\n"+
		"  piko server status cluster nodes -o table --server.url http://%[3]s\n\n"+
		"Press Ctrl-C to stop.\n", demoEndpoint, port, d.nodes[0].adminAddr())
}

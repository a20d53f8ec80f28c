package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"
)

// Times of the demo's nodes: short, since somebody is watching.
const (
	demoGrace        = 8 * time.Second
	demoDelay        = 4 * balancerCheck // until the balancer has asked /ready, and to spare
	demoReadyTimeout = 10 * time.Second
	demoBindTimeout  = 3 * time.Second
)

// demoNode is a node that can be restarted: each time another server, on the
// same ports.
type demoNode struct {
	// Static after construction.
	name   string
	log    *slog.Logger
	cfg    serverConfig // of the first start, with the ports that it got
	rejoin []joinAddr   // all nodes, for those that follow

	part *demoPart // owned by whoever starts and restarts

	server atomic.Pointer[server] // the running one
}

// newDemoNode opens the ports of a node; join are the gossip addresses of the
// others that are there, key is the secret of the cluster.
func newDemoNode(name string, join []joinAddr, key secret, log *slog.Logger) (*demoNode, error) {
	n := &demoNode{name: name, log: log, cfg: loopbackServerConfig()}
	n.cfg.Cluster.NodeID = nodeID(name)
	n.cfg.Cluster.Join = join
	n.cfg.Cluster.Secret = []secret{key}
	n.cfg.GracePeriod, n.cfg.ShutdownDelay = demoGrace, demoDelay
	s, err := newServer(n.cfg, log)
	if err != nil {
		return nil, err
	}
	n.server.Store(s)
	n.cfg.Proxy.BindAddr = bindAddr(s.ProxyAddr().String())
	n.cfg.Upstream.BindAddr = bindAddr(s.UpstreamAddr().String())
	n.cfg.Admin.BindAddr = bindAddr(s.AdminAddr().String())
	n.cfg.Cluster.Gossip.BindAddr = bindAddr(s.GossipAddr())
	return n, nil
}

func (n *demoNode) proxyAddr() string    { return string(n.cfg.Proxy.BindAddr) }
func (n *demoNode) upstreamAddr() string { return string(n.cfg.Upstream.BindAddr) }
func (n *demoNode) adminAddr() string    { return string(n.cfg.Admin.BindAddr) }
func (n *demoNode) gossipAddr() joinAddr { return joinAddr(n.cfg.Cluster.Gossip.BindAddr) }

// tunnels says how many tunnels of agents the node has.
func (n *demoNode) tunnels() string {
	switch _, tunnels := n.server.Load().table.Totals(); tunnels {
	case 0:
		return "no tunnel"
	case 1:
		return "one tunnel"
	default:
		return fmt.Sprintf("%d tunnels", tunnels)
	}
}

// start runs the node until it is stopped.
func (n *demoNode) start(ctx context.Context, ended chan<- struct{}) {
	n.part = startPart(ctx, ended, n.name, n.server.Load().Run)
}

// restart stops the node as SIGTERM does, and starts it again once it has
// stopped. It returns when the node is ready.
func (n *demoNode) restart(ctx context.Context, ended chan<- struct{}) error {
	if err := n.part.stop(); err != nil {
		return err
	}
	s, err := n.again(ctx)
	if err != nil {
		return err
	}
	n.server.Store(s)
	n.start(context.WithoutCancel(ctx), ended)
	return n.awaitReady(ctx)
}

// again opens the node's ports once more. One of them may have become the port
// of somebody's outgoing connection meanwhile, which does not last.
func (n *demoNode) again(ctx context.Context) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, demoBindTimeout)
	defer cancel()
	cfg := n.cfg
	cfg.Cluster.Join = n.rejoin
	for {
		s, err := newServer(cfg, n.log)
		if err == nil {
			return s, nil
		}
		pause(ctx, balancerCheck)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("restart %s of the demo: %w", n.name, err)
		}
	}
}

func (n *demoNode) awaitReady(ctx context.Context) error {
	timeout := time.NewTimer(demoReadyTimeout)
	defer timeout.Stop()
	select {
	case <-n.server.Load().Ready():
		return nil
	case <-n.part.done:
		return fmt.Errorf("run %s of the demo: %w", n.name, errors.Join(n.part.err, errors.New("it has ended")))
	case <-timeout.C:
		return fmt.Errorf("run %s of the demo: it was not ready within %v", n.name, demoReadyTimeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// restartAll restarts one node after the other under load, prints what became
// of the requests, and fails if one of them did.
func (d *demo) restartAll(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "Restarting every node, as SIGTERM does, while requests go on:\n\n")
	load := startLoad(ctx, d.balancer.proxyAddr())
	err := d.restartEach(ctx, w, load)
	load.end()
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	load.report(w)
	done, failed := load.totals()
	if failed > 0 {
		return fmt.Errorf("run demo: %d of %d requests failed while nodes were restarted", failed, done)
	}
	fmt.Fprintf(w, "\nAll %d nodes were restarted, and none of %d requests failed.\n\n", len(d.nodes), done)
	return nil
}

func (d *demo) restartEach(ctx context.Context, w io.Writer, load *demoLoad) error {
	const row = "  %-7s  %-12s  %-18s  %s\n"
	fmt.Fprintf(w, row, "NODE", "RESTARTED IN", "REQUESTS MEANWHILE", "FAILED")
	for i, n := range d.nodes {
		begin := time.Now()
		doneBefore, failedBefore := load.totals()
		if err := n.restart(ctx, d.failed); err != nil {
			return err
		}
		if err := d.balancer.awaitReady(ctx, i); err != nil {
			return err
		}
		done, failed := load.totals()
		fmt.Fprintf(w, row, n.name, fmt.Sprintf("%.1f s", time.Since(begin).Seconds()), strconv.FormatInt(done-doneBefore, 10), strconv.FormatInt(failed-failedBefore, 10))
	}
	return nil
}

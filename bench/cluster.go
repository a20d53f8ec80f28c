package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"piko/client"
)

// Cluster is new endpoints, one after the other, that shall be reachable through
// every node.
type Cluster struct {
	Client *client.Client
	// URLs are the proxy ports of the nodes.
	URLs []string
	// TLS is for URLs of https; nil trusts the system's authorities.
	TLS       *tls.Config
	Endpoints int
	// Pause is the time between the end of one and the beginning of the next.
	Pause time.Duration
	// Timeout bounds the time until an endpoint is reachable through a node.
	Timeout   time.Duration
	Processes []Process
	Logger    *slog.Logger
}

// ClusterResult is what became of it.
type ClusterResult struct {
	Endpoints int `json:"endpoints"`
	// Nodes are in the order of the URLs: how long it took from when the tunnel
	// was open until a request through the node was answered.
	Nodes     []ClusterNode `json:"nodes"`
	Processes []Spent       `json:"processes,omitempty"`
}

// ClusterNode is what was seen through one of them.
type ClusterNode struct {
	URL         string  `json:"url"`
	Unreachable int     `json:"unreachable"` // endpoints that were not within the time
	Latency     Latency `json:"latency_ms"`
}

// Run registers the endpoints.
func (b Cluster) Run(ctx context.Context) (*ClusterResult, error) {
	c := *b.Client
	c.Connections = 1
	before, err := usageOf(b.Processes)
	if err != nil {
		return nil, err
	}
	nodes := make([]clusterNode, len(b.URLs))
	for i, u := range b.URLs {
		h := HTTP{URL: u, ConnectTimeout: b.Timeout, TLS: b.TLS}
		nodes[i].client = h.Target("").Client().(*httpClient)
		defer nodes[i].client.Close()
	}
	run := strings.ToLower(time.Now().UTC().Format("150405.000")) // each run's endpoints are new
	for i := range b.Endpoints {
		if err := b.one(ctx, &c, nodes, fmt.Sprintf("bench-%s-%d", strings.ReplaceAll(run, ".", "-"), i)); err != nil {
			return nil, err
		}
		if !sleepUntil(ctx, time.Now().Add(b.Pause)) {
			return nil, context.Cause(ctx)
		}
	}
	after, err := usageOf(b.Processes)
	if err != nil {
		return nil, err
	}
	r := &ClusterResult{Endpoints: b.Endpoints, Processes: spent(before, after)}
	for i := range nodes {
		r.Nodes = append(r.Nodes, ClusterNode{URL: b.URLs[i], Unreachable: nodes[i].unreachable, Latency: latencyOf(&nodes[i].hist)})
	}
	return r, nil
}

// clusterNode is a node, for one goroutine at a time.
type clusterNode struct {
	client      *httpClient
	hist        histogram
	unreachable int
	err         error // the last that was no refusal
}

// one registers an endpoint and asks all nodes for it at once.
func (b Cluster) one(ctx context.Context, c *client.Client, nodes []clusterNode, endpoint string) error {
	limit, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	services := NewServices(KindHTTP, b.Logger)
	defer services.Stop()
	if err := services.Upstreams(limit, c, 1, func(int) string { return endpoint }); err != nil {
		return err
	}
	registered := time.Now()
	var asking sync.WaitGroup
	for i := range nodes {
		n := &nodes[i]
		asking.Go(func() {
			if err := n.await(limit, endpoint); err != nil {
				n.unreachable++
				n.err = err
				return
			}
			n.hist.add(time.Since(registered))
		})
	}
	asking.Wait()
	for i := range nodes {
		if n := &nodes[i]; n.unreachable > 0 && n.hist.count() == 0 {
			return fmt.Errorf("reach %s through %s: %w", endpoint, b.URLs[i], n.err) // it is no node of that cluster
		}
	}
	return ctx.Err()
}

// askPause is between two questions for the same endpoint: a finer measure would
// load the node that is measured.
const askPause = time.Millisecond

func (n *clusterNode) await(ctx context.Context, endpoint string) error {
	return await(ctx, askPause, func() error { return n.client.exchange(ctx, endpoint, nil) })
}

// Failed is how many endpoints could not be reached through a node.
func (r *ClusterResult) Failed() (n int) {
	for _, node := range r.Nodes {
		n += node.Unreachable
	}
	return n
}

// Write prints r for a person.
func (r *ClusterResult) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Endpoints\t%d registered, one after the other\n", r.Endpoints)
	for _, n := range r.Nodes {
		fmt.Fprintf(t, "Reachable\tthrough %s: %v", n.URL, n.Latency)
		if n.Unreachable > 0 {
			fmt.Fprintf(t, "; %d not at all", n.Unreachable)
		}
		fmt.Fprintln(t)
	}
	writeProcesses(t, r.Processes)
	return t.Flush()
}

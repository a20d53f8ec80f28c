package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"piko/client"
	"piko/router"
)

// BenchmarkNewEndpoint registers endpoints at one of three nodes and measures how long it takes from the return of Listen
// until both others know where it is; then a request through each of them must be answered. The nodes are those of main,
// in one process, without a secret; with so many endpoints on each before.
func BenchmarkNewEndpoint(b *testing.B) {
	for _, before := range []int{0, 100_000} {
		b.Run(fmt.Sprint(before), func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			var running sync.WaitGroup
			defer running.Wait()
			defer cancel()
			var nodes []*server
			for range 3 {
				cfg := loopbackServerConfig()
				cfg.Proxy.AccessLog.Disable = true
				if len(nodes) > 0 {
					cfg.Cluster.Join = []joinAddr{joinAddr(nodes[0].GossipAddr())}
				}
				n, err := newServer(cfg, slog.New(slog.DiscardHandler))
				if err != nil {
					b.Fatal(err)
				}
				running.Go(func() { n.Run(ctx) })
				<-n.Ready()
				nodes = append(nodes, n)
			}
			for i, n := range nodes {
				for e := range before {
					n.table.Add(fmt.Sprintf("node-%d-endpoint-%d", i, e), router.NewLocal(nil))
				}
			}
			for _, n := range nodes {
				for j := range nodes {
					for before > 0 && n.table.Lookup(fmt.Sprintf("node-%d-endpoint-%d", j, before-1)) == nil {
						pause(ctx, time.Millisecond)
					}
				}
			}
			sdk := &client.Client{URL: "http://" + nodes[0].UpstreamAddr().String(), Connections: 1}
			var took []time.Duration
			for i := range b.N {
				ln, d := registerOne(b, ctx, sdk, nodes[1:], fmt.Sprintf("new-%d", i))
				defer ln.Close()
				took = append(took, d)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-median")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
		})
	}
}

func registerOne(b *testing.B, ctx context.Context, sdk *client.Client, others []*server, endpoint string) (*client.Listener, time.Duration) {
	ln, err := sdk.Listen(ctx, endpoint)
	if err != nil {
		b.Fatal(err)
	}
	registered := time.Now()
	go http.Serve(ln, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, n := range others {
		for n.table.Lookup(endpoint) == nil {
			runtime.Gosched()
		}
	}
	took := time.Since(registered)
	for _, n := range others {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.ProxyAddr().String()+"/", nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("x-piko-endpoint", endpoint)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			b.Fatalf("through %s: %d", n.id, res.StatusCode)
		}
	}
	pause(ctx, 30*time.Millisecond) // changes that follow each other closely are told together
	return ln, took
}

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// The load under which the demo restarts its nodes.
const (
	loadPause   = 20 * time.Millisecond // of each worker between two requests
	loadTimeout = 10 * time.Second      // of one request
	loadRounds  = 10                    // messages of a WebSocket, events of a stream: one each demoInterval
)

// demoLoad sends requests of several kinds through the balancer until it is
// stopped, and counts what came of them.
type demoLoad struct {
	kinds   []*loadKind
	stop    chan struct{} // closed by end
	workers sync.WaitGroup
}

// loadKind is one kind of request, sent by some workers, one after the other.
type loadKind struct {
	// Static after construction.
	what    string
	workers int
	do      func(context.Context, *demoClient) (string, error)
	reuse   bool // connections

	done, failed atomic.Int64
	slowest      atomic.Int64           // in nanoseconds
	first        atomic.Pointer[string] // failure
}

// startLoad begins to send requests to the proxy port at addr.
func startLoad(ctx context.Context, addr string) *demoLoad {
	l := &demoLoad{stop: make(chan struct{}), kinds: []*loadKind{
		{what: "GET", workers: 3, do: asStep((*demoClient).get), reuse: true},
		{what: "GET, each on a connection of its own", workers: 2, do: asStep((*demoClient).get)},
		{what: "POST", workers: 3, do: asStep((*demoClient).post), reuse: true},
		{what: "server-sent events for a second", workers: 1, do: func(ctx context.Context, c *demoClient) (string, error) { return c.events(ctx, loadRounds) }, reuse: true},
		{what: "WebSocket for a second", workers: 1, do: func(ctx context.Context, c *demoClient) (string, error) { return c.websocket(ctx, loadRounds) }},
	}}
	for _, k := range l.kinds {
		for range k.workers {
			l.workers.Go(func() { k.work(ctx, addr, l.stop) })
		}
	}
	return l
}

func asStep(do func(*demoClient, context.Context) (string, error)) func(context.Context, *demoClient) (string, error) {
	return func(ctx context.Context, c *demoClient) (string, error) { return do(c, ctx) }
}

// work sends one request after the other until stop, and ends the last in peace.
func (k *loadKind) work(ctx context.Context, addr string, stop <-chan struct{}) {
	c := &demoClient{proxy: addr, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: !k.reuse}}}
	defer c.http.CloseIdleConnections()
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(loadPause):
		}
		one, cancel := context.WithTimeout(ctx, loadTimeout)
		begin := time.Now()
		_, err := k.do(one, c)
		cancel()
		k.count(time.Since(begin), err)
	}
}

func (k *loadKind) count(took time.Duration, err error) {
	k.done.Add(1)
	for old := k.slowest.Load(); int64(took) > old && !k.slowest.CompareAndSwap(old, int64(took)); old = k.slowest.Load() {
	}
	if err != nil {
		text := err.Error()
		k.first.CompareAndSwap(nil, &text)
		k.failed.Add(1)
	}
}

// totals are the requests until now, and how many of them failed.
func (l *demoLoad) totals() (done, failed int64) {
	for _, k := range l.kinds {
		done += k.done.Load()
		failed += k.failed.Load()
	}
	return done, failed
}

// end stops the load and waits until its last requests are answered.
func (l *demoLoad) end() {
	close(l.stop)
	l.workers.Wait()
}

// report prints what came of the requests, by kind.
func (l *demoLoad) report(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "  UNDER LOAD\tREQUESTS\tSLOWEST\tFAILED\n")
	for _, k := range l.kinds {
		fmt.Fprintf(t, "  %s\t%d\t%.0f ms\t%d", k.what, k.done.Load(), float64(k.slowest.Load())/1e6, k.failed.Load())
		if first := k.first.Load(); first != nil {
			fmt.Fprintf(t, ", first: %s", *first)
		}
		fmt.Fprintln(t)
	}
}

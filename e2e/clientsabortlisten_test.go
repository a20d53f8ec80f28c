//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "piko/client"
)

// TestClientLeavesListener is the same with a program that listens by itself, as this one.
func TestClientLeavesListener(t *testing.T) {
	for i, name := range []string{"one node", "two nodes"} {
		t.Run(name, func(t *testing.T) {
			s := &leftService{}
			w := startWay(t, i+1, "--proxy.access-log.disable")
			l := &leaver{w: w, service: s, h2: h2cClient(t), forward: w.forward(t, "tcp").addr}
			goroutines := w.listen(t, s)
			for _, k := range append(leavings, leaving{"TCP", leaveTCP}) {
				t.Run(k.name, func(t *testing.T) { l.check(t, k, goroutines) })
			}
		})
	}
}

// listen serves HTTP and TCP over tunnels of this process, and returns what counts the
// goroutines that come of it.
func (w *way) listen(t testing.TB, s *leftService) (goroutines func() (int, error)) {
	t.Helper()
	label := t.Name()
	var wg sync.WaitGroup
	pprof.Do(t.Context(), pprof.Labels("listener", label), func(ctx context.Context) {
		c := &sdk.Client{URL: "http://" + w.owner.upstream, Connections: 1, HTTP2: true}
		web := listenOn(t, c, "http")
		srv := &http.Server{Handler: s, Protocols: bothVersions()}
		wg.Go(func() { srv.Serve(web) })
		tcp := listenOn(t, &sdk.Client{URL: c.URL, Connections: 1, Protocol: "tcp"}, "tcp")
		wg.Go(func() { s.accept(tcp) })
		t.Cleanup(func() {
			srv.Close()
			web.Close()
			tcp.Close()
			wg.Wait()
		})
	})
	w.waitKnown(t, "http")
	w.waitKnown(t, "tcp")
	return func() (int, error) { return goroutinesOf(label) }
}

func listenOn(t testing.TB, c *sdk.Client, endpoint string) *sdk.Listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	l, err := c.Listen(ctx, endpoint)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return l
}

// goroutinesOf counts the goroutines of this process that have a label, which they inherit.
func goroutinesOf(label string) (n int, err error) {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return 0, err
	}
	_, stacks, _ := strings.Cut(profile.String(), "\n")
	for stack := range strings.SplitSeq(stacks, "\n\n") {
		if !strings.Contains(stack, `"listener":"`+label+`"`) {
			continue
		}
		var same int
		if _, err := fmt.Sscanf(strings.TrimSpace(stack), "%d @", &same); err != nil {
			return 0, fmt.Errorf("read profile: %w: %.100s", err, stack)
		}
		n += same
	}
	return n, nil
}

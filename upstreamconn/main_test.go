package upstreamconn

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"piko/client"
	"piko/router"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(agentsAddrVariable); addr != "" {
		benchmarkAgents(addr)
		return
	}
	goleak.VerifyTestMain(m)
}

// eventually calls check until it returns nil, and fails with its last error
// after 20 s.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	within(t, 20*time.Second, check)
}

// within calls check until it returns nil, and fails with its last error after limit.
func within(t testing.TB, limit time.Duration, check func() error) {
	t.Helper()
	timeout := time.After(limit)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("after %v: %v", limit, err)
		}
	}
}

// node is a server of tunnels on a port of its own.
type node struct {
	*Server
	url string
	log *lines
}

// startNode runs a node until the test ends. set, if not nil, changes its
// fields before.
func startNode(t testing.TB, set func(*Server)) *node {
	t.Helper()
	n := &node{log: &lines{}}
	table := router.NewTable()
	n.Server = &Server{
		NodeID: "node-" + fmt.Sprint(time.Now().UnixNano()),
		Table:  table,
		Logger: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if set != nil {
		set(n.Server)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.url = "http://" + ln.Addr().String()
	srv := &http.Server{Handler: n.Handler(), ReadHeaderTimeout: 10 * time.Second}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	wg.Go(func() { n.Run(ctx) })
	t.Cleanup(func() {
		srv.Close()
		n.Close(context.Background())
		cancel()
		wg.Wait()
		if err := table.ConsistencyCheck(); err != nil {
			t.Error(err)
		}
		if left := n.Tunnels(); left != 0 {
			t.Errorf("%d tunnels are left", left)
		}
	})
	return n
}

// lines is a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// with returns the lines that contain all of the words.
func (l *lines) with(words ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		ok := true
		for _, w := range words {
			ok = ok && strings.Contains(line, w)
		}
		if ok {
			found = append(found, line)
		}
	}
	return found
}

// agent is an upstream of ours that serves HTTP.
type agent struct {
	*client.Listener
	srv *http.Server
}

// startAgent connects an agent to the URL; it serves until the test ends.
func startAgent(t testing.TB, url, endpoint string, h http.Handler) *agent {
	t.Helper()
	return startAgentFor(t, url, endpoint, "http", h)
}

// startAgentFor is startAgent with what the agent says that its endpoint speaks.
func startAgentFor(t testing.TB, url, endpoint, protocol string, h http.Handler) *agent {
	t.Helper()
	ln, err := (&client.Client{URL: url, Protocol: protocol}).Listen(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{Listener: ln, srv: &http.Server{Handler: h}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.srv.Serve(ln)
	}()
	t.Cleanup(func() {
		ln.Close()
		a.srv.Close()
		<-done
	})
	return a
}

// echo answers with the body it got. (It reads all of it first: net/http ends
// a request's body with the first flush of the answer.)
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Write(b)
})

// upstreams waits until the endpoint has n upstreams, and returns them.
func (n *node) waitFor(t testing.TB, endpoint string, want int) []*router.Local {
	t.Helper()
	var locals []*router.Local
	eventually(t, func() error {
		if route := n.Table.Lookup(endpoint); route != nil {
			locals = route.Locals
		} else {
			locals = nil
		}
		if len(locals) != want {
			return fmt.Errorf("endpoint %s has %d upstreams, want %d", endpoint, len(locals), want)
		}
		return nil
	})
	return locals
}

// do sends a request to an upstream, and returns its body.
func do(u router.Upstream, method, body string) (string, error) {
	req, err := http.NewRequest(method, "http://endpoint.example.com/path", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	res, err := u.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

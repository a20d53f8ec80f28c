//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestServiceThatDiesBehindOneOfTwoAgents stops one of two services and wants every POST to
// get an answer once the agent knows, and the service to get requests when it is back.
func TestServiceThatDiesBehindOneOfTwoAgents(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	steady := startOrigin(t, "steady")
	mortal := startDier(t)
	s.agent(t, "e", steady.addr)
	// The kernel answers this kind of check, however busy the machine is.
	other := s.agent(t, "e", mortal.addr, "--health-check.type", "tcp", "--health-check.interval", "500ms", "--health-check.fall", "1")
	post := func(int) exchange {
		<-time.After(20 * time.Millisecond)
		return exchange{method: http.MethodPost, target: "/", body: []byte("x")}
	}
	before := startLoad(s, "e", 2, post)
	before.waitMore(t, 40)
	before.end(t)
	if before.by["steady"] == 0 || before.by["mortal"] == 0 {
		t.Errorf("before, requests went to %v", before.by)
	}

	mortal.stop()
	other.waitLog(t, "that its service is not healthy", "service unhealthy")
	s.waitLog(t, "that it was told", "its service is not healthy")
	during := startLoad(s, "e", 4, post)
	during.waitMore(t, 200)
	during.end(t)

	mortal.start()
	after := startLoad(s, "e", 2, post)
	eventually(t, 20*time.Second, "the service is back", func() error {
		after.mu.Lock()
		defer after.mu.Unlock()
		if after.by["mortal"] == 0 {
			return fmt.Errorf("requests went to %v", after.by)
		}
		return nil
	})
	after.end(t)
	other.waitLog(t, "that its service is back", "service healthy")
	for _, text := range []string{"service unhealthy", "service healthy"} {
		if got := other.grep(text); len(got) != 1 {
			t.Errorf("the agent logs %q %d times: %q", text, len(got), got)
		}
	}
}

// dier is a service on a port of its own that can be stopped and started.
type dier struct {
	t    testing.TB
	addr string
	srv  *http.Server
	done chan struct{}
}

func startDier(t testing.TB) *dier {
	t.Helper()
	d := &dier{t: t, addr: freeAddr(t)}
	d.start()
	t.Cleanup(d.stop)
	return d
}

func (d *dier) start() {
	d.t.Helper()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "mortal") })}
	ln, err := net.Listen("tcp", d.addr)
	if err != nil {
		d.t.Fatalf("start the service: %v", err)
	}
	d.srv, d.done = srv, make(chan struct{})
	go func() {
		defer close(d.done)
		_ = srv.Serve(ln) // until it is stopped
	}()
}

func (d *dier) stop() {
	_ = d.srv.Close()
	<-d.done
}

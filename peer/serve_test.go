package peer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"piko/relay"
	"piko/tunnel"
)

func TestCallerThatGivesUpCancelsTheFarHandler(t *testing.T) {
	var g gossip
	arrived, cancelled := make(chan struct{}, 1), make(chan struct{})
	a := g.start(t, "a", false, nil)
	b := g.start(t, "b", false, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write([]byte("begun"))
		http.NewResponseController(w).Flush()
		arrived <- struct{}{}
		<-r.Context().Done()
		close(cancelled)
	})
	l, _ := connect(t, a, b)
	ctx, cancel := context.WithCancel(t.Context())
	res, err := l.RoundTrip(request(t, "POST", "/").WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	<-arrived
	cancel()
	select {
	case <-cancelled:
	case <-time.After(5 * time.Second):
		t.Error("the far handler goes on")
	}
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the answer looks complete")
	}
	if sessions, _ := l.Stats(); sessions != 1 {
		t.Errorf("%d sessions, want the one that there was", sessions)
	}
}

func TestHandlersThatPanicHarmNobodyElse(t *testing.T) {
	var g gossip
	a := g.start(t, "a", false, nil)
	b := g.start(t, "b", false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/panic":
			panic("on purpose")
		case "/abort":
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("half"))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	l, _ := connect(t, a, b)
	for range 10 {
		if res, err := l.RoundTrip(request(t, "GET", "/panic")); err == nil {
			t.Errorf("a panic was answered with %d", res.StatusCode)
		} else if relay.NeverExecuted(err) {
			t.Errorf("a panic counts as never executed: %v", err)
		}
		if res, err := l.RoundTrip(request(t, "GET", "/abort")); err == nil {
			if _, err := io.ReadAll(res.Body); err == nil {
				t.Error("an answer that was aborted looks complete")
			}
		}
		if res, err := l.RoundTrip(request(t, "GET", "/")); err != nil || res.StatusCode != 200 {
			t.Errorf("another request: %v, %v", res, err)
		}
	}
}

func TestRequestsArriveAsTheyWereSent(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		a := g.start(t, "a", secure, nil)
		b := g.start(t, "b", secure, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			fmt.Fprintf(w, "%s %s %s %d", r.Method, r.RequestURI, r.Host, len(r.Header.Get("X-Long")))
			w.Header().Set("X-Sum", "yes")
		})
		l, _ := connect(t, a, b)
		for _, c := range []struct {
			method, target string
			long           int
			want           string
		}{
			{"OPTIONS", "*", 0, "OPTIONS * e.example.com 0"},
			{"GET", "/a%2Fb/../c?x=;y&%zz", 0, "GET /a%2Fb/../c?x=;y&%zz e.example.com 0"},
			{"DELETE", "/x", 1 << 20, "DELETE /x e.example.com 1048576"},
			{"GET", "/y", 2 << 20, "GET /y e.example.com 2097152"},
		} {
			req := request(t, c.method, "/")
			req.URL.Opaque = c.target
			if c.long > 0 {
				req.Header.Set("X-Long", strings.Repeat("x", c.long))
			}
			res, err := l.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || string(body) != c.want || res.Trailer.Get("X-Sum") != "yes" {
				t.Errorf("%s %s: %q, trailer %v, %v", c.method, c.target, body, res.Trailer, err)
			}
		}
	})
}

func TestLargeBodiesCross(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		a, b := g.start(t, "a", secure, nil), g.start(t, "b", secure, echo)
		l, _ := connect(t, a, b)
		body := bytes.Repeat([]byte("0123456789abcdef"), 512<<10) // 8 MiB
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://e.example.com/", bytes.NewReader(body))
		res, err := l.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
	})
}

func TestGarbageAfterTheProofEndsThatSessionAlone(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		a, b := g.start(t, "a", secure, nil), g.start(t, "b", secure, nil)
		l, up := connect(t, a, b)
		conn, err := a.dial(t.Context(), &b.node)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		conn.Write(bytes.Repeat([]byte("garbage"), 100))
		if _, err := io.ReadAll(conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("the session goes on: %v", err)
		}
		eventually(t, func() error {
			if n := b.inSessions(); n != 1 {
				return fmt.Errorf("%d sessions", n)
			}
			return nil
		})
		if res, err := l.RoundTrip(request(t, "GET", "/")); err != nil || res.StatusCode != 200 {
			t.Errorf("the other session: %v, %v", res, err)
		}
		if _, changes := up.now(); changes != 2 {
			t.Errorf("reachable changed %d times", changes)
		}
	})
}

func TestSessionsOfOneCallerAreBounded(t *testing.T) {
	var g gossip
	a, b := g.start(t, "a", false, nil), g.start(t, "b", false, nil)
	var sessions []*tunnel.Session
	for range maxInbound + 5 {
		conn, err := a.dial(t.Context(), &b.node)
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, tunnel.NewPeerSession(conn, true, tunnel.Options{}))
	}
	open := 0
	eventually(t, func() error {
		open = 0
		for _, s := range sessions {
			if s.Err() == nil {
				open++
			}
		}
		if open != maxInbound || b.inSessions() != maxInbound {
			return fmt.Errorf("%d sessions are open, %d there; want %d", open, b.inSessions(), maxInbound)
		}
		return nil
	})
	for _, s := range sessions {
		s.Close()
	}
}

func TestCloseEndsEverythingAndMayComeBeforeRun(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		arrived := make(chan struct{}, 2)
		a, b := g.start(t, "a", secure, hang(arrived)), g.start(t, "b", secure, hang(arrived))
		ab, _ := connect(t, a, b)
		ba, _ := connect(t, b, a)
		first, second := inFlight(t, ab, arrived), inFlight(t, ba, arrived)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		b.Close(ctx)
		b.Close(ctx)
		if ctx.Err() != nil {
			t.Error("Close waited for too long")
		}
		if <-first == nil || <-second == nil {
			t.Error("a request outlived the node")
		}
		if b.inSessions()+b.outSessions() != 0 {
			t.Error("sessions are left")
		}
		if _, err := a.dial(ctx, &b.node); err == nil || dialResult(err) != "draining" {
			t.Errorf("a closed node was dialled: %v", err)
		}
		late := b.Connect(a.node, func(bool) { t.Error("reachable was called after Close") })
		if _, err := late.RoundTrip(request(t, "GET", "/")); !relay.NeverExecuted(err) {
			t.Errorf("a link of a closed node: %v", err)
		}
	})
	p, err := New(Options{Epoch: "x-1", Lookup: func(string) (Node, bool) { return Node{}, false }, Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	p.Close(canceled(t))
	if err := p.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestOptionsAreChecked(t *testing.T) {
	lookup := func(string) (Node, bool) { return Node{}, false }
	for name, opt := range map[string]Options{
		"no epoch":   {Lookup: lookup, Handler: http.NotFoundHandler()},
		"bad epoch":  {Epoch: "a b", Lookup: lookup, Handler: http.NotFoundHandler()},
		"no lookup":  {Epoch: "a", Handler: http.NotFoundHandler()},
		"no handler": {Epoch: "a", Lookup: lookup},
	} {
		if _, err := New(opt); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, ok := CallerOf(t.Context()); ok {
		t.Error("a request of nobody has a caller")
	}
}

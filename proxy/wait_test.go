package proxy

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
	"piko/router"
)

// roundTripper is a router.Upstream in memory: what a link does, without connections.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, header ...string) roundTripper {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{"Content-Length": {"0"}}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: http.NoBody, Request: r}, nil
	}
}

var miss = answer(421, headerMiss, string(missNoUpstream))

// node is one with a link in memory.
func node(id string, link roundTripper) *router.Node {
	return router.NewNode(id, func(endpoint string) router.Upstream { return NewRemote(link, endpoint) })
}

// inBubble runs a test in virtual time. Alarms are pooled, and may not cross into it.
func inBubble(t *testing.T, name string, f func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration))) {
	t.Run(name, func(t *testing.T) {
		runtime.GC()
		runtime.GC()
		synctest.Test(t, func(t *testing.T) {
			table := router.NewTable()
			p, err := NewPublic(Options{Lookup: table.Lookup, Timeout: 100 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			f(t, table, func(ctx context.Context, method string) (status int, d time.Duration) {
				start := time.Now()
				r := httptest.NewRequestWithContext(ctx, method, "http://e.x/", strings.NewReader("body"))
				if method == http.MethodGet {
					r.Body = http.NoBody
				}
				w := httptest.NewRecorder()
				defer func() {
					if recover() != nil {
						status = statusClientGone
					}
					d = time.Since(start)
				}()
				p.ServeHTTP(w, r)
				return w.Code, 0
			})
		})
		runtime.GC()
		runtime.GC()
	})
}

// A request that nobody has executed waits for a candidate, for a second at most.
func TestWaitForCandidate(t *testing.T) {
	t.Parallel()
	inBubble(t, "nobody was ever there", func(t *testing.T, _ *router.Table, ask func(context.Context, string) (int, time.Duration)) {
		if status, d := ask(t.Context(), "GET"); status != 502 || d != 0 {
			t.Errorf("got %d after %v", status, d)
		}
	})
	for _, method := range []string{"GET", "POST"} {
		inBubble(t, "nobody comes "+method, func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
			table.SetNode(node("n", miss), map[string]int{"e": 100})
			if status, d := ask(t.Context(), method); status != 502 || d < waitTime || d > waitTime+2*waitPoll {
				t.Errorf("got %d after %v", status, d)
			}
		})
		inBubble(t, "another node comes up "+method, func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
			table.SetNode(node("n", miss), map[string]int{"e": 100})
			time.AfterFunc(700*time.Millisecond, func() { table.SetNode(node("m", answer(200)), map[string]int{"e": 100}) })
			if status, d := ask(t.Context(), method); status != 200 || d > 700*time.Millisecond+2*waitPoll {
				t.Errorf("got %d after %v", status, d)
			}
		})
		inBubble(t, "a local upstream comes up "+method, func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
			table.SetNode(node("n", miss), map[string]int{"e": 100})
			time.AfterFunc(500*time.Millisecond, func() {
				table.Add("e", router.NewLocal(NewRemote(answer(204), "e")))
			})
			if status, d := ask(t.Context(), method); status != 204 || d > 500*time.Millisecond+2*waitPoll {
				t.Errorf("got %d after %v", status, d)
			}
		})
		inBubble(t, "two come up that have nothing "+method, func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
			table.SetNode(node("n", miss), map[string]int{"e": 100})
			for i := range 2 {
				time.AfterFunc(time.Duration(i+1)*300*time.Millisecond, func() {
					table.SetNode(node(string(rune('a'+i)), miss), map[string]int{"e": 100})
				})
			}
			if status, d := ask(t.Context(), method); status != 502 || d > waitTime+2*waitPoll {
				t.Errorf("got %d after %v", status, d)
			}
		})
		inBubble(t, "all nodes are gone "+method, func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
			n := node("n", answer(200))
			table.SetNode(n, map[string]int{"e": 100})
			n.SetAlive(false)
			time.AfterFunc(400*time.Millisecond, func() { n.SetAlive(true) })
			if status, d := ask(t.Context(), method); status != 200 || d > 400*time.Millisecond+2*waitPoll {
				t.Errorf("got %d after %v", status, d)
			}
		})
	}
	inBubble(t, "the client leaves", func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
		table.SetNode(node("n", miss), map[string]int{"e": 100})
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if status, d := ask(ctx, "GET"); status != statusClientGone || d > 200*time.Millisecond {
			t.Errorf("got %d after %v", status, d)
		}
	})
	inBubble(t, "may have been executed", func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
		table.SetNode(node("n", func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }), map[string]int{"e": 100})
		if status, d := ask(t.Context(), "POST"); status != 502 || d != 0 {
			t.Errorf("POST: got %d after %v", status, d)
		}
		time.AfterFunc(300*time.Millisecond, func() { table.SetNode(node("m", answer(200)), map[string]int{"e": 100}) })
		if status, d := ask(t.Context(), "GET"); status != 200 || d > 300*time.Millisecond+2*waitPoll {
			t.Errorf("GET: got %d after %v", status, d)
		}
	})
	inBubble(t, "the connection to the node breaks", func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
		var n *router.Node
		asked, broken := 0, true
		n = node("n", func(r *http.Request) (*http.Response, error) {
			asked++
			if !broken {
				return answer(200)(r)
			}
			time.AfterFunc(time.Millisecond, func() { n.SetAlive(false) })
			time.AfterFunc(300*time.Millisecond, func() { broken = false; n.SetAlive(true) })
			return nil, io.ErrUnexpectedEOF
		})
		table.SetNode(n, map[string]int{"e": 100})
		if status, d := ask(t.Context(), "GET"); status != 200 || d < 300*time.Millisecond || d > 300*time.Millisecond+2*waitPoll || asked != 2 {
			t.Errorf("got %d after %v, asked %d times", status, d, asked)
		}
	})
	for name, err := range map[string]error{"one of several connections breaks": io.ErrUnexpectedEOF, "the connection is made anew at once": unsentError{}} {
		inBubble(t, name, func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
			asked := 0
			table.SetNode(node("n", func(r *http.Request) (*http.Response, error) {
				if asked++; asked == 1 {
					return nil, err // the node is not seen to be unreachable
				}
				return answer(200)(r)
			}), map[string]int{"e": 100})
			if status, d := ask(t.Context(), "GET"); status != 200 || d > 2*waitPoll || asked != 2 {
				t.Errorf("got %d after %v, asked %d times", status, d, asked)
			}
		})
	}
	inBubble(t, "every connection to the node breaks", func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
		asked := 0
		table.SetNode(node("n", func(r *http.Request) (*http.Response, error) { asked++; return nil, io.ErrUnexpectedEOF }), map[string]int{"e": 100})
		if status, d := ask(t.Context(), "GET"); status != 502 || d > waitTime+2*waitPoll || asked != 2 {
			t.Errorf("GET: got %d after %v, asked %d times", status, d, asked)
		}
		if status, d := ask(t.Context(), "POST"); status != 502 || d != 0 || asked != 3 {
			t.Errorf("POST, which may have been executed: got %d after %v, asked %d times", status, d, asked)
		}
	})
	inBubble(t, "a local one leaves for another node", func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
		leaving := func(*http.Request) (*http.Response, error) { return nil, leavingError{} }
		defer table.Add("e", router.NewLocal(NewRemote(roundTripper(leaving), "e")))()
		time.AfterFunc(300*time.Millisecond, func() { table.SetNode(node("m", answer(200)), map[string]int{"e": 100}) })
		if status, d := ask(t.Context(), "POST"); status != 200 || d > 300*time.Millisecond+2*waitPoll {
			t.Errorf("got %d after %v", status, d)
		}
	})
	inBubble(t, "the upstream comes back to the node that missed", func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
		back := false
		n := node("n", func(r *http.Request) (*http.Response, error) {
			if back {
				return answer(200)(r)
			}
			return miss(r)
		})
		table.SetNode(n, map[string]int{"e": 100})
		time.AfterFunc(300*time.Millisecond, func() {
			back = true
			table.PatchNode(n, map[string]int{"e": 100})
		})
		if status, d := ask(t.Context(), "POST"); status != 200 || d > 300*time.Millisecond+2*waitPoll {
			t.Errorf("got %d after %v", status, d)
		}
	})
	inBubble(t, "too many wait", func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
		n := node("n", answer(200))
		table.SetNode(n, map[string]int{"e": 100})
		n.SetAlive(false)
		var wg sync.WaitGroup
		var mu sync.Mutex
		atOnce := 0
		for range maxWaiters + 10 {
			wg.Go(func() {
				if _, d := ask(t.Context(), "GET"); d == 0 {
					mu.Lock()
					atOnce++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if atOnce != 10 {
			t.Errorf("%d requests did not wait", atOnce)
		}
	})
}

// unsentError is that of a connection that broke before anything was sent.
type unsentError struct{}

func (unsentError) Error() string { return "connection lost" }
func (unsentError) Refused() bool { return true }

// leavingError is that of an upstream that opens no stream any more.
type leavingError struct{}

func (leavingError) Error() string        { return "leaving" }
func (leavingError) Refused() bool        { return true }
func (leavingError) Is(target error) bool { return target == error(fault.Draining) }

// A miss keeps requests away from the node, and is forgotten.
func TestMissIsRemembered(t *testing.T) {
	inBubble(t, "a miss", func(t *testing.T, table *router.Table, ask func(context.Context, string) (int, time.Duration)) {
		asked := 0
		table.SetNode(node("n", func(r *http.Request) (*http.Response, error) { asked++; return miss(r) }), map[string]int{"e": 100})
		table.SetNode(node("m", answer(200)), map[string]int{"e": 100})
		for range 100 {
			if status, d := ask(t.Context(), "POST"); status != 200 || d != 0 {
				t.Errorf("got %d after %v", status, d)
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}

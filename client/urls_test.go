package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
	"piko/tunnel"
)

// direct leads each URL to the node of that name.
func (c *fakeCluster) direct() *fakeCluster {
	c.route = func(url string, _ int) *fakeNode {
		i := slices.IndexFunc(c.nodes, func(n *fakeNode) bool { return url == "http://"+n.id })
		if i < 0 {
			return nil
		}
		return c.nodes[i]
	}
	return c
}

func TestURLsOfNodes(t *testing.T) {
	f := newFakeCluster("a", "b", "c").direct()
	f.inBubble(t, Client{URL: "http://a", URLs: []string{"http://b", "http://c"}}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Second)
		f.wantOpen(t, "at first", "a", "b")
		time.Sleep(time.Hour)
		if n := f.attempts(); n != 2 {
			t.Errorf("%d attempts", n)
		}
		f.do(func() { f.nodes[1].draining = true })
		f.nodes[1].kill()
		time.Sleep(time.Second)
		f.wantOpen(t, "the third takes the place of one that is lost", "a", "c")
	})
}

// One load balancer by two names: as if it were one.
func TestURLsOfOneCluster(t *testing.T) {
	t.Run("that refuses", func(t *testing.T) { urlsOfOneCluster(t, false) })
	t.Run("of before", func(t *testing.T) { urlsOfOneCluster(t, true) })
}

func urlsOfOneCluster(t *testing.T, old bool) {
	f := newFakeCluster("a").ofOld(old)
	f.inBubble(t, Client{URLs: []string{"http://x", "http://y"}}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Hour)
		f.wantOpen(t, "one node", "a")
		if n := f.attempts(); n != 2 {
			t.Errorf("%d attempts", n)
		}
	})
	f = newFakeCluster("a", "b", "c").ofOld(old)
	f.inBubble(t, Client{URLs: []string{"http://x", "http://y"}, Connections: 4}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		f.wantOpen(t, "three nodes", "a", "b", "c")
		n := f.attempts()
		time.Sleep(time.Hour)
		if n = f.attempts() - n; n > 1 {
			t.Errorf("%d attempts for a fourth node", n)
		}
	})
}

// A move from v0.9.0, which does not say who it is, to a cluster: as long as
// both are there, both serve the endpoint.
func TestURLsOfTwoClusters(t *testing.T) {
	f := newFakeCluster("", "a", "b", "c")
	f.resizeSilently(3)
	f.nodes[0].size = 0
	turn := 0
	f.route = func(url string, _ int) *fakeNode {
		if url == "http://old" {
			return f.nodes[0]
		}
		turn++
		return f.nodes[1+turn%3]
	}
	old := func() (n int) {
		for _, id := range f.open() {
			if id == "" {
				n++
			}
		}
		return n
	}
	f.inBubble(t, Client{URLs: []string{"http://new", "http://old"}}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		if open := f.open(); len(open) != 2 || old() != 1 {
			t.Errorf("tunnels at %q", open)
		}
		n := f.attempts()
		time.Sleep(time.Hour)
		if f.attempts() != n {
			t.Errorf("%d more attempts", f.attempts()-n)
		}

		f.do(func() { f.nodes[0].hangs = true })
		f.nodes[0].kill()
		time.Sleep(time.Minute)
		if open := f.open(); len(open) != 2 || old() != 0 {
			t.Errorf("without the old server, tunnels at %q", open)
		}
		f.do(func() { f.nodes[0].hangs = false })
		time.Sleep(time.Minute)
		if open := f.open(); len(open) != 2 || old() != 1 {
			t.Errorf("with the old server again, tunnels at %q", open)
		}
	})
}

func TestURLsOfOldServers(t *testing.T) {
	f := newFakeCluster("")
	f.nodes[0].size = 0
	f.inBubble(t, Client{URLs: []string{"http://x", "http://y"}}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Hour)
		f.wantOpen(t, "two URLs", "", "")
		if n := f.attempts(); n != 2 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestURLThatAnswersNothing(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	route := f.route
	f.route = func(url string, attempt int) *fakeNode {
		if url == "http://none" {
			return nil
		}
		return route(url, attempt)
	}
	f.inBubble(t, Client{URLs: []string{"http://none", "http://lb"}}, func(t *testing.T, l *Listener) {
		time.Sleep(20 * time.Second)
		if open := f.open(); len(open) != 2 {
			t.Errorf("tunnels at %v", open)
		}
		n := f.attempts()
		time.Sleep(time.Hour)
		if n = f.attempts() - n; n > 1000 {
			t.Errorf("%d attempts in an hour", n)
		}
		f.do(func() { f.route = route })
		time.Sleep(time.Minute)
		if open := f.open(); len(open) != 2 {
			t.Errorf("tunnels at %v, once it answers", open)
		}
	})
}

// Whatever nodes do for a while: when they have calmed down, the listener has
// its tunnels, each at another node.
func TestChurnEndsWell(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			f := newFakeCluster([]string{"a", "b", "c", "d", "e"}[:1+r.IntN(5)]...).ofOld(seed%3 == 0)
			f.route = func(string, int) *fakeNode { return f.nodes[rand.IntN(len(f.nodes))] }
			client := Client{Connections: 1 + r.IntN(3)}
			f.inBubble(t, client, func(t *testing.T, l *Listener) {
				for range 100 {
					time.Sleep(time.Duration(r.ExpFloat64() * float64(2*time.Second)))
					f.disturb(r)
				}
				f.do(func() {
					for _, n := range f.nodes {
						n.draining, n.hangs = false, false
					}
				})
				f.resize(len(f.nodes))
				time.Sleep(3 * time.Minute)
				synctest.Wait()
				open := f.open()
				distinct := len(slices.Compact(slices.Clone(open)))
				if want := min(client.Connections, len(f.nodes)); len(open) != want || distinct != want || l.Tunnels() != want {
					t.Errorf("tunnels at %v, %d counted, want %d", open, l.Tunnels(), want)
				}
				n := f.attempts()
				time.Sleep(10 * time.Minute)
				if f.attempts() != n {
					t.Errorf("%d attempts though all is well", f.attempts()-n)
				}
			})
		})
	}
}

// disturb does something to one node, or to what all of them say.
func (c *fakeCluster) disturb(r *rand.Rand) {
	n := c.nodes[r.IntN(len(c.nodes))]
	switch r.IntN(8) {
	case 0:
		n.kill()
	case 1:
		n.ask(true, time.Duration(r.IntN(3000))*time.Millisecond)
	case 2:
		n.ask(false, time.Duration(r.IntN(3000))*time.Millisecond)
	case 3:
		n.kill()
		c.do(func() { n.draining = false })
	case 4:
		c.do(func() { n.hangs = !n.hangs })
	case 5, 6:
		c.resize(r.IntN(len(c.nodes) + 1))
	case 7:
		c.do(func() {
			for _, s := range n.live() {
				s.mute = true
			}
		})
	}
}

func TestFirstConnectWithSeveralURLs(t *testing.T) {
	bad := &fault.Refused{Status: 401, Code: fault.InvalidToken}
	for _, c := range []struct {
		name  string
		a, b  error
		final bool
	}{
		{"one works", bad, nil, false},
		{"all refuse", bad, bad, true},
		{"one refuses, one is not there", bad, io.EOF, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeCluster("a")
				l := f.listener(t, Client{URLs: []string{"http://a", "http://b", "http://a"}})
				defer l.Close()
				l.connect = func(ctx context.Context, d *tunnel.Dialer, endpoint string) (session, error) {
					if err := map[string]error{"http://a": c.a, "http://b": c.b}[d.URL]; err != nil {
						return nil, err
					}
					return f.connect(ctx, d, endpoint)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := l.start(ctx)
				if timeout := errors.Is(err, context.DeadlineExceeded); (err == nil) != (c.b == nil) || err != nil && timeout == c.final {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

package peer

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestLinkGrowsWithItsRequestsAndShrinksAfterThem(t *testing.T) {
	inBubble(t, func(t *testing.T, n *vnet, g *gossip) {
		a := n.start(t, g, "a", nil)
		var release chan struct{}
		b := n.start(t, g, "b", func(w http.ResponseWriter, r *http.Request) { <-release })
		l := a.Connect(b.node, func(bool) {})
		synctest.Wait()
		load := func(inFlight, want int) {
			t.Helper()
			release = make(chan struct{})
			var callers sync.WaitGroup
			for range inFlight {
				callers.Go(func() {
					res, err := l.RoundTrip(request(t, "GET", "/"))
					if err != nil {
						t.Errorf("with %d in flight: %v", inFlight, err)
						return
					}
					res.Body.Close()
				})
				synctest.Wait()
			}
			if sessions, _ := l.Stats(); sessions != want {
				t.Errorf("%d sessions with %d requests in flight, want %d", sessions, inFlight, want)
			}
			close(release)
			callers.Wait()
		}
		load(64, 1)
		load(65, 2)
		load(1000, 4)
		before := n.dialled("b")
		if before != 4 {
			t.Errorf("%d dials for 4 sessions", before)
		}
		// The streams are let go after 45 s; then there are sessions too many for 45 s, and one goes at a time.
		time.Sleep(80 * time.Second)
		if sessions, _ := l.Stats(); sessions != 4 {
			t.Errorf("%d sessions after 80 s, want all 4", sessions)
		}
		time.Sleep(4 * time.Minute)
		if sessions, streams := l.Stats(); sessions != 1 || streams != 0 {
			t.Errorf("%d sessions and %d streams long afterwards, want one and none", sessions, streams)
		}
		synctest.Wait()
		if in := b.inSessions(); in != 1 {
			t.Errorf("%d sessions at the other node, want one", in)
		}
		load(10, 1)
	})
}

// A session that is retired while requests come and go is not noticed by any.
func TestRetiringASessionIsNotNoticed(t *testing.T) {
	var g gossip
	a, b := g.start(t, "a", false, nil), g.start(t, "b", false, echo)
	l, _ := connect(t, a, b)
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := post(l, t.Context(), "hello"); err != nil {
					t.Errorf("request lost: %v", err)
					return
				}
			}
		})
	}
	for range 5 {
		before := *l.sessions.Load()
		l.mu.Lock()
		l.short = true
		l.mu.Unlock()
		conn, err := a.dial(t.Context(), &b.node)
		if err != nil {
			t.Fatal(err)
		}
		l.add(conn)
		for _, s := range before {
			s.retire()
			<-s.sess.Done()
		}
	}
	close(stop)
	callers.Wait()
}

func TestIdleStreamsAndSessionsLast(t *testing.T) {
	inBubble(t, func(t *testing.T, n *vnet, g *gossip) {
		a, b := n.start(t, g, "a", nil), n.start(t, g, "b", nil)
		up := new(levels)
		l := a.Connect(b.node, up.set)
		for _, idle := range []time.Duration{0, 40 * time.Second, 10 * time.Minute, time.Hour} {
			time.Sleep(idle)
			res, err := l.RoundTrip(request(t, "GET", "/"))
			if err != nil {
				t.Fatalf("after %v: %v", idle, err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if _, streams := l.Stats(); streams != 1 {
				t.Errorf("%d streams after a request at a time, the last %v after the one before", streams, idle)
			}
		}
		if _, changes := up.now(); changes != 2 || n.dialled("b") != 1 {
			t.Errorf("reachable changed %d times and there were %d dials; want 2 and 1", changes, n.dialled("b"))
		}
	})
}

func TestClosedLinkRefusesAndFinishesWhatIsUnderWay(t *testing.T) {
	var g gossip
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	a := g.start(t, "a", false, nil)
	b := g.start(t, "b", false, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	l, _ := connect(t, a, b)
	answered := inFlight(t, l, arrived)
	l.Close()
	eventually(t, func() error {
		_, err := l.RoundTrip(request(t, "GET", "/"))
		if err == nil {
			return fmt.Errorf("a closed link took a request")
		}
		return nil
	})
	select {
	case err := <-answered:
		t.Errorf("the request under way was not left alone: %v", err)
	default:
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the request under way has failed: %v", err)
	}
	eventually(t, func() error {
		if n := b.inSessions(); n != 0 {
			return fmt.Errorf("%d sessions at the other node", n)
		}
		return nil
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.links) != 0 {
		t.Error("the link is still known")
	}
}

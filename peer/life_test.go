package peer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
	"piko/relay"
	"piko/tunnel"
)

// hang is a handler that answers when the request is given up.
func hang(arrived chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	}
}

// inFlight starts a request that does not end by itself.
func inFlight(t *testing.T, l *Link, arrived <-chan struct{}) <-chan error {
	failed := make(chan error, 1)
	go func() {
		_, err := l.RoundTrip(request(t, "POST", "/"))
		failed <- err
	}()
	<-arrived
	return failed
}

func TestFrozenPeerIsFoundDeadWithin2s(t *testing.T) {
	inBubble(t, func(t *testing.T, n *vnet, g *gossip) {
		arrived := make(chan struct{}, 1)
		a := n.start(t, g, "a", nil)
		b := n.start(t, g, "b", hang(arrived))
		up := new(levels)
		l := a.Connect(b.node, up.set)
		synctest.Wait()
		if now, _ := up.now(); !now {
			t.Fatal("the link is not up")
		}
		failed := inFlight(t, l, arrived)
		time.Sleep(time.Minute + 300*time.Millisecond)
		begun := time.Now()
		n.freeze("b")
		err := <-failed
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("the request in flight failed after %v, want 2 s at most", took)
		}
		if !errors.Is(err, tunnel.ErrDead) || relay.NeverExecuted(err) {
			t.Errorf("the request in flight failed with %v", err)
		}
		synctest.Wait()
		if now, _ := up.now(); now {
			t.Error("the node counts as reachable")
		}
		// Whoever comes now does not wait for long, and is told that it may go elsewhere.
		for range 3 {
			begun = time.Now()
			if _, err := l.RoundTrip(request(t, "POST", "/")); !relay.NeverExecuted(err) || !errors.Is(err, fault.UpstreamUnreachable) {
				t.Errorf("a request to a frozen node: %v", err)
			}
			if took := time.Since(begun); took > time.Second {
				t.Errorf("a request to a frozen node waited %v", took)
			}
			time.Sleep(700 * time.Millisecond)
		}
	})
}

func TestDeathOfAPeerIsKnownAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, n *vnet, g *gossip) {
		arrived := make(chan struct{}, 1)
		a := n.start(t, g, "a", nil)
		b := n.start(t, g, "b", hang(arrived))
		up := new(levels)
		l := a.Connect(b.node, up.set)
		synctest.Wait()
		failed := inFlight(t, l, arrived)
		time.Sleep(time.Minute)
		begun := time.Now()
		n.die("b")
		synctest.Wait()
		if now, changes := up.now(); now || changes != 3 {
			t.Errorf("reachable is %v after %d calls, want false after 3", now, changes)
		}
		if err := <-failed; err == nil || relay.NeverExecuted(err) {
			t.Errorf("the request in flight: %v", err)
		}
		if took := time.Since(begun); took > 0 {
			t.Errorf("that took %v", took)
		}
		if _, err := l.RoundTrip(request(t, "POST", "/")); !relay.NeverExecuted(err) {
			t.Errorf("a request afterwards: %v", err)
		}
	})
}

func TestConnectionThatIsCutIsReplacedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, n *vnet, g *gossip) {
		a, b := n.start(t, g, "a", nil), n.start(t, g, "b", nil)
		up := new(levels)
		l := a.Connect(b.node, up.set)
		synctest.Wait()
		time.Sleep(time.Minute)
		host := n.hosts["b"]
		n.die("b")
		n.mu.Lock()
		n.hosts["b"] = host // only the connection was lost
		n.mu.Unlock()
		begun := time.Now()
		res, err := l.RoundTrip(request(t, "GET", "/"))
		for range 2 {
			if relay.NeverExecuted(err) { // it met the session that was about to end
				res, err = l.RoundTrip(request(t, "GET", "/"))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		if took := time.Since(begun); took > 10*time.Millisecond {
			t.Errorf("the next request waited %v", took)
		}
	})
}

func TestDialsOfAnUnreachableNodeSlowDown(t *testing.T) {
	inBubble(t, func(t *testing.T, n *vnet, g *gossip) {
		a := n.start(t, g, "a", nil)
		l := a.Connect(Node{ID: "b", Epoch: "b-1", Addr: "b", Key: make([]byte, plainKey)}, func(bool) {})
		stop := make(chan struct{})
		for range 10 {
			go func() { // callers do not hasten it
				for {
					select {
					case <-stop:
						return
					case <-time.After(5 * time.Millisecond):
						if _, err := l.RoundTrip(request(t, "GET", "/")); !relay.NeverExecuted(err) {
							t.Errorf("a request to nowhere: %v", err)
							return
						}
					}
				}
			}()
		}
		time.Sleep(10 * time.Second)
		if d := n.dialled("b"); d < 5 || d > 15 {
			t.Errorf("%d dials in the first 10 s", d)
		}
		before := n.dialled("b")
		time.Sleep(10 * time.Second)
		if d := n.dialled("b") - before; d < 4 || d > 11 {
			t.Errorf("%d dials in 10 s later on", d)
		}
		close(stop)
		time.Sleep(time.Second)
	})
}

// A node that ends each session as soon as it is open is not dialled in a loop.
func TestSessionsThatDoNotLastSlowTheDialsDown(t *testing.T) {
	inBubble(t, func(t *testing.T, n *vnet, g *gossip) {
		a, b := n.start(t, g, "a", nil), n.start(t, g, "b", nil)
		host := n.hosts["b"]
		a.Connect(b.node, func(up bool) {
			if up {
				go func() {
					n.die("b")
					n.mu.Lock()
					n.hosts["b"] = host
					n.mu.Unlock()
				}()
			}
		})
		time.Sleep(20 * time.Second)
		if d := n.dialled("b"); d < 5 || d > 30 {
			t.Errorf("%d dials in 20 s", d)
		}
	})
}

func TestCallerThatIsNotKnownYetTriesAgainSoon(t *testing.T) {
	inBubble(t, func(t *testing.T, n *vnet, g *gossip) {
		a := n.startUnknown(t, g, "a", nil)
		b := n.start(t, g, "b", nil)
		up := new(levels)
		a.Connect(b.node, up.set)
		time.Sleep(time.Second)
		if now, _ := up.now(); now {
			t.Fatal("a node that nobody knows was let in")
		}
		g.tell(a.node)
		time.Sleep(firstPause)
		synctest.Wait()
		if now, _ := up.now(); !now {
			t.Error("the node does not count as reachable 50 ms after gossip knew the caller")
		}
	})
}

func TestRequestWaitsForTheFirstSession(t *testing.T) {
	inBubble(t, func(t *testing.T, n *vnet, g *gossip) {
		a, b := n.start(t, g, "a", nil), n.start(t, g, "b", nil)
		l := a.Connect(b.node, func(bool) {})
		res, err := l.RoundTrip(request(t, "GET", "/"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	})
}

func TestWaitersAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, n *vnet, g *gossip) {
		a := n.start(t, g, "a", nil)
		n.freeze("b")
		l := a.Connect(Node{ID: "b", Epoch: "b-1", Addr: "b", Key: make([]byte, plainKey)}, func(bool) {})
		overloaded := make(chan bool, maxWaiting+100)
		synctest.Wait()
		for range cap(overloaded) {
			go func() {
				_, err := l.RoundTrip(request(t, "GET", "/"))
				if !relay.NeverExecuted(err) {
					t.Errorf("a request to a frozen node: %v", err)
				}
				overloaded <- errors.Is(err, fault.Overloaded)
			}()
		}
		n1 := 0
		for range cap(overloaded) {
			if <-overloaded {
				n1++
			}
		}
		if n1 != 100 {
			t.Errorf("%d requests were told that too many wait, want 100", n1)
		}
		// And who gives up does not wait.
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		begun := time.Now()
		if _, err := l.RoundTrip(request(t, "GET", "/").WithContext(ctx)); !relay.NeverExecuted(err) || time.Since(begun) > 20*time.Millisecond {
			t.Errorf("a request that was given up: %v after %v", err, time.Since(begun))
		}
	})
}

package upstreamconn

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"piko/tunnel"
)

func TestWaves(t *testing.T) {
	for _, c := range []struct {
		name   string
		n      int
		within time.Duration
		late   time.Duration // by which each wave comes
		waves  int           // at most
		took   time.Duration // at most, until the last
	}{
		{"one", 1, time.Second, 0, 1, 0},
		{"two", 2, time.Second, 0, 2, 500 * time.Millisecond},
		{"each has its wave", 100, time.Second, 0, 100, 990 * time.Millisecond},
		{"several in a wave", 1000, 2 * time.Second, 0, 201, 2 * time.Second},
		{"waves that come late", 1000, 2 * time.Second, 90 * time.Millisecond, 21, 2100 * time.Millisecond},
		{"many", 10_000, 20 * time.Second, 0, 2001, 20 * time.Second},
		{"too many for the time", 100_000, time.Second, 0, 783, 7820 * time.Millisecond},
		{"at once", 100, 0, 0, 1, 0},
		{"at once, but many", 1000, 0, 0, 8, 70 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			told, waves, half := 0, 0, 0
			var passed, last time.Duration
			for told < c.n {
				size, pause := wave(c.n, told, passed, c.within)
				if size > drainWave || pause < drainPause {
					t.Fatalf("%d at once, then %v", size, pause)
				}
				if told += size; size > 0 {
					waves, last = waves+1, passed
				}
				if passed < c.within/2 {
					half = told
				}
				passed += pause + c.late
			}
			if told != c.n || waves > c.waves || last > c.took {
				t.Errorf("%d in %d waves, the last after %v", told, waves, last)
			}
			if c.n > 1 && last > 0 && last < 3*c.within && (half < c.n/4 || half > c.n*3/4) {
				t.Errorf("%d of %d in the first half of the time", half, c.n)
			}
		})
	}
}

// mover is an upstream that does what a client does when it is asked to move.
type mover struct {
	mu    sync.Mutex
	asked int
	wg    sync.WaitGroup
}

// open opens a tunnel that moves each time it is asked.
func (m *mover) open(t *testing.T, url, endpoint string) {
	var sess *tunnel.Session
	ready, drained := make(chan struct{}), make(chan struct{})
	d := tunnel.Dialer{URL: url, Instance: endpoint, Options: tunnel.Options{Events: tunnel.Events{
		Drain: func(tunnel.DrainMessage) {
			m.mu.Lock()
			m.asked++
			m.mu.Unlock()
			m.wg.Go(func() {
				<-ready
				m.open(t, url, endpoint)
				sess.Drain(tunnel.DrainMessage{Reason: "moved"})
				<-drained
				sess.Close()
			})
		},
		Drained: func(uint32) { close(drained) },
	}}}
	sess, err := d.Dial(t.Context(), endpoint)
	if err != nil {
		t.Errorf("%s: %v", endpoint, err)
		return
	}
	close(ready)
	t.Cleanup(func() { sess.Close() })
}

// TestThousandTunnelsMoveInWaves: all of them, each once, and not before their time. How evenly is TestWaves': here it would
// be how evenly a busy machine goes.
func TestThousandTunnelsMoveInWaves(t *testing.T) {
	const count, within = 1000, 2 * time.Second
	c := startNodes(t, 2, func(s *Server) { s.Others = yes })
	old, fresh := c.list[0], c.list[1]
	c.balance(old)
	var m mover
	var opening sync.WaitGroup
	for part := range 8 {
		opening.Go(func() {
			for i := part; i < count; i += 8 {
				m.open(t, c.url, fmt.Sprint("endpoint-", i))
			}
		})
	}
	opening.Wait()
	eventually(t, func() error {
		if _, upstreams := old.Table.Totals(); upstreams != count {
			return fmt.Errorf("%d tunnels", upstreams)
		}
		return nil
	})
	c.balance(fresh)
	start := time.Now()
	old.Drain(t.Context(), tunnel.DrainMessage{Reason: "shutdown", ReconnectWithin: within})
	took := time.Since(start)
	if took < within*3/4 {
		t.Errorf("asking took %v", took)
	}
	eventually(t, func() error {
		if a, b := old.Tunnels(), fresh.Tunnels(); a != 0 || b != count {
			return fmt.Errorf("%d and %d tunnels", a, b)
		}
		return nil
	})
	m.wg.Wait()
	if m.asked != count {
		t.Errorf("%d tunnels were asked", m.asked)
	}
}

package peer

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/relay"
	"piko/tunnel"
)

// valve is a wire between two nodes that can be shut: then nothing is taken
// from either end, as by a process that is stopped.
type valve struct {
	addr string
	shut chan struct{}
	open chan struct{} // closed at the end of the test
}

func newValve(t *testing.T, to string) *valve {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{addr: l.Addr().String(), shut: make(chan struct{}), open: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			wg.Go(func() { v.copy(far, near) })
			wg.Go(func() { v.copy(near, far) })
		}
	})
	t.Cleanup(func() { close(v.open); l.Close(); wg.Wait() })
	return v
}

func (v *valve) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-v.shut:
			<-v.open
			return
		default:
		}
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// With real sockets, whose buffers take more for a while, and bulk under way.
func TestFrozenPeerUnderLoad(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		t.Parallel()
		var g gossip
		a, b := g.start(t, "a", secure, nil), g.start(t, "b", secure, echo)
		wire := newValve(t, b.node.Addr)
		through := b.node
		through.Addr = wire.addr
		up := new(levels)
		l := a.Connect(through, up.set)
		up.await(t, true)
		var done atomic.Int64
		var callers sync.WaitGroup
		frozen := make(chan struct{})
		call := func(body []byte) {
			for {
				req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://e.example.com/", bytes.NewReader(body))
				res, err := l.RoundTrip(req)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
				}
				if err == nil {
					done.Add(1)
					continue
				}
				select {
				case <-frozen:
				default:
					t.Errorf("a request failed before: %v", err)
				}
				if !errors.Is(err, tunnel.ErrDead) && !relay.NeverExecuted(err) {
					t.Errorf("a request in flight failed with %v", err)
				}
				return
			}
		}
		for i := range 32 {
			callers.Go(func() { call(bytes.Repeat([]byte("x"), 1+i%4*100<<10)) })
		}
		eventually(t, func() error {
			if done.Load() < 100 {
				return errors.New("100 requests are not done")
			}
			return nil
		})
		close(frozen)
		begun := time.Now()
		close(wire.shut)
		callers.Wait()
		took := time.Since(begun)
		t.Logf("all failed after %v", took)
		if took > 8*time.Second { // 2 s, on a machine with time for it
			t.Errorf("the last request failed after %v", took)
		}
		up.await(t, false)
	})
}

package peer

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// tap is a wire between two nodes that records what goes over it.
type tap struct {
	addr string
	mu   sync.Mutex
	up   bytes.Buffer // from the caller
	down bytes.Buffer
}

func (p *tap) bytes() (up, down []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.up.Bytes()), bytes.Clone(p.down.Bytes())
}

func newTap(t *testing.T, to string) *tap {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{addr: l.Addr().String()}
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
			wg.Go(func() { p.copy(far, near, &p.up) })
			wg.Go(func() { p.copy(near, far, &p.down) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return p
}

func (p *tap) copy(to, from net.Conn, record *bytes.Buffer) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		record.Write(buf[:n])
		p.mu.Unlock()
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func TestRecordedHandshakeIsOfNoUse(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		a, b := g.start(t, "a", secure, nil), g.start(t, "b", secure, nil)
		wire := newTap(t, b.node.Addr)
		through := b.node
		through.Addr = wire.addr
		conn, err := a.dial(t.Context(), &through)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		up, down := wire.bytes()
		proven := b.metrics.handshakes.WithLabelValues("in", "ok")
		eventually(t, func() error {
			if n := testutil.ToFloat64(proven); n != 1 || b.inSessions() != 0 {
				return fmt.Errorf("%v handshakes were proven, %d sessions", n, b.inSessions())
			}
			return nil
		})

		// To the callee, all that the caller said.
		again := dialTCP(t, b.node.Addr)
		again.Write(up[:bytes.Index(up, []byte("\r\n\r\n"))+4])
		head := make([]byte, len(switching))
		if _, err := io.ReadFull(again, head); err != nil || string(head) != switching {
			t.Fatalf("%q, %v", head, err)
		}
		again.Write(up[bytes.Index(up, []byte("\r\n\r\n"))+4:])
		io.ReadAll(again)
		if n := testutil.ToFloat64(proven); n != 1 {
			t.Errorf("%v handshakes were proven: a replay was let in", n)
		}

		// To a caller, all that the callee said.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		played := make(chan struct{})
		go func() {
			defer close(played)
			if c, err := l.Accept(); err == nil {
				bufio.NewReader(c).ReadString('\n')
				c.Write(down)
				io.Copy(io.Discard, c)
				c.Close()
			}
		}()
		through.Addr = l.Addr().String()
		refusedLink(t, a, through)
		<-played
	})
}

// An attacker between the nodes who sends a caller's own proof back to it.
func TestProofOfOneDirectionIsNoneOfTheOther(t *testing.T) {
	x := exchange{caller: Node{Epoch: "a-1", Key: make([]byte, plainKey)}, callee: Node{Epoch: "b-1", Key: make([]byte, plainKey)}}
	if bytes.Equal(x.mac(fromCaller), x.mac(fromCallee)) {
		t.Error("the proofs are the same")
	}
	y := x
	y.caller, y.callee = x.callee, x.caller
	if bytes.Equal(x.mac(fromCaller), y.mac(fromCaller)) {
		t.Error("the proofs are the same with the nodes exchanged")
	}
	y = x
	y.caller.Epoch, y.callee.Epoch = "a-1b", "-1"
	if bytes.Equal(x.mac(fromCaller), y.mac(fromCaller)) {
		t.Error("the proofs are the same with another boundary between the epochs")
	}
}

package tunnel

import (
	"errors"
	"io"
	"testing"
	"time"
)

// memConns is both ends of one connection in a bubble.
func memConns(t *testing.T, half bool) (client, node *Conn, wire *memConn) {
	a, b := memPair()
	client, node = newConn(newCarrier(a, nil, true), half), newConn(newCarrier(b, nil, false), half)
	t.Cleanup(func() {
		client.Reset()
		node.Reset()
		client.Close()
		node.Close()
	})
	return client, node, a
}

func TestConnLivesWhileNothingIsSaid(t *testing.T) {
	within(t, func(t *testing.T) {
		client, node, _ := memConns(t, true)
		go func() {
			io.Copy(struct{ io.Writer }{node}, struct{ io.Reader }{node})
			node.CloseWrite()
		}()
		go func() {
			time.Sleep(time.Hour)
			io.WriteString(client, "still here")
			client.CloseWrite()
		}()
		if b, err := io.ReadAll(client); string(b) != "still here" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
	})
}

func TestConnPingsTheSilentPeer(t *testing.T) {
	within(t, func(t *testing.T) {
		a, b := memPair()
		c := newConn(newCarrier(a, nil, false), true)
		defer c.Close()
		go c.Read(make([]byte, 1))
		peer := &carrierPeer{Conn: b}
		start := time.Now()
		for i := range 5 {
			peer.SetReadDeadline(time.Time{})
			f := peer.wait(t)
			if f.op != opPing {
				t.Fatalf("frame with opcode %d", f.op)
			}
			if at, want := time.Since(start), time.Duration(i+1)*idleBeforePing; at < want || at > want+time.Second {
				t.Errorf("ping %d came after %v", i+1, at)
			}
			peer.send(t, testFrame{op: opPong, masked: true})
		}
	})
}

// wait is frame without a deadline of its own.
func (p *carrierPeer) wait(t testing.TB) testFrame {
	t.Helper()
	b := make([]byte, 64<<10)
	for {
		if f, n := parseTestFrame(p.got); n > 0 {
			p.got = p.got[n:]
			return f
		}
		n, err := p.Read(b)
		p.got = append(p.got, b[:n]...)
		if err != nil {
			t.Fatalf("waiting for a frame: %v", err)
		}
	}
}

func TestConnToAPeerThatVanishedEndsWithin15s(t *testing.T) {
	for name, ended := range map[string]bool{"while reading": false, "behind the peer's end": true} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				client, node, wire := memConns(t, true)
				if ended {
					if err := client.CloseWrite(); err != nil {
						t.Fatal(err)
					}
					if _, err := node.Read(make([]byte, 1)); err != io.EOF {
						t.Fatal(err)
					}
				} else {
					go node.Read(make([]byte, 1))
				}
				go client.Read(make([]byte, 1))
				time.Sleep(time.Minute)
				wire.vanish()
				since := time.Now()
				for _, c := range []*Conn{client, node} {
					<-c.Done()
					if d := time.Since(since); d > 15*time.Second {
						t.Errorf("it took %v", d)
					}
					if _, err := c.Write([]byte("x")); !errors.Is(err, ErrDead) && !(ended && c == client) {
						t.Errorf("Write: %v", err)
					}
				}
				if _, err := client.Read(make([]byte, 1)); !errors.Is(err, ErrDead) {
					t.Errorf("Read: %v", err)
				}
			})
		})
	}
}

// As when somebody looks at the result of a query page by page: the client's
// buffers are full, it answers no ping, and it is well.
func TestConnWaitsForAPeerThatDoesNotRead(t *testing.T) {
	for name, half := range map[string]bool{"ours": true, "v0.9.0": false} {
		full := 4*connChunk + memBuffer - 4*(connChunk+4) - 2  // with the headers of five messages: a ping has no room
		for _, size := range []int{100 << 10, full, 4 << 20} { // what fits into buffers, what just does, what does not
			t.Run(name, func(t *testing.T) {
				within(t, func(t *testing.T) {
					client, node, _ := memConns(t, half)
					wrote := make(chan error, 1)
					go func() {
						_, err := node.Write(make([]byte, size))
						wrote <- err
					}()
					go node.Read(make([]byte, 1))
					time.Sleep(time.Hour)
					if n, err := io.CopyN(io.Discard, client, int64(size)); err != nil {
						t.Fatalf("read %d of %d bytes: %v", n, size, err)
					}
					if err := <-wrote; err != nil {
						t.Error(err)
					}
					if _, err := node.Write([]byte("x")); err != nil {
						t.Errorf("%d bytes later: %v", size, err)
					}
				})
			})
		}
	}
}

// Who has closed both ways needs nobody: nobody may wait for its sake for ever.
func TestConnThatThePeerHasClosedLingers30s(t *testing.T) {
	for name, half := range map[string]bool{"ours": true, "v0.9.0": false} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				client, node, _ := memConns(t, half)
				go client.Close()
				if _, err := node.Read(make([]byte, 1)); err != io.EOF {
					t.Fatal(err)
				}
				start := time.Now()
				<-node.Done()
				if d := time.Since(start); d < lingerTime || d > lingerTime+2*time.Second {
					t.Errorf("it was of use for %v", d)
				}
			})
		})
	}
}

func TestConnDoesNotPingWhileNobodyReads(t *testing.T) {
	within(t, func(t *testing.T) {
		a, b := memPair()
		c := newConn(newCarrier(a, nil, false), true)
		defer c.Reset()
		time.Sleep(time.Hour)
		b.SetReadDeadline(time.Now())
		if n, err := b.Read(make([]byte, 10)); err == nil {
			// The peer may have closed its socket long ago, and this would cost
			// it what is on its way to us.
			t.Errorf("%d bytes were sent", n)
		}
	})
}

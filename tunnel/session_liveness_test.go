package tunnel

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

func TestPeerThatVanishesIsGoneWithin15s(t *testing.T) {
	for _, c := range []struct {
		name  string
		wheel bool
	}{{"wheel", true}, {"own timer", false}} {
		t.Run(c.name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				var w *Wheel
				if c.wheel {
					w = runWheel(t)
				}
				// Sessions begin at odd times of the wheel's, or all would be alike.
				for i := range 7 {
					time.Sleep(time.Duration(i) * 37 * time.Millisecond)
					s := memSessions(t, withControl, func(_ bool, o *Options) { o.Wheel = w })
					time.Sleep(time.Minute)
					s.a.vanish()
					wantEnd(t, "node", s.node, ErrDead, 4*time.Second, 15*time.Second)
					wantEnd(t, "upstream", s.up, ErrDead, 0, 15*time.Second)
				}
			})
		})
	}
}

func TestPeerThatVanishesUnderBulkIsGoneWithin15s(t *testing.T) {
	within(t, func(t *testing.T) {
		w := runWheel(t)
		s := memSessions(t, withControl, func(node bool, o *Options) { o.Wheel = w })
		st := openStream(t, s)
		wrote := make(chan error, 1)
		go func() {
			b := make([]byte, 32<<10)
			for {
				if _, err := st.Write(b); err != nil {
					wrote <- err
					return
				}
			}
		}()
		other, err := s.up.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, io.LimitReader(other, 64<<20))
		time.Sleep(time.Minute)
		s.a.vanish()
		wantEnd(t, "node, whose writes are stuck", s.node, ErrDead, 0, 15*time.Second)
		if err := <-wrote; !errors.Is(err, ErrDead) {
			t.Errorf("the writer was told %v", err)
		}
		wantEnd(t, "upstream", s.up, ErrDead, 0, 15*time.Second)
	})
}

// A ping waits behind what is on its way; over a slow link that is longer than
// a dead peer is given.
func TestSlowLinkIsNotTakenForADeadPeer(t *testing.T) {
	const rate, size = 8 << 10, 2 << 20 // 256 s
	for name, toNode := range map[string]bool{"to the node": true, "to the upstream": false} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				s := &sessions{}
				s.a, s.b = memPair()
				peer := Peer{Features: withControl}
				s.node = startSession(newCarrier(&slowConn{s.a, rate}, nil, false), true, peer, Options{Wheel: runWheel(t)})
				defer s.node.Close()
				s.up = startSession(newCarrier(&slowConn{s.b, rate}, nil, true), false, peer, Options{})
				defer s.up.Close()
				from := openStream(t, s)
				to, err := s.up.Accept()
				if err != nil {
					t.Fatal(err)
				}
				if toNode {
					from, to = to, from
				}
				go func() {
					from.Write(make([]byte, size))
					from.CloseWrite()
				}()
				if n, err := io.Copy(io.Discard, to); n != size || err != nil {
					t.Errorf("%d bytes arrived, %v", n, err)
				}
				// And then it vanishes in the middle of more.
				go func() {
					if st, err := s.node.Open(context.Background()); err == nil {
						st.Write(make([]byte, size))
					}
				}()
				time.Sleep(20 * time.Second)
				s.a.vanish()
				wantEnd(t, "node", s.node, ErrDead, 0, 15*time.Second)
				wantEnd(t, "upstream", s.up, ErrDead, 0, 15*time.Second)
			})
		})
	}
}

// A process that was stopped: its system takes bytes until its buffers are
// full.
func TestPeerThatStopsUnderBulkIsGoneWithin15s(t *testing.T) {
	within(t, func(t *testing.T) {
		a, b := memPair()
		s := startSession(newCarrier(a, nil, false), true, Peer{}, Options{Wheel: runWheel(t)})
		defer s.Close()
		up := newMux(newCarrier(b, nil, true), false, muxOptions{window: 16 << 20, allowPeerStreams: 9})
		go up.run()
		st, err := s.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := up.accept(); err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				if _, err := st.Write(make([]byte, 16<<10)); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
		time.Sleep(8 * time.Second)
		b.in.set(func(h *memHalf) { h.stopped = true })
		defer b.Close()
		wantEnd(t, "node", s, ErrDead, 0, 15*time.Second)
	})
}

// Any byte is life, also that of a peer which does not answer pings because it
// reads nothing.
func TestPeerThatOnlySendsStays(t *testing.T) {
	within(t, func(t *testing.T) {
		a, b := memPair()
		s := startSession(newCarrier(a, nil, false), true, Peer{}, Options{Wheel: runWheel(t)})
		defer s.Close()
		peer := newCarrier(b, nil, true)
		defer peer.Close()
		for range 100 {
			time.Sleep(9 * time.Second)
			peer.ping()
		}
		if err := s.Err(); err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestHealthyIdlePeerStaysForHours(t *testing.T) {
	for name, features := range map[string][]string{"ours": withControl, "without features": nil} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				w := runWheel(t)
				s := memSessions(t, features, func(node bool, o *Options) {
					if node {
						o.Wheel = w
					}
				})
				time.Sleep(6 * time.Hour)
				if s.node.Err() != nil || s.up.Err() != nil {
					t.Fatalf("node: %v, upstream: %v", s.node.Err(), s.up.Err())
				}
			})
		})
	}
}

func TestSilenceAfterTheHandshakeEndsWithin10s(t *testing.T) {
	for name, c := range map[string]struct {
		features []string
		want     error
	}{
		"without features": {nil, ErrDead},
		"with control":     {withControl, nil}, // dead or a protocol error, whichever is first
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				w := runWheel(t)
				a, _ := memPair()
				s := startSession(newCarrier(a, nil, false), true, Peer{Features: c.features}, Options{Wheel: w})
				defer s.Close()
				wantEnd(t, "node", s, c.want, 9*time.Second, 10*time.Second)
			})
		})
	}
}

func TestPeerThatAnswersPingsButOpensNoControlStreamIsEnded(t *testing.T) {
	within(t, func(t *testing.T) {
		a, b := memPair()
		s := startSession(newCarrier(a, nil, false), true, Peer{Features: withControl}, Options{})
		defer s.Close()
		peer := newCarrier(b, nil, true)
		defer peer.Close()
		go io.Copy(io.Discard, peer)
		start := time.Now()
		<-s.Done()
		if _, ok := errors.AsType[*ProtocolError](s.Err()); !ok || time.Since(start) > 11*time.Second {
			t.Errorf("after %v: %v", time.Since(start), s.Err())
		}
	})
}

func TestProbeFindsADeadPeerWithin5s(t *testing.T) {
	within(t, func(t *testing.T) {
		w := runWheel(t)
		s := memSessions(t, withControl, func(node bool, o *Options) { o.Wheel = w })
		time.Sleep(time.Minute)
		s.node.Probe()
		time.Sleep(time.Hour)
		if err := s.node.Err(); err != nil {
			t.Fatalf("a probe that was answered ended the session: %v", err)
		}
		s.a.vanish()
		s.node.Probe()
		s.node.Probe()
		wantEnd(t, "node", s.node, ErrDead, 4*time.Second, 5500*time.Millisecond)
	})
}

package tunnel

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// peerSessions connects two nodes.
func peerSessions(t *testing.T) (wire *memConn, dialing, accepting *Session) {
	a, b := memPair()
	dialing = NewPeerSession(a, true, Options{})
	accepting = NewPeerSession(b, false, Options{})
	t.Cleanup(func() { dialing.Close(); accepting.Close() })
	return a, dialing, accepting
}

func TestPeerSessionCarriesStreamsOfTheDialingSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, dialing, accepting := peerSessions(t)
		go func() {
			for {
				st, err := accepting.Accept()
				if err != nil {
					return
				}
				go func() { io.Copy(st, st); st.Close() }()
			}
		}()
		st, err := dialing.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.ID()%2 != 0 {
			t.Errorf("stream id %d, want an even one", st.ID())
		}
		go func() {
			st.Write(make([]byte, 2<<20))
			st.CloseWrite()
		}()
		if n, err := io.Copy(io.Discard, st); n != 2<<20 || err != nil {
			t.Errorf("%d bytes came back, %v", n, err)
		}
	})
}

func TestPeerSessionDrainsLikeATunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		asked, drained := make(chan string, 1), make(chan uint32, 1)
		dialing := NewPeerSession(a, true, Options{Events: Events{Drain: func(m DrainMessage) { asked <- m.Reason }}})
		accepting := NewPeerSession(b, false, Options{Events: Events{Drained: func(last uint32) { drained <- last }}})
		defer dialing.Close()
		defer accepting.Close()
		if err := accepting.Drain(DrainMessage{Reason: "test"}); err != nil {
			t.Fatal(err)
		}
		if reason := <-asked; reason != "test" {
			t.Errorf("asked for %q", reason)
		}
		if err := dialing.Drained(dialing.LastStreamID()); err != nil {
			t.Fatal(err)
		}
		if last := <-drained; last != 0 {
			t.Errorf("last stream %d, want 0", last)
		}
	})
}

func TestPeerThatVanishesIsGoneWithin2s(t *testing.T) {
	for phase := time.Duration(0); phase < time.Second; phase += 130 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			wire, dialing, accepting := peerSessions(t)
			time.Sleep(time.Minute + phase)
			if dialing.Err() != nil || accepting.Err() != nil {
				t.Fatalf("quiet sessions ended: %v, %v", dialing.Err(), accepting.Err())
			}
			begun := time.Now()
			wire.vanish()
			for name, s := range map[string]*Session{"dialing": dialing, "accepting": accepting} {
				<-s.Done()
				if took := time.Since(begun); !errors.Is(s.Err(), ErrDead) || took > 2*time.Second || took < time.Second {
					t.Errorf("the %s side ended after %v: %v", name, took, s.Err())
				}
			}
		})
	}
}

func TestPeersMaskNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		s := NewPeerSession(a, false, Options{})
		masking := newCarrier(b, nil, true)
		masking.Write([]byte("hello"))
		<-s.Done()
		if _, ok := errors.AsType[*ProtocolError](s.Err()); !ok {
			t.Errorf("a masked frame ended the session with %v", s.Err())
		}
		s.Close()
		masking.Close()
	})
}

package tunnel

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// sessions are the two ends of a tunnel.
type sessions struct {
	node, up *Session
	a, b     *memConn // below them
}

// memSessions connects a node and an upstream in memory. opt changes the
// options of either.
func memSessions(t *testing.T, features []string, opt func(node bool, o *Options)) *sessions {
	t.Helper()
	s := &sessions{}
	s.a, s.b = memPair()
	start := func(c *memConn, node bool) *Session {
		var o Options
		if opt != nil {
			opt(node, &o)
		}
		return startSession(newCarrier(c, nil, !node), node, Peer{Features: features}, o)
	}
	s.node, s.up = start(s.a, true), start(s.b, false)
	t.Cleanup(func() {
		s.node.Close()
		s.up.Close()
	})
	return s
}

var withControl = []string{FeatureControl}

// within runs a test's story in a bubble of virtual time.
func within(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// runWheel returns a wheel that turns until the test ends.
func runWheel(t *testing.T) *Wheel {
	w := NewWheel()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return w
}

// wantEnd checks that s ends with the error within d from now, and not before
// least. A nil target is any error.
func wantEnd(t *testing.T, why string, s *Session, target error, least, d time.Duration) {
	t.Helper()
	start := time.Now()
	select {
	case <-s.Done():
	case <-time.After(d):
		t.Fatalf("%s: still open after %v", why, d)
	}
	if took := time.Since(start); took < least {
		t.Errorf("%s: ended after %v already", why, took)
	}
	if target != nil && !errors.Is(s.Err(), target) {
		t.Errorf("%s: ended with %v, want %v", why, s.Err(), target)
	}
}

// openStream opens a stream from the node.
func openStream(t *testing.T, s *sessions) *Stream {
	t.Helper()
	st, err := s.node.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestWhoClosesKnowsAndThePeerKnowsToo(t *testing.T) {
	for name, byNode := range map[string]bool{"node closes": true, "upstream closes": false} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				var closed [2]atomic.Int32
				s := memSessions(t, withControl, func(node bool, o *Options) {
					at := &closed[0]
					if node {
						at = &closed[1]
					}
					o.Events.Closed = func(error) { at.Add(1) }
				})
				st := openStream(t, s)
				time.Sleep(time.Second)
				ours, theirs := s.node, s.up
				if !byNode {
					ours, theirs = theirs, ours
				}
				ours.Close()
				ours.Close()
				wantEnd(t, "closer", ours, ErrClosedByUs, 0, time.Second)
				wantEnd(t, "peer", theirs, ErrClosedByPeer, 0, time.Second)
				if _, err := st.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("a stream that was cut reads %v", err)
				}
				if _, err := s.node.Open(t.Context()); err == nil {
					t.Error("a stream was opened on a session that has ended")
				}
				if _, err := s.up.Accept(); err != nil {
					if _, err = s.up.Accept(); err == nil {
						t.Error("accepted a stream of a session that has ended")
					}
				}
				synctest.Wait()
				if closed[0].Load() != 1 || closed[1].Load() != 1 {
					t.Errorf("events Closed: %d and %d", closed[0].Load(), closed[1].Load())
				}
			})
		})
	}
}

// said collects the events of a session.
type said struct {
	mu    sync.Mutex
	lines []any
}

func (s *said) add(v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, v)
}

func (s *said) events() Events {
	return Events{
		Drain:   func(m DrainMessage) { s.add(m) },
		Drained: func(last uint32) { s.add(last) },
		Cluster: func(n int) { s.add(n) },
		Weight:  func(w int) { s.add(-w) },
	}
}

func (s *said) all() []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

func TestControlMessagesArrive(t *testing.T) {
	within(t, func(t *testing.T) {
		var atNode, atUp said
		s := memSessions(t, withControl, func(node bool, o *Options) {
			o.Events = atUp.events()
			if node {
				o.Events = atNode.events()
			}
		})
		// Said before the stream can be open: they must not be lost.
		s.up.Weight(0)
		drain := DrainMessage{Reason: "node stops", ReconnectWithin: 2 * time.Second}
		s.node.Drain(drain)
		synctest.Wait()
		s.node.Cluster(3)
		s.node.Drained(42)
		s.up.Drain(DrainMessage{Reason: "agent stops"})
		synctest.Wait()
		if got, want := atNode.all(), []any{0, DrainMessage{Reason: "agent stops"}}; !slices.Equal(got, want) {
			t.Errorf("the node heard %v, want %v", got, want)
		}
		if got, want := atUp.all(), []any{drain, 3, uint32(42)}; !slices.Equal(got, want) {
			t.Errorf("the upstream heard %v, want %v", got, want)
		}
		if n := s.node.NumStreams() + s.up.NumStreams(); n != 0 {
			t.Errorf("%d streams are counted besides control", n)
		}
	})
}

func TestNewestControlMessageWinsWhileThePeerReadsNothing(t *testing.T) {
	within(t, func(t *testing.T) {
		var atUp said
		slow := make(chan struct{})
		s := memSessions(t, withControl, func(node bool, o *Options) {
			if node {
				return
			}
			o.Events.Cluster = func(n int) {
				if n == 1 {
					<-slow // a peer that has stopped
				}
				atUp.add(n)
			}
		})
		synctest.Wait()
		s.node.Cluster(1)
		synctest.Wait()
		// Far more than the stream's window and the buffers hold.
		for i := range 100000 {
			s.node.Cluster(i + 2)
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		if n := s.node.ctl.waiting(); n > 1 {
			t.Errorf("%d messages of one type wait", n)
		}
		close(slow)
		time.Sleep(30 * time.Second)
		if got := atUp.all(); len(got) == 0 || got[len(got)-1] != 100001 {
			t.Errorf("the last of %d messages that arrived is not the newest", len(got))
		}
	})
}

// waiting is how many messages are queued.
func (c *control) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue)
}

func TestPeerThatTalksOnAndOnIsReadSlowly(t *testing.T) {
	within(t, func(t *testing.T) {
		var heard atomic.Int64
		a, b := memPair()
		s := startSession(newCarrier(a, nil, false), true, Peer{Features: withControl},
			Options{Events: Events{Weight: func(int) { heard.Add(1) }}})
		defer s.Close()
		peer := newMux(newCarrier(b, nil, true), false, muxOptions{window: 256 << 10, maxStreams: 10})
		go peer.run()
		defer peer.c.close(closeNormal, "")
		st, err := peer.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			line := []byte(strings.Repeat(`{"type":"weight","weight":1}`+"\n", 100))
			for {
				if _, err := st.Write(line); err != nil {
					return
				}
			}
		}()
		time.Sleep(10 * time.Second)
		if n := heard.Load(); n < 100 || n > 10*1000 {
			t.Errorf("%d messages were taken in 10 s", n)
		}
		if err := s.Err(); err != nil {
			t.Errorf("session ended: %v", err)
		}
	})
}

func TestControlStreamBelongsToTheSession(t *testing.T) {
	for name, end := range map[string]func(st *Stream){
		"closed":     func(st *Stream) { st.Close() },
		"half":       func(st *Stream) { st.CloseWrite() },
		"reset":      func(st *Stream) { st.Reset() },
		"rubbish":    func(st *Stream) { st.Write([]byte("GET / HTTP/1.1\r\n\r\n")) },
		"endless":    func(st *Stream) { st.Write([]byte(strings.Repeat("x", 5000))) },
		"wrong type": func(st *Stream) { st.Write([]byte(`{"type":{}}` + "\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				a, b := memPair()
				s := startSession(newCarrier(a, nil, false), true, Peer{Features: withControl}, Options{})
				defer s.Close()
				peer := newMux(newCarrier(b, nil, true), false, muxOptions{window: 256 << 10, maxStreams: 10})
				go peer.run()
				defer peer.c.close(closeNormal, "")
				st, err := peer.open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				end(st)
				select {
				case <-s.Done():
				case <-time.After(time.Second):
					t.Fatal("still open after 1 s")
				}
				if _, ok := errors.AsType[*ProtocolError](s.Err()); !ok {
					t.Errorf("ended with %v", s.Err())
				}
			})
		})
	}
}

func TestPeerWithoutControlHasNone(t *testing.T) {
	within(t, func(t *testing.T) {
		s := memSessions(t, nil, nil)
		for _, err := range []error{s.node.Drain(DrainMessage{}), s.node.Drained(2), s.node.Cluster(1), s.up.Weight(3)} {
			if !errors.Is(err, ErrNoControl) {
				t.Errorf("said to a peer without control: %v", err)
			}
		}
		if s.node.HasControl() {
			t.Error("has control")
		}
	})
}

func TestLastStreamIsKnownAtBothEnds(t *testing.T) {
	within(t, func(t *testing.T) {
		s := memSessions(t, withControl, nil)
		for range 3 {
			openStream(t, s).Write([]byte("x"))
		}
		synctest.Wait()
		if n, u := s.node.LastStreamID(), s.up.LastStreamID(); n != 6 || u != 6 {
			t.Errorf("last stream %d at the node, %d at the upstream, want 6", n, u)
		}
		if n, u := s.node.NumStreams(), s.up.NumStreams(); n != 3 || u != 3 {
			t.Errorf("%d and %d streams, want 3", n, u)
		}
	})
}

func TestManySessionsEndAtOnce(t *testing.T) {
	within(t, func(t *testing.T) {
		w := runWheel(t)
		var all []*sessions
		for range 50 {
			all = append(all, memSessions(t, withControl, func(_ bool, o *Options) { o.Wheel = w }))
		}
		time.Sleep(time.Minute)
		var wg sync.WaitGroup
		for i, s := range all {
			wg.Go(func() { s.node.Close() })
			if i%2 == 0 {
				wg.Go(func() { s.up.Close() })
			}
		}
		wg.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := range w.slots {
			for e := w.slots[i].next; e != &w.slots[i]; e = e.next {
				if e.session.Err() != nil {
					t.Fatal("the wheel holds a session that has ended")
				}
			}
		}
	})
}

func TestUpstreamAcceptsStreamsThatCrossItsGoAway(t *testing.T) {
	within(t, func(t *testing.T) {
		s := memSessions(t, nil, nil)
		a := openStream(t, s) // nothing has been sent yet: the bubble's goroutines have not run
		if err := s.up.GoAway(CodeNormal); err != nil {
			t.Fatal(err)
		}
		b, err := s.up.Accept()
		if err != nil {
			t.Fatal(err)
		}
		a.Write([]byte("x"))
		if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if _, err := s.node.Open(t.Context()); !errors.Is(err, ErrGoAway) {
			t.Errorf("a stream behind it: %v", err)
		}
	})
}

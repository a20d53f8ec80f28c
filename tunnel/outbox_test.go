package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestMuxFailingWriteEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		c := &brokenWriter{bareConn: bareConn{a}}
		node := startMux(t, c, true, muxOptions{})
		up := startMux(t, bareConn{b}, false, muxOptions{})
		x, y := streamPair(t, node, up)
		synctest.Wait() // nobody is writing, who would take what follows along
		c.broken.Store(true)
		wantWriteError(t, x, io.ErrShortWrite)
		mustWrite(t, y, "what was on its way arrives")
		mustRead(t, x, "what was on its way arrives")
		start := time.Now()
		if err := node.wait(); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("run returned %v", err)
		}
		if d := time.Since(start); d != brokenTime {
			t.Errorf("ended after %v, want %v", d, brokenTime)
		}
	})
}

// Whoever repeats a request elsewhere because a Write took none of it must be
// right: a POST that the peer has seen must not be sent twice.
func TestMuxWriteSaysWhatMayHaveLeft(t *testing.T) {
	t.Run("the session ends while the message is being sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := &gatedConn{messages: make(chan []byte)}
			m := startMux(t, c, true, muxOptions{})
			s := mustOpen(t, m)
			synctest.Wait()
			c.next() // its SYN
			synctest.Wait()
			go func() {
				synctest.Wait() // the write is in the system call
				m.fail(ErrClosedByPeer)
				c.next()
			}()
			if n, err := s.Write([]byte("POST")); n != 4 || err != nil {
				t.Errorf("a write whose bytes are out took %d: %v", n, err)
			}
			if n, err := s.Write([]byte("more")); n != 0 || !errors.Is(err, ErrClosedByPeer) {
				t.Errorf("the next write took %d: %v", n, err)
			}
		})
	})
	for _, room := range []int{0, 1, 20} {
		t.Run(fmt.Sprintf("the connection breaks behind %d bytes", room), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memPair()
				nc := &breakingConn{Conn: a}
				node := startMux(t, newCarrier(nc, nil, false), true, muxOptions{})
				up := startMux(t, newCarrier(b, nil, true), false, muxOptions{})
				x, _ := streamPair(t, node, up)
				synctest.Wait()
				nc.room.Store(int64(room))
				nc.breaks.Store(true)
				n, err := x.Write([]byte("POST"))
				if err == nil || (n > 0) != (room > 0) {
					t.Errorf("a write that broke behind %d bytes took %d: %v", room, n, err)
				}
			})
		})
	}
}

func TestMuxJoinsHeaderAndBodyAndWhatIsWrittenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &gatedConn{messages: make(chan []byte)}
		m := startMux(t, c, true, muxOptions{})
		s := mustOpen(t, m)
		synctest.Wait()
		c.next() // its SYN
		synctest.Wait()

		go s.Write([]byte("alone"))
		synctest.Wait()
		// While that is in the system call, others do not wait for it.
		for _, p := range []string{"a", "bb"} {
			mustWrite(t, mustOpen(t, m), p)
		}
		alone := append(frames(muxFrame{kind: kindData, id: 2, length: 5})[:muxHeader], "alone"...)
		if got := c.next(); !bytes.Equal(got, alone) {
			t.Errorf("message %x, want %x", got, alone)
		}
		synctest.Wait()
		extra := m.extraWindow()
		together := slices.Concat(
			frames(muxFrame{kind: kindWindow, flags: flagSYN, id: 4, length: extra}),
			frames(muxFrame{kind: kindData, id: 4, length: 1})[:muxHeader], []byte("a"),
			frames(muxFrame{kind: kindWindow, flags: flagSYN, id: 6, length: extra}),
			frames(muxFrame{kind: kindData, id: 6, length: 2})[:muxHeader], []byte("bb"))
		if got := c.next(); !bytes.Equal(got, together) {
			t.Errorf("message %x, want %x", got, together)
		}
	})
}

func TestMuxSmallWritesDoNotQueueBehindBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &gatedConn{messages: make(chan []byte)}
		m := startMux(t, c, true, muxOptions{})
		var bulk []*Stream
		for range 32 {
			bulk = append(bulk, mustOpen(t, m))
		}
		small := mustOpen(t, m)
		synctest.Wait()
		c.next()
		synctest.Wait()
		for _, s := range bulk {
			go s.Write(make([]byte, 256<<10))
		}
		synctest.Wait()
		mustWrite(t, small, "quick") // waits for nobody

		sent := map[uint32]int{}
		behind := 0 // of bulk, before the small write came
		for most := 0; most < 128<<10; synctest.Wait() {
			for msg := c.next(); len(msg) > 0; {
				f := decodeMuxFrame(msg)
				msg = msg[muxHeader:]
				if f.kind == kindData {
					sent[f.id] += int(f.length)
					most = max(most, sent[f.id])
					msg = msg[f.length:]
				}
				if sent[small.id] == 0 {
					behind += int(f.length)
				}
			}
		}
		if behind > 160<<10 {
			t.Errorf("a small write had to wait for %d KiB", behind>>10)
		}
		for _, s := range bulk {
			if sent[s.id] < 32<<10 {
				t.Errorf("stream %d has sent %d KiB when another one has 128", s.id, sent[s.id]>>10)
			}
		}
	})
}

func TestMuxPeerThatReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &gatedConn{messages: make(chan []byte)}
		m := startMux(t, c, true, muxOptions{})
		var err error
		opens := 0
		for ; err == nil && opens < 100_000; opens++ {
			var s *Stream
			if s, err = m.open(t.Context()); err == nil {
				s.Reset()
			}
		}
		if !errors.Is(err, errPeerReadsNothing) {
			t.Errorf("after %d streams: %v", opens, err)
		}
		if err := m.wait(); !errors.Is(err, errPeerReadsNothing) {
			t.Errorf("run returned %v", err)
		}
	})
}

func TestMuxGoAwayGivesUpOnAPeerThatReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &gatedConn{messages: make(chan []byte)}
		m := startMux(t, c, true, muxOptions{})
		start := time.Now()
		if err := m.goAway(goAwayInternal); err == nil {
			t.Error("goaway succeeded although nobody read it")
		}
		if d := time.Since(start); d != goodbyeTime {
			t.Errorf("after %v, want %v", d, goodbyeTime)
		}
	})
}

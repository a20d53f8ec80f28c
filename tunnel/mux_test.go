package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/yamux"
)

// bareConn carries a mux over any connection, without messages.
type bareConn struct{ net.Conn }

func (c bareConn) writeMessage(b []byte) error {
	_, err := c.Write(b[headroom:])
	// What a carrier does to the bytes that it has sent.
	for i := range b {
		b[i] ^= 0xaa
	}
	return err
}

func (c bareConn) close(uint16, string) { c.Close() }

// runningMux is a mux whose run runs.
type runningMux struct {
	*mux
	ended chan struct{}
	err   error // what run returned, once ended is closed
}

// startMux runs a mux over c until the test ends.
func startMux(t testing.TB, c muxConn, node bool, opt muxOptions) *runningMux {
	t.Helper()
	if opt.allowPeerStreams == 0 && !node {
		opt.allowPeerStreams = 256
	}
	m := &runningMux{mux: newMux(c, node, opt), ended: make(chan struct{})}
	go func() {
		defer close(m.ended)
		m.err = m.run()
	}()
	t.Cleanup(func() { m.stop() })
	return m
}

// stop ends the mux as a session does that is closed, and waits for it.
func (m *runningMux) stop() error {
	m.fail(ErrClosedByUs)
	m.c.close(closeGoingAway, "")
	return m.wait()
}

// wait waits for run.
func (m *runningMux) wait() error {
	<-m.ended
	return m.err
}

// muxPair connects two of ours, over TCP.
func muxPair(t testing.TB, opt muxOptions) (node, up *runningMux) {
	t.Helper()
	a, b := tcpPair(t)
	return startMux(t, bareConn{a}, true, opt), startMux(t, bareConn{b}, false, opt)
}

// memMuxPair connects two of ours, for synctest bubbles.
func memMuxPair(t testing.TB, opt muxOptions) (node, up *runningMux) {
	t.Helper()
	a, b := memPair()
	return startMux(t, bareConn{a}, true, opt), startMux(t, bareConn{b}, false, opt)
}

// streamPair opens a stream from the node's side.
func streamPair(t testing.TB, node, up *runningMux) (a, b *Stream) {
	t.Helper()
	a = mustOpen(t, node)
	return a, mustAccept(t, up)
}

func mustOpen(t testing.TB, m *runningMux) *Stream {
	t.Helper()
	s, err := m.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustAccept(t testing.TB, m *runningMux) *Stream {
	t.Helper()
	s, err := m.accept()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustWrite(t testing.TB, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatalf("write %.20q: %v", s, err)
	}
}

func mustRead(t testing.TB, r io.Reader, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	if n, err := io.ReadFull(r, buf); err != nil || string(buf) != want {
		t.Fatalf("read %.20q, %v, want %.20q", buf[:n], err, want)
	}
}

// wantReadError reads one byte, in vain.
func wantReadError(t testing.TB, r io.Reader, want error) {
	t.Helper()
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, want) {
		t.Fatalf("Read: %d, %v, want error %v", n, err, want)
	}
}

func wantWriteError(t testing.TB, w io.Writer, want error) {
	t.Helper()
	if _, err := w.Write([]byte("x")); !errors.Is(err, want) {
		t.Fatalf("Write: %v, want %v", err, want)
	}
}

func quietYamux() *yamux.Config {
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	return cfg
}

// wantStreams waits until so many streams are left.
func wantStreams(t testing.TB, m *runningMux, want int) {
	t.Helper()
	eventually(t, func() error {
		if n := m.numStreams(); n != want {
			return fmt.Errorf("%d streams, want %d", n, want)
		}
		return nil
	})
}

func TestMuxOpensEvenIDsAtTheNodeAndOddOnesAtTheUpstream(t *testing.T) {
	node, up := muxPair(t, muxOptions{allowPeerStreams: 1})
	for _, want := range []uint32{2, 4, 6} {
		a, b := streamPair(t, node, up)
		if a.ID() != want || b.ID() != want {
			t.Errorf("ids %d and %d, want %d", a.ID(), b.ID(), want)
		}
	}
	s := mustOpen(t, up)
	if s.ID() != 1 {
		t.Errorf("upstream opened %d, want 1", s.ID())
	}
	if mustAccept(t, node).ID() != 1 {
		t.Error("node accepted another stream than it was offered")
	}
	if a, b := node.lastStreamID(), up.lastStreamID(); a != 6 || b != 6 {
		t.Errorf("last ids of the node's streams: %d and %d, want 6", a, b)
	}
	if a, b := node.numStreams(), up.numStreams(); a != 4 || b != 4 {
		t.Errorf("%d and %d streams, want 4", a, b)
	}
}

func TestMuxOpenIsAcknowledgedByAccept(t *testing.T) {
	node, up := muxPair(t, muxOptions{})
	a := mustOpen(t, node)
	if a.Acked() {
		t.Error("acknowledged before anybody accepted")
	}
	b := mustAccept(t, up)
	mustWrite(t, b, "x") // goes out behind the ACK
	mustRead(t, a, "x")
	if !a.Acked() || !b.Acked() {
		t.Error("not acknowledged after accept")
	}
}

func TestMuxOpenWaitsForAcknowledgements(t *testing.T) {
	node, up := muxPair(t, muxOptions{})
	for range maxUnacked {
		mustOpen(t, node)
	}
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error)
	go func() {
		_, err := node.open(ctx)
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("stream %d opened without an acknowledgement: %v", maxUnacked+1, err)
	default:
	}
	mustAccept(t, up)
	if err := <-opened; err != nil {
		t.Fatalf("open after an acknowledgement: %v", err)
	}
	go func() {
		_, err := node.open(ctx)
		opened <- err
	}()
	cancel()
	if err := <-opened; !errors.Is(err, context.Canceled) {
		t.Errorf("open that was given up: %v", err)
	}
}

func TestMuxOpenLimits(t *testing.T) {
	node, up := muxPair(t, muxOptions{maxStreams: 2})
	a, b := streamPair(t, node, up)
	streamPair(t, node, up)
	if _, err := node.open(t.Context()); !errors.Is(err, ErrTooManyStreams) {
		t.Errorf("third of two streams: %v", err)
	}
	a.Close()
	b.Close()
	wantStreams(t, node, 1)
	node.mux.mu.Lock()
	node.nextID = lastStream
	node.mux.mu.Unlock()
	if _, err := node.open(t.Context()); !errors.Is(err, ErrExhausted) {
		t.Errorf("open without ids left: %v", err)
	}
	node.stop()
	if _, err := node.open(t.Context()); !errors.Is(err, ErrClosedByUs) {
		t.Errorf("open after the end: %v", err)
	}
}

func TestMuxGoAwayStopsOpensAndNothingElse(t *testing.T) {
	told := make(chan uint32, 2)
	node, up := muxPair(t, muxOptions{onGoAway: func(code uint32) { told <- code }})
	a, b := streamPair(t, node, up)
	if err := up.goAway(goAwayNormal); err != nil {
		t.Fatal(err)
	}
	if code := <-told; code != goAwayNormal {
		t.Errorf("code %d", code)
	}
	if _, err := node.open(t.Context()); !errors.Is(err, ErrGoAway) {
		t.Errorf("open after goaway: %v", err)
	}
	mustWrite(t, a, "still here")
	mustRead(t, b, "still here")
	mustWrite(t, b, "me too")
	mustRead(t, a, "me too")
}

func TestMuxRefusesStreamsThatCrossItsGoAway(t *testing.T) {
	node, up := muxPair(t, muxOptions{})
	up.mux.mu.Lock()
	up.weLeave = true // as if the frame were on its way
	up.mux.mu.Unlock()
	s := mustOpen(t, node)
	wantReadError(t, s, ErrRefused)
	wantWriteError(t, s, ErrRefused)
	wantStreams(t, node, 0)
}

func TestMuxEndsWithTheFatalGoAway(t *testing.T) {
	for _, code := range []uint32{goAwayProtocol, goAwayInternal, 7} {
		node, up := muxPair(t, muxOptions{})
		a, _ := streamPair(t, node, up)
		up.goAway(code)
		away, ok := errors.AsType[*GoAwayError](node.wait())
		if !ok || away.Code != code {
			t.Errorf("code %d: run returned %v", code, node.err)
		}
		wantReadError(t, a, node.err)
	}
}

func TestMuxEndReachesEveryStreamBehindItsData(t *testing.T) {
	node, up := muxPair(t, muxOptions{})
	a, b := streamPair(t, node, up)
	half, ended := streamPair(t, node, up)
	mustWrite(t, b, "last words")
	mustWrite(t, ended, "done")
	ended.CloseWrite()
	mustRead(t, half, "d") // all of it has arrived then
	up.goAway(goAwayNormal)
	up.c.close(closeNormal, "")
	if err := node.wait(); !errors.Is(err, ErrClosedByPeer) {
		t.Errorf("run returned %v", err)
	}
	mustRead(t, a, "last words")
	wantReadError(t, a, ErrClosedByPeer) // and no EOF, which the peer never sent
	wantWriteError(t, a, ErrClosedByPeer)
	mustRead(t, half, "one")
	wantReadError(t, half, io.EOF)
	if _, err := node.accept(); !errors.Is(err, ErrClosedByPeer) {
		t.Errorf("accept: %v", err)
	}
}

func TestMuxEndWakesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, up := memMuxPair(t, muxOptions{})
		a, _ := streamPair(t, node, up)
		full, _ := streamPair(t, node, up)
		for range maxUnacked {
			mustOpen(t, node)
		}
		results := make(chan error, 4)
		go func() { _, err := a.Read(make([]byte, 1)); results <- err }()
		go func() { _, err := full.Write(make([]byte, 1<<20)); results <- err }()
		go func() { _, err := node.accept(); results <- err }()
		go func() { _, err := node.open(t.Context()); results <- err }()
		synctest.Wait()
		if len(results) > 0 {
			t.Fatalf("somebody did not wait: %v", <-results)
		}
		dead := errors.New("dead")
		node.fail(dead)
		synctest.Wait()
		for range cap(results) {
			if err := <-results; !errors.Is(err, dead) {
				t.Errorf("woken with %v", err)
			}
		}
	})
}

func TestMuxFailingWriteEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPair()
		c := &brokenWriter{bareConn: bareConn{a}}
		node := startMux(t, c, true, muxOptions{})
		up := startMux(t, bareConn{b}, false, muxOptions{})
		x, y := streamPair(t, node, up)
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

func TestMuxMapShrinksAfterAPeak(t *testing.T) {
	node, up := muxPair(t, muxOptions{})
	const n = 1000
	var open []*Stream
	for range n {
		a, b := streamPair(t, node, up)
		open = append(open, a, b)
	}
	for _, s := range open[2:] {
		s.Close()
	}
	wantStreams(t, node, 1)
	wantStreams(t, up, 1)
	if node.peak > n/4 {
		t.Errorf("map made for %d streams is kept for 1", node.peak)
	}
	mustWrite(t, open[0], "alive")
	mustRead(t, open[1], "alive")
}

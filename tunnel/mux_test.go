package tunnel

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
)

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
	if r, ok := errors.AsType[interface {
		error
		Refused() bool
	}](ErrRefused); !ok || !r.Refused() {
		t.Error("packages that do not import this one cannot tell a refusal")
	}
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

package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// carrierPeer is the other end of a carrier in tests: it writes raw bytes and
// collects frames.
type carrierPeer struct {
	net.Conn
	got []byte
}

// newCarrierPeer makes a carrier in the given role over TCP, and its raw peer.
func newCarrierPeer(t testing.TB, client bool) (*carrier, *carrierPeer) {
	t.Helper()
	near, far := tcpPair(t)
	c := newCarrier(near, nil, client)
	t.Cleanup(func() { c.close(0, "") })
	return c, &carrierPeer{Conn: far}
}

// tcpPair is two ends of one TCP connection.
func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// frame reads the next frame that the carrier sent.
func (p *carrierPeer) frame(t testing.TB) testFrame {
	t.Helper()
	p.SetReadDeadline(time.Now().Add(5 * time.Second))
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

func (p *carrierPeer) send(t testing.TB, frames ...testFrame) {
	t.Helper()
	var b []byte
	for _, f := range frames {
		b = append(b, f.bytes()...)
	}
	if _, err := p.Write(b); err != nil {
		t.Fatal(err)
	}
}

func TestCarrierEnds(t *testing.T) {
	whole := testFrame{op: opBinary, masked: true, payload: []byte("hello")}.bytes()
	fragment := testFrame{op: opBinary, more: true, masked: true, payload: []byte("hello")}.bytes()
	closing := testFrame{op: opClose, masked: true, payload: []byte{0x03, 0xe9, 'b', 'y', 'e'}}.bytes()
	for _, c := range []struct {
		name string
		in   []byte
		want string
		err  error
	}{
		{"before anything", nil, "", io.EOF},
		{"after a message", whole, "hello", io.EOF},
		{"by a close frame", slices.Concat(whole, closing), "hello", io.EOF},
		{"by a close frame within a message", slices.Concat(fragment, closing), "hello", io.EOF},
		{"by an empty close frame", testFrame{op: opClose, masked: true}.bytes(), "", io.EOF},
		{"within a header", slices.Concat(whole, whole[:1]), "hello", io.ErrUnexpectedEOF},
		{"within a mask", slices.Concat(whole, whole[:5]), "hello", io.ErrUnexpectedEOF},
		{"before the payload", slices.Concat(whole, whole[:6]), "hello", io.ErrUnexpectedEOF},
		{"within the payload", slices.Concat(whole, whole[:9]), "hellohel", io.ErrUnexpectedEOF},
		{"within a ping", slices.Concat(whole, testFrame{op: opPing, masked: true, payload: []byte("ping")}.bytes()[:8]), "hello", io.ErrUnexpectedEOF},
		{"between fragments", fragment, "hello", io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			car, peer := newCarrierPeer(t, false)
			peer.Write(c.in)
			peer.Conn.(*net.TCPConn).CloseWrite()
			var got []byte
			var err error
			for b := make([]byte, 3); err == nil; {
				var n int
				n, err = car.Read(b)
				got = append(got, b[:n]...)
			}
			if string(got) != c.want || err != c.err {
				t.Errorf("read %q and %v, want %q and %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestCarrierAnswersCloseWithItsCode(t *testing.T) {
	car, peer := newCarrierPeer(t, true)
	peer.send(t, testFrame{op: opClose, payload: []byte("\x03\xf4restart")})
	if _, err := car.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("Read: %v, want EOF", err)
	}
	if err := car.writeMessage(make([]byte, headroom+1)); !errors.Is(err, io.EOF) {
		t.Errorf("write after the peer's close frame: %v, want one that says so", err)
	}
	if !car.sendClose(closeNormal, "", nil) {
		t.Error("the close frame that was sent counts as none: TLS would be cut off")
	}
	car.close(closeGoingAway, "late")
	if f := peer.frame(t); f.op != opClose || !f.masked || string(f.payload) != "\x03\xf4" {
		t.Errorf("answered with op %d %q, want the code 1012 back", f.op, f.payload)
	}
	if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the close frame came %d bytes, %v; want the end", n, err)
	}
}

func TestCarrierReassemblesMessages(t *testing.T) {
	car, peer := newCarrierPeer(t, false)
	peer.send(t,
		testFrame{op: opBinary, more: true, masked: true, payload: []byte("one ")},
		testFrame{op: opPing, masked: true, payload: []byte("are you there?")},
		testFrame{op: opContinuation, more: true, masked: true},
		testFrame{op: opContinuation, masked: true, payload: []byte("message")},
		testFrame{op: opBinary, masked: true},
		testFrame{op: opPong, masked: true, payload: []byte("unasked")},
		testFrame{op: opBinary, masked: true, payload: bytes.Repeat([]byte(", another"), 10_000)},
	)
	want := "one message" + strings.Repeat(", another", 10_000)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(car, got); err != nil || string(got) != want {
		t.Fatalf("read something else than was sent, and %v", err)
	}
	if f := peer.frame(t); f.op != opPong || string(f.payload) != "are you there?" || f.masked {
		t.Errorf("the ping was answered with op %d %q", f.op, f.payload)
	}
}

func TestCarrierTakesWhatCameBehindTheHandshake(t *testing.T) {
	near, far := tcpPair(t)
	early := bytes.Repeat([]byte("early"), 3000)
	frames := testFrame{op: opBinary, masked: true, payload: early}.bytes()
	car := newCarrier(near, frames[:10_000], false)
	defer car.close(0, "")
	far.Write(frames[10_000:])
	got := make([]byte, len(early))
	if _, err := io.ReadFull(car, got); err != nil || !bytes.Equal(got, early) {
		t.Fatalf("read something else than was sent, and %v", err)
	}
	far.Write(testFrame{op: opBinary, masked: true, payload: []byte("late")}.bytes())
	if _, err := io.ReadFull(car, got[:4]); err != nil || string(got[:4]) != "late" {
		t.Fatalf("read %q, %v", got[:4], err)
	}
	if len(car.in.buf) != smallBuffer || car.in.big != nil {
		t.Errorf("the buffer for what came early stays, with %d bytes", len(car.in.buf))
	}
}

func TestCarrierReadGoesOnAfterItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		car := newCarrier(near, nil, false)
		defer car.close(0, "")
		payload := bytes.Repeat([]byte("0123456789"), 30)
		wire := slices.Concat(
			testFrame{op: opPing, masked: true, payload: []byte("p")}.bytes(),
			testFrame{op: opBinary, more: true, masked: true, payload: payload[:200]}.bytes(),
			testFrame{op: opContinuation, masked: true, payload: payload[200:]}.bytes())
		go func() {
			for i := range wire { // every byte comes after a time-out or two
				time.Sleep(25 * time.Millisecond)
				far.Write(wire[i : i+1])
			}
		}()
		go io.Copy(io.Discard, far)
		var got []byte
		timeouts := 0
		for b := make([]byte, 64); len(got) < len(payload); {
			car.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			n, err := car.Read(b)
			got = append(got, b[:n]...)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				timeouts++
			} else if err != nil {
				t.Fatalf("Read: %v", err)
			}
		}
		if !bytes.Equal(got, payload) || timeouts < len(wire) {
			t.Errorf("read %q with %d time-outs", got, timeouts)
		}
	})
}

func TestCarrierWritesOneFrameAndOneCallPerMessage(t *testing.T) {
	for _, client := range []bool{false, true} {
		sink := &writeRecorder{}
		car := newCarrier(sink, nil, client)
		for _, n := range []int{1, 12, 125, 126, 32 << 10, 65535, 65536, 128 << 10} {
			b := append(make([]byte, headroom), bytes.Repeat([]byte{'x'}, n)...)
			sink.calls = nil
			if err := car.writeMessage(b); err != nil {
				t.Fatal(err)
			}
			if len(sink.calls) != 1 {
				t.Fatalf("%d bytes took %d calls", n, len(sink.calls))
			}
			f, size := parseTestFrame(sink.calls[0])
			if size != len(sink.calls[0]) || f.op != opBinary || f.more || f.masked != client || string(f.payload) != strings.Repeat("x", n) {
				t.Errorf("%d bytes of a client %v are another frame", n, client)
			}
		}
		sink.calls = nil
		if err := car.writeMessage(make([]byte, headroom)); err != nil || len(sink.calls) != 0 {
			t.Errorf("nothing to write took %d calls, %v", len(sink.calls), err)
		}
	}
}

// writeRecorder is a connection that remembers the calls of Write.
type writeRecorder struct {
	net.Conn
	calls [][]byte
}

func (r *writeRecorder) Write(p []byte) (int, error) {
	r.calls = append(r.calls, bytes.Clone(p))
	return len(p), nil
}

func TestCarrierMasksDiffer(t *testing.T) {
	sink := &writeRecorder{}
	car := newCarrier(sink, nil, true)
	seen := map[string]bool{}
	for range 100 {
		car.writeMessage(make([]byte, headroom+1))
		seen[string(sink.calls[len(sink.calls)-1][2:6])] = true
	}
	if len(seen) < 99 {
		t.Errorf("only %d masks in 100 frames", len(seen))
	}
}

func TestCarrierWriteLeavesItsArgument(t *testing.T) {
	car, peer := newCarrierPeer(t, true)
	p := bytes.Repeat([]byte("argument"), 10_000)
	go func() {
		if n, err := car.Write(p); n != len(p) || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		car.Close()
	}()
	var got []byte
	for {
		f := peer.frame(t)
		if f.op == opClose {
			break
		}
		got = append(got, f.payload...)
	}
	if string(got) != strings.Repeat("argument", 10_000) || !bytes.Equal(p, got) {
		t.Error("the peer got something else, or the argument was masked")
	}
}

func TestCarrierAnswersOnlyTheLatestPingWhileItWrites(t *testing.T) {
	car, peer := newCarrierPeer(t, false)
	car.wlock <- struct{}{} // as a writer that takes its time
	go car.Read(make([]byte, 1))
	before := car.lastRead()
	for i := range 5 {
		peer.send(t, testFrame{op: opPing, masked: true, payload: fmt.Appendf(nil, "ping %d", i)})
	}
	eventually(t, func() error {
		car.ctl.mu.Lock()
		defer car.ctl.mu.Unlock()
		if string(car.ctl.pongPayload) != "ping 4" {
			return fmt.Errorf("the pong that waits is %q", car.ctl.pongPayload)
		}
		return nil
	})
	if !car.lastRead().After(before) {
		t.Error("a ping is no sign of life")
	}
	if err := car.ping(); err != nil {
		t.Errorf("ping while another writes: %v", err)
	}
	car.unlockWrite()
	if f := peer.frame(t); f.op != opPong || string(f.payload) != "ping 4" {
		t.Errorf("the first frame is op %d %q, want the pong", f.op, f.payload)
	}
	if f := peer.frame(t); f.op != opPing {
		t.Errorf("the second frame is op %d %q, want our ping", f.op, f.payload)
	}
	car.writeMessage(append(make([]byte, headroom), 'x'))
	if f := peer.frame(t); f.op != opBinary {
		t.Errorf("then comes op %d %q, want the message", f.op, f.payload)
	}
}

func TestCarrierPingGoesBetweenBulkMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		car := newCarrier(near, nil, false)
		var writers sync.WaitGroup
		for range 4 {
			writers.Go(func() {
				for b := make([]byte, headroom+128<<10); car.writeMessage(b) == nil; {
				}
			})
		}
		synctest.Wait() // all of them wait, for the pipe or for each other
		if err := car.ping(); err != nil {
			t.Fatal(err)
		}
		peer := &carrierPeer{Conn: far}
		for i := 0; ; i++ {
			f := peer.frame(t)
			if f.op == opPing {
				break
			}
			if i > 1 {
				t.Fatal("the ping waits behind more than the message that was being written")
			}
		}
		car.close(0, "")
		writers.Wait()
	})
}

func TestCarrierCloseIsBoundedWhenThePeerReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		car := newCarrier(near, nil, true)
		stuck := make(chan error, 1)
		go func() { stuck <- car.writeMessage(make([]byte, headroom+10)) }()
		synctest.Wait()
		start := time.Now()
		if err := car.ping(); err != nil || time.Since(start) != 0 {
			t.Errorf("ping took %v, %v", time.Since(start), err)
		}
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() { car.close(closeGoingAway, "enough") })
		}
		closers.Wait()
		if d := time.Since(start); d != closeTimeout {
			t.Errorf("close took %v, want %v", d, closeTimeout)
		}
		if err := <-stuck; err == nil {
			t.Error("the write that was stuck succeeded")
		}
		if err := car.ping(); err == nil {
			t.Error("ping after close succeeded")
		}
		if _, err := car.Write([]byte("x")); err == nil {
			t.Error("write after close succeeded")
		}
	})
}

func TestCarrierPingThatFindsNoRoomEndsWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		car := newCarrier(near, nil, false)
		car.SetWriteDeadline(time.Now().Add(time.Hour))
		start := time.Now()
		if err := car.ping(); err != nil || time.Since(start) != 0 {
			t.Errorf("ping took %v, %v", time.Since(start), err)
		}
		time.Sleep(controlTimeout + time.Millisecond)
		if err := car.ping(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the next ping: %v, want what became of the first", err)
		}
		car.close(0, "")
	})
}

func TestCarrierPingLeavesNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memPair()
		car := newCarrier(near, nil, false)
		defer car.close(0, "")
		car.ping()
		time.Sleep(2 * controlTimeout)
		if err := car.writeMessage(append(make([]byte, headroom), 'x')); err != nil {
			t.Errorf("write long after a ping: %v", err)
		}
		peer := &carrierPeer{Conn: far}
		if a, b := peer.frame(t), peer.frame(t); a.op != opPing || b.op != opBinary {
			t.Errorf("the peer got op %d and %d", a.op, b.op)
		}
	})
}

// lingeringConn takes nothing until it is closed, and a second more to notice.
type lingeringConn struct {
	net.Conn
	closed chan struct{}
	left   bool
}

func (c *lingeringConn) Write([]byte) (int, error) {
	<-c.closed
	time.Sleep(time.Second)
	c.left = true
	return 0, net.ErrClosed
}

func (c *lingeringConn) Close() error                     { close(c.closed); return nil }
func (c *lingeringConn) SetWriteDeadline(time.Time) error { return nil }

func TestCarrierCloseWaitsForItsPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := &lingeringConn{closed: make(chan struct{})}
		car := newCarrier(nc, nil, false)
		car.ping()
		synctest.Wait()
		car.close(0, "")
		if !nc.left {
			t.Error("the ping's goroutine is still writing")
		}
	})
}

func TestCarrierCloseTellsThePeerWhy(t *testing.T) {
	car, peer := newCarrierPeer(t, true)
	car.close(closeGoingAway, strings.Repeat("r", 200))
	car.close(closeNormal, "again")
	f := peer.frame(t)
	if f.op != opClose || !f.masked || string(f.payload) != "\x03\xe9"+strings.Repeat("r", 123) {
		t.Errorf("the peer got op %d %q", f.op, f.payload)
	}
	if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("then %d bytes, %v; want the end", n, err)
	}
}

func TestCarrierDeadlinesAreTheConnections(t *testing.T) {
	car, peer := newCarrierPeer(t, false)
	car.SetDeadline(time.Now().Add(-time.Second))
	if _, err := car.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	car.SetReadDeadline(time.Time{})
	peer.send(t, testFrame{op: opBinary, masked: true, payload: []byte("x")})
	if n, err := car.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("Read with the deadline gone: %d, %v", n, err)
	}
	if _, err := car.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %v", err)
	}
	if car.LocalAddr().String() != peer.RemoteAddr().String() || car.RemoteAddr().String() != peer.LocalAddr().String() {
		t.Error("the addresses are not the connection's")
	}
}

// wireLoop is a connection from which the same frame is read for ever.
type wireLoop struct {
	net.Conn
	frame []byte
	at    int
}

func (l *wireLoop) Read(p []byte) (n int, err error) {
	for n < len(p) {
		m := copy(p[n:], l.frame[l.at:])
		n += m
		if l.at += m; l.at == len(l.frame) {
			l.at = 0
		}
	}
	return n, nil
}

func (l *wireLoop) Write(p []byte) (int, error) { return len(p), nil }

func TestCarrierAllocatesNothing(t *testing.T) {
	for _, client := range []bool{false, true} {
		for _, n := range []int{12, 1 << 10, 32 << 10, 128 << 10} {
			frame := testFrame{op: opBinary, masked: !client, payload: make([]byte, n)}.bytes()
			car := newCarrier(&wireLoop{frame: frame}, nil, client)
			b := make([]byte, headroom+n)
			if allocs := testing.AllocsPerRun(100, func() { car.writeMessage(b) }); allocs != 0 {
				t.Errorf("client %v: %v allocations to write %d bytes", client, allocs, n)
			}
			if allocs := testing.AllocsPerRun(100, func() { io.ReadFull(car, b[:n]) }); allocs != 0 {
				t.Errorf("client %v: %v allocations to read %d bytes", client, allocs, n)
			}
		}
	}
}

// countingConn counts the reads of a connection.
type countingConn struct {
	net.Conn
	reads int
}

func (c *countingConn) Read(p []byte) (int, error) {
	c.reads++
	return c.Conn.Read(p)
}

func TestCarrierBorrowsALargeBufferOnlyWhileMuchComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memPair()
		counting := &countingConn{Conn: near}
		car := newCarrier(counting, nil, false)
		defer car.close(0, "")
		const messages = 4000
		far.Write(bytes.Repeat(testFrame{op: opBinary, masked: true, payload: []byte("0123456789ab")}.bytes(), messages))
		read := make(chan int)
		go func() {
			n, _ := io.Copy(io.Discard, struct{ io.Reader }{car})
			read <- int(n)
		}()
		synctest.Wait() // the reader waits for more
		if car.in.big != nil || len(car.in.buf) != smallBuffer {
			t.Error("the reader waits with a large buffer")
		}
		if counting.reads > 20 {
			t.Errorf("%d small messages took %d reads", messages, counting.reads)
		}
		far.Close()
		if n := <-read; n != 12*messages {
			t.Errorf("read %d bytes, want %d", n, 12*messages)
		}
	})
}

func TestCarrierReadsLargeMessagesWithOneCallEach(t *testing.T) {
	const size = 32 << 10
	near := &wireLoop{frame: testFrame{op: opBinary, payload: make([]byte, size)}.bytes()}
	counting := &countingConn{Conn: near}
	car := newCarrier(counting, nil, true)
	b := make([]byte, size+smallBuffer) // the mux offers a little room behind
	for read := 0; read < 100*size; {
		n, err := car.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		read += n
	}
	if counting.reads > 110 {
		t.Errorf("100 messages took %d reads", counting.reads)
	}
}

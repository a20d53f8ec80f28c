package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
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

func TestCarrierRefusesBadFrames(t *testing.T) {
	m := func(op byte, payload string) []byte {
		return testFrame{op: op, masked: true, payload: []byte(payload)}.bytes()
	}
	more := func(op byte, payload string) []byte {
		return testFrame{op: op, more: true, masked: true, payload: []byte(payload)}.bytes()
	}
	long := func(length uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, length), testKey[:]...)
	}
	code := func(n uint16, reason string) string { return string(binary.BigEndian.AppendUint16(nil, n)) + reason }
	for _, c := range []struct {
		name   string
		client bool // the carrier's role
		in     []byte
		reason string
		code   uint16
	}{
		{"text message", false, m(opText, "hello"), "text message", closeUnsupported},
		{"fragmented text message", false, more(opText, "hello"), "text message", closeUnsupported},
		{"unmasked frame of a client", false, testFrame{op: opBinary, payload: []byte("x")}.bytes(), "client is not masked", closeProtocolError},
		{"unmasked header of a client and no more", false, []byte{0x82, 0x7f}, "client is not masked", closeProtocolError},
		{"unmasked ping of a client", false, testFrame{op: opPing}.bytes(), "client is not masked", closeProtocolError},
		{"masked frame of a server", true, m(opBinary, "x"), "server is masked", closeProtocolError},
		{"length 2^63", false, long(1 << 63), "2^63", closeProtocolError},
		{"length -1", false, long(1<<64 - 1), "2^63", closeProtocolError},
		{"length 2^63-1", false, long(1<<63 - 1), "1 GiB", closeTooBig},
		{"length 2^62", false, long(1 << 62), "1 GiB", closeTooBig},
		{"length 1 GiB and a byte", false, long(1<<30 + 1), "1 GiB", closeTooBig},
		{"16-bit length in 64 bits", false, long(1<<16 - 1), "shortest", closeProtocolError},
		{"7-bit length in 16 bits", false, []byte{0x82, 0xfe, 0, 125}, "shortest", closeProtocolError},
		{"RSV1, as compression sets it", false, []byte{0xc2, 0x80}, "reserved bits", closeProtocolError},
		{"RSV2", false, []byte{0xa2, 0x80}, "reserved bits", closeProtocolError},
		{"RSV3", false, []byte{0x92, 0x80}, "reserved bits", closeProtocolError},
		{"reserved data opcode", false, m(3, ""), "reserved opcode", closeProtocolError},
		{"reserved control opcode", false, m(0xb, ""), "reserved opcode", closeProtocolError},
		{"ping of 126 bytes", false, m(opPing, strings.Repeat("p", 126)), "longer than 125", closeProtocolError},
		{"pong of 64 KiB", false, m(opPong, strings.Repeat("p", 64<<10)), "longer than 125", closeProtocolError},
		{"close of 126 bytes", false, m(opClose, strings.Repeat("p", 126)), "longer than 125", closeProtocolError},
		{"fragmented ping", false, more(opPing, ""), "control frame is fragmented", closeProtocolError},
		{"continuation first", false, m(opContinuation, "x"), "continues nothing", closeProtocolError},
		{"continuation after the last fragment", false, slices.Concat(more(opBinary, ""), m(opContinuation, ""), m(opContinuation, "")), "continues nothing", closeProtocolError},
		{"message within a message", false, slices.Concat(more(opBinary, ""), m(opBinary, "")), "within another", closeProtocolError},
		{"close with half a code", false, m(opClose, "x"), "half a code", closeProtocolError},
		{"close with code 999", false, m(opClose, code(999, "")), "none may send", closeProtocolError},
		{"close with code 1005", false, m(opClose, code(1005, "")), "none may send", closeProtocolError},
		{"close with code 1006", false, m(opClose, code(1006, "")), "none may send", closeProtocolError},
		{"close with code 1015", false, m(opClose, code(1015, "")), "none may send", closeProtocolError},
		{"close with code 2999", false, m(opClose, code(2999, "")), "none may send", closeProtocolError},
		{"close with code 5000", false, m(opClose, code(5000, "")), "none may send", closeProtocolError},
		{"close with a reason that is no UTF-8", false, m(opClose, code(1000, "\xff")), "not UTF-8", closeInvalidData},
	} {
		t.Run(c.name, func(t *testing.T) {
			car, peer := newCarrierPeer(t, c.client)
			if _, err := peer.Write(c.in); err != nil {
				t.Fatal(err)
			}
			n, err := car.Read(make([]byte, 100))
			bad, ok := errors.AsType[*ProtocolError](err)
			if n != 0 || !ok || !strings.Contains(bad.Reason, c.reason) {
				t.Fatalf("Read = %d, %v; want a ProtocolError about %q", n, err, c.reason)
			}
			f := peer.frame(t)
			if f.op != opClose || len(f.payload) < 2 || binary.BigEndian.Uint16(f.payload) != c.code || string(f.payload[2:]) != bad.Reason {
				t.Errorf("the peer was sent op %d %q, want a close frame with %d and the reason", f.op, f.payload, c.code)
			}
			if _, again := car.Read(make([]byte, 100)); again != err {
				t.Errorf("Read after the error: %v, want it again", again)
			}
			if err := car.writeMessage(make([]byte, headroom+1)); err != bad {
				t.Errorf("write after the error: %v, want it as well", err)
			}
		})
	}
}

func TestCarrierAllocatesNothingByDeclaredLength(t *testing.T) {
	car, peer := newCarrierPeer(t, false)
	peer.Write(append(binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, 1<<30), 1, 2, 3, 4, 'x'))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if n, err := car.Read(make([]byte, 100)); n != 1 || err != nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
		t.Errorf("%d bytes allocated for a frame that says it has 1 GiB", n)
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

func TestCarrierPingFloodEnds(t *testing.T) {
	for name, frame := range map[string]testFrame{
		"pings":          {op: opPing, masked: true},
		"pongs":          {op: opPong, masked: true, payload: []byte("x")},
		"empty messages": {op: opBinary, masked: true},
	} {
		t.Run(name, func(t *testing.T) {
			car, peer := newCarrierPeer(t, false)
			go peer.Write(bytes.Repeat(frame.bytes(), 1_000_000)) // it reads nothing
			goroutines := runtime.NumGoroutine()
			_, err := car.Read(make([]byte, 10))
			if bad, ok := errors.AsType[*ProtocolError](err); !ok || bad.closeCode() != closePolicy {
				t.Fatalf("Read: %v, want a ProtocolError for the flood", err)
			}
			if n := runtime.NumGoroutine() - goroutines; n > 2 {
				t.Errorf("the flood made %d goroutines", n)
			}
			peer.Close()
		})
	}
}

func TestCarrierTinyFragmentFloodEnds(t *testing.T) {
	car, peer := newCarrierPeer(t, false)
	go func() {
		peer.Write(testFrame{op: opBinary, more: true, masked: true, payload: []byte{'x'}}.bytes())
		peer.Write(bytes.Repeat(testFrame{op: opContinuation, more: true, masked: true, payload: []byte{'x'}}.bytes(), 1_000_000))
	}()
	n, err := io.Copy(io.Discard, car)
	if _, ok := errors.AsType[*ProtocolError](err); !ok || n > 10*maxOddFrames {
		t.Errorf("after %d fragments: %v, want a ProtocolError", n, err)
	}
	peer.Close()
}

func TestCarrierTakesManyMessagesAndSomePings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		car := newCarrier(near, nil, false)
		defer car.close(0, "")
		go io.Copy(io.Discard, far)
		go func() {
			for range 50 { // 50 s with 500 pings in each, and small messages
				far.Write(bytes.Repeat(testFrame{op: opPing, masked: true}.bytes(), 500))
				far.Write(bytes.Repeat(testFrame{op: opBinary, masked: true, payload: []byte("x")}.bytes(), 5000))
				time.Sleep(time.Second)
			}
			far.Close()
		}()
		if n, err := io.Copy(io.Discard, car); n != 50*5000 || err != nil {
			t.Errorf("read %d bytes, %v", n, err)
		}
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

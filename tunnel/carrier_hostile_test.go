package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

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
		{"the end of a client's data, in a tunnel", false, m(opText, string(eofPayload)), "only binary", closeUnsupported},
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
			car.SetReadDeadline(time.Now().Add(5 * time.Second))
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

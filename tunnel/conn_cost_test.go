package tunnel

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// writesConn counts calls of Write and remembers how long they were.
type writesConn struct {
	net.Conn
	sizes []int
}

func (c *writesConn) Write(p []byte) (int, error) {
	c.sizes = append(c.sizes, len(p))
	return len(p), nil
}

func TestConnOneSystemCallForAWrite(t *testing.T) {
	for _, client := range []bool{true, false} {
		a, _ := tcpPair(t)
		wire := &writesConn{Conn: a}
		c := newConn(newCarrier(wire, nil, client), true)
		header := 0
		if client {
			header = 4
		}
		data := make([]byte, connChunk+100)
		c.Write(data[:1])
		c.Write(data[:connChunk])
		c.Write(data)
		want := []int{3 + header, connChunk + 4 + header, connChunk + 4 + header, 102 + header}
		if !slices.Equal(wire.sizes, want) {
			t.Errorf("client %v: wrote %v, want %v", client, wire.sizes, want)
		}
		c.Reset()
		c.Close()
	}
}

// Who ends as the second one closes with it.
func TestConnEndsAndClosesWithOneSystemCall(t *testing.T) {
	near, far := tcpPair(t)
	far.Write(textFrame("eof").bytes())
	wire := &writesConn{Conn: near}
	c := newConn(newCarrier(wire, nil, false), true)
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	far.Close()
	c.Close()
	if want := []int{2 + 3 + 2 + 2}; !slices.Equal(wire.sizes, want) {
		t.Errorf("wrote %v, want %v", wire.sizes, want)
	}
}

// What is not masked is not copied either, and is the same on the wire.
func TestConnWritesWithoutACopy(t *testing.T) {
	for _, size := range []int{wideWrite - 1, wideWrite, connChunk} {
		c, peer := newConnPeer(t, false, true)
		data := make([]byte, size)
		rand.Read(data)
		for range 2 {
			if n, err := c.Write(data); n != size || err != nil {
				t.Fatal(n, err)
			}
			if f := peer.frame(t); f.op != opBinary || f.masked || f.more || !bytes.Equal(f.payload, data) {
				t.Errorf("%d bytes arrived as %d, op %d", size, len(f.payload), f.op)
			}
		}
		peer.Conn.(*net.TCPConn).SetLinger(0)
		peer.Close()
		eventually(t, func() error {
			if _, err := c.Write(data); err == nil {
				return errors.New("nobody is there, and takes it")
			}
			return nil
		})
	}
}

// A reader with a buffer of 64 KiB takes the frames of a Conn whole, together
// with the next header.
func TestConnOneSystemCallForARead(t *testing.T) {
	var wire []byte
	const frames = 100
	for range frames {
		wire = append(wire, testFrame{op: opBinary, masked: true, payload: make([]byte, connChunk)}.bytes()...)
	}
	nc := &countingConn{Conn: &wireConn{rest: wire}}
	c := newConn(newCarrier(nc, nil, false), true)
	b := make([]byte, 64<<10)
	calls := 0
	for total := 0; total < frames*connChunk; calls++ {
		n, err := c.Read(b)
		if total += n; err != nil {
			t.Fatal(err)
		}
	}
	if calls > frames+2 || nc.reads > frames+4 {
		t.Errorf("%d frames took %d calls of Read and %d system calls", frames, calls, nc.reads)
	}
	c.Reset()
	c.Close()
}

// wireConn gives what is left of its bytes, as much at once as is asked for.
type wireConn struct {
	net.Conn
	rest []byte
}

func (c *wireConn) Read(p []byte) (int, error) {
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *wireConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *wireConn) Close() error                     { return nil }
func (c *wireConn) SetReadDeadline(time.Time) error  { return nil }
func (c *wireConn) SetWriteDeadline(time.Time) error { return nil }

func TestConnAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	for _, size := range []int{64, connChunk} {
		a, b := connPair(t)
		for _, c := range [][2]*Conn{{a, b}, {b, a}} {
			out, in := make([]byte, size), make([]byte, size)
			if n := testing.AllocsPerRun(200, func() {
				if _, err := c[0].Write(out); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c[1], in); err != nil {
					t.Fatal(err)
				}
			}); n >= 1 {
				t.Errorf("%d bytes: %v allocations", size, n)
			}
		}
	}
}

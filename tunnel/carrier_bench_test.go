//go:build unix

package tunnel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"
	xwebsocket "golang.org/x/net/websocket"
)

// benchConn is a connection without a kernel: it shakes hands as a server, then
// takes every write and gives the same frame for ever.
type benchConn struct {
	wireLoop
	answer []byte // of the handshake, as far as it was not read
	shaken bool
}

func (c *benchConn) Write(p []byte) (int, error) {
	if !c.shaken {
		c.shaken = true
		if r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(p))); err == nil {
			// x/net wants just this, and no "keep-alive" beside it.
			c.answer = []byte(strings.Replace(switching(r), "keep-alive, ", "", 1))
		}
	}
	return len(p), nil
}

func (c *benchConn) Read(p []byte) (int, error) {
	if len(c.answer) > 0 {
		n := copy(p, c.answer)
		c.answer = c.answer[n:]
		return n, nil
	}
	return c.wireLoop.Read(p)
}

func (c *benchConn) Close() error                     { return nil }
func (c *benchConn) SetDeadline(time.Time) error      { return nil }
func (c *benchConn) SetReadDeadline(time.Time) error  { return nil }
func (c *benchConn) SetWriteDeadline(time.Time) error { return nil }

// benchHijacker gives handlers a benchConn.
type benchHijacker struct {
	http.ResponseWriter
	nc net.Conn
}

func (h benchHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.nc, bufio.NewReadWriter(bufio.NewReader(strings.NewReader("")), bufio.NewWriter(h.nc)), nil
}

// benchHandshake is a client's request, for the server's role.
func benchHandshake(b *testing.B) *http.Request {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(handshakeLines + "\r\n")))
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// carrierImpls are byte streams over WebSockets, in both roles.
var carrierImpls = []struct {
	name string
	open func(b *testing.B, nc *benchConn, client bool) io.ReadWriter
}{
	{"ours", func(_ *testing.B, nc *benchConn, client bool) io.ReadWriter {
		return messageWriter{newCarrier(nc, nil, client)}
	}},
	{"gorilla", func(b *testing.B, nc *benchConn, client bool) io.ReadWriter {
		var ws *websocket.Conn
		var err error
		if client {
			dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return nc, nil }}
			ws, _, err = dialer.Dial("ws://bench/", nil)
		} else {
			nc.shaken = true
			ws, err = (&websocket.Upgrader{}).Upgrade(benchHijacker{httptest.NewRecorder(), nc}, benchHandshake(b), nil)
		}
		if err != nil {
			b.Fatal(err)
		}
		return &gorillaReader{gorillaStream{ws}, nil}
	}},
	{"xnet", func(b *testing.B, nc *benchConn, client bool) io.ReadWriter {
		if client {
			config, err := xwebsocket.NewConfig("ws://bench/", "http://bench/")
			if err != nil {
				b.Fatal(err)
			}
			ws, err := xwebsocket.NewClient(config, nc)
			if err != nil {
				b.Fatal(err)
			}
			ws.PayloadType = xwebsocket.BinaryFrame
			return ws
		}
		nc.shaken = true
		opened := make(chan *xwebsocket.Conn, 1)
		// The handler stays until the benchmark ends: x/net closes behind it.
		done := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			h := xwebsocket.Server{Handler: func(ws *xwebsocket.Conn) { opened <- ws; <-done }}
			h.ServeHTTP(xnetHijacker{benchHijacker{httptest.NewRecorder(), nc}}, benchHandshake(b))
		}()
		b.Cleanup(func() { close(done); <-ended })
		ws := <-opened
		ws.PayloadType = xwebsocket.BinaryFrame
		return ws
	}},
}

// xnetHijacker reads through its buffer, as x/net goes on using that.
type xnetHijacker struct{ benchHijacker }

func (h xnetHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.nc, bufio.NewReadWriter(bufio.NewReader(h.nc), bufio.NewWriter(h.nc)), nil
}

// messageWriter writes as the mux does: with headroom, to be masked in place.
type messageWriter struct{ *carrier }

func (w messageWriter) Write(p []byte) (int, error) { return len(p), w.writeMessage(p) }

// benchCarriers runs f for every size, role and implementation.
func benchCarriers(b *testing.B, f func(b *testing.B, c io.ReadWriter, buf []byte)) {
	for _, size := range []int{12, 1 << 10, 32 << 10} {
		for _, role := range []string{"server", "client"} {
			for _, impl := range carrierImpls {
				b.Run(fmt.Sprintf("%d/%s/%s", size, role, impl.name), func(b *testing.B) {
					client := role == "client"
					nc := &benchConn{wireLoop: wireLoop{frame: testFrame{op: opBinary, masked: !client, payload: make([]byte, size)}.bytes()}}
					c := impl.open(b, nc, client)
					b.SetBytes(int64(size))
					b.ReportAllocs()
					f(b, c, make([]byte, headroom+size))
				})
			}
		}
	}
}

// BenchmarkCarrierWrite is the cost of a message apart from the system call:
// the client masks, the server does not.
func BenchmarkCarrierWrite(b *testing.B) {
	benchCarriers(b, func(b *testing.B, c io.ReadWriter, buf []byte) {
		if _, ours := c.(messageWriter); !ours {
			buf = buf[headroom:]
		}
		for b.Loop() {
			if _, err := c.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCarrierRead is the cost of a message apart from the system call: the
// server unmasks, the client does not.
func BenchmarkCarrierRead(b *testing.B) {
	benchCarriers(b, func(b *testing.B, c io.ReadWriter, buf []byte) {
		for b.Loop() {
			if _, err := io.ReadFull(c, buf[headroom:]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCarrierBulk moves 32 KiB at a time over 8 streams and loopback, down
// to the upstream (not masked) and up to the node (masked): hashicorp/yamux and
// our mux, each over bare TCP and over the carrier.
func BenchmarkCarrierBulk(b *testing.B) {
	const streams = 8
	tcp := func(nc net.Conn, _ bool) net.Conn { return nc }
	ws := func(nc net.Conn, client bool) net.Conn { return newCarrier(nc, nil, client) }
	for _, dir := range []string{"down", "up"} {
		for _, impl := range []struct {
			name string
			open func(b *testing.B, near, far net.Conn) (node, up []net.Conn)
		}{
			{"yamux-tcp", func(b *testing.B, near, far net.Conn) (node, up []net.Conn) {
				return benchYamux(b, tcp(near, false), tcp(far, true), streams)
			}},
			{"yamux-carrier", func(b *testing.B, near, far net.Conn) (node, up []net.Conn) {
				return benchYamux(b, ws(near, false), ws(far, true), streams)
			}},
			{"mux-tcp", func(b *testing.B, near, far net.Conn) (node, up []net.Conn) {
				return benchOurMux(b, fastConn{near}, fastConn{far}, streams)
			}},
			{"mux-carrier", func(b *testing.B, near, far net.Conn) (node, up []net.Conn) {
				return benchOurMux(b, newCarrier(near, nil, false), newCarrier(far, nil, true), streams)
			}},
		} {
			b.Run(dir+"/"+impl.name, func(b *testing.B) {
				near, far := tcpPair(b)
				node, up := impl.open(b, near, far)
				if dir == "up" {
					node, up = up, node
				}
				benchBulk(b, node, up)
			})
		}
	}
}

// benchYamux opens streams of hashicorp/yamux from node to up.
func benchYamux(b *testing.B, near, far net.Conn, streams int) (node, up []net.Conn) {
	server, err := yamux.Server(near, quietYamux())
	if err != nil {
		b.Fatal(err)
	}
	client, err := yamux.Client(far, quietYamux())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { server.Close(); client.Close() })
	for range streams {
		s, err := server.Open()
		if err != nil {
			b.Fatal(err)
		}
		c, err := client.Accept()
		if err != nil {
			b.Fatal(err)
		}
		node, up = append(node, s), append(up, c)
	}
	return node, up
}

// benchOurMux opens streams of our mux from node to up.
func benchOurMux(b *testing.B, near, far muxConn, streams int) (node, up []net.Conn) {
	n := startMux(b, near, true, muxOptions{window: 256 << 10})
	u := startMux(b, far, false, muxOptions{window: 256 << 10})
	for range streams {
		s, t := streamPair(b, n, u)
		node, up = append(node, s), append(up, t)
	}
	return node, up
}

// benchBulk makes b.N writes, shared by the connections.
func benchBulk(b *testing.B, from, to []net.Conn) {
	const size = 32 << 10
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	done := make(chan error, 2*len(from))
	for i := range from {
		n := b.N / len(from)
		if i < b.N%len(from) {
			n++
		}
		go func() {
			buf := make([]byte, size)
			var err error
			for range n {
				if _, err = from[i].Write(buf); err != nil {
					break
				}
			}
			done <- errors.Join(err, from[i].Close())
		}()
		go func() {
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{to[i]}, make([]byte, size))
			done <- err
		}()
	}
	before := cpuTime()
	for range 2 * len(from) {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	// Steadier than the clock where other work shares the machine.
	b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
}

// cpuTime is what the process has used, in user and system mode.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkMask(b *testing.B) {
	for _, n := range []int{12, 128, 1 << 10, 4 << 10, 32 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			buf := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				maskBytes(buf, 0x01020304)
			}
		})
	}
}

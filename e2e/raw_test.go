//go:build e2e

package e2e

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// rawConn is a TCP connection on which a test writes what no proper client would. Its
// methods fail the test.
type rawConn struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

// dialRaw connects; there is a deadline of 30 s over everything, and the connection is
// closed when the test ends.
func dialRaw(t testing.TB, addr string) *rawConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatalf("connect to %s: %v", addr, err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &rawConn{Conn: conn, t: t, r: bufio.NewReader(conn)}
}

// send writes bytes. The other side may have closed already, since it need not wait for
// the end of rubbish, so an error is none here: what it answered shows it.
func (c *rawConn) send(b string) { _, _ = io.WriteString(c.Conn, b) }

// response reads a response and its body.
func (c *rawConn) response(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("read response: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("read body: %v", err)
	}
	return res, string(body)
}

// wantClosed wants the other side to close within the given time; what it sends before is
// returned.
func (c *rawConn) wantClosed(within time.Duration) []byte {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(within))
	rest, err := io.ReadAll(c.r)
	if nerr, ok := err.(net.Error); ok && nerr.Timeout() {
		c.t.Errorf("the connection is still open after %v", within)
	}
	return rest
}

// addr is our end of the connection, by which the other side names it in its log.
func (c *rawConn) addr() string { return c.LocalAddr().String() }

// rawTunnel registers an upstream by hand and returns the connection behind the handshake.
// It speaks none of our extensions, as an agent of v0.9.0 does not.
func rawTunnel(t testing.TB, s *server, endpoint string) *rawConn {
	t.Helper()
	c := dialRaw(t, s.upstream)
	c.send("GET /piko/v1/upstream/" + endpoint + " HTTP/1.1\r\nHost: localhost\r\n" + upgradeHeaders + "\r\n")
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatalf("register an upstream by hand: %v", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("register an upstream by hand: status %s", res.Status)
	}
	return c
}

const upgradeHeaders = "Upgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// The opcodes of RFC 6455, section 5.2, with the FIN bit.
const (
	frameText   = 0x81
	frameBinary = 0x82
	frameClose  = 0x88
	framePing   = 0x89
)

// frame returns a WebSocket frame as a client must send it, masked (with zeros).
func frame(first byte, payload string) string {
	head := []byte{first}
	switch n := len(payload); {
	case n < 126:
		head = append(head, 0x80|byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(n))
	}
	return string(head) + "\x00\x00\x00\x00" + payload
}

// The frame types and flags of yamux.
const (
	muxData, muxWindow, muxPing, muxGoAway = 0, 1, 2, 3
	muxSYN, muxACK, muxFIN, muxRST         = 1, 2, 4, 8
)

// muxHeader returns the header of a yamux frame.
func muxHeader(version, kind byte, flags uint16, id, length uint32) string {
	b := []byte{version, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	return string(binary.BigEndian.AppendUint32(b, length))
}

// mux returns a yamux header in a WebSocket frame.
func mux(kind byte, flags uint16, id, length uint32) string {
	return frame(frameBinary, muxHeader(0, kind, flags, id, length))
}

// closeCode finds the code of a WebSocket close frame at the end of what a server sent.
func closeCode(b []byte) (int, error) {
	for len(b) >= 2 {
		n, head := int(b[1]), 2
		if b[1] == 126 && len(b) >= 4 {
			n, head = int(binary.BigEndian.Uint16(b[2:])), 4
		}
		if head+n > len(b) {
			break
		}
		if b[0] == frameClose && n >= 2 {
			return int(binary.BigEndian.Uint16(b[head:])), nil
		}
		b = b[head+n:]
	}
	return 0, fmt.Errorf("find a close frame: none, the rest is %x", b)
}

// rawService listens for as long as the test runs, and hands each connection to serve, which
// owns it until it returns.
func rawService(t testing.TB, serve func(*rawConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(30 * time.Second))
				serve(&rawConn{Conn: conn, t: t, r: bufio.NewReader(conn)})
			})
		}
	})
	return l.Addr().String()
}

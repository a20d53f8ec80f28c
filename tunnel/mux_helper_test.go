package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

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

// brokenWriter fails to write once told so.
type brokenWriter struct {
	bareConn
	broken atomic.Bool
}

func (c *brokenWriter) writeMessage(b []byte) error {
	if c.broken.Load() {
		return io.ErrShortWrite
	}
	return c.bareConn.writeMessage(b)
}

// breakingConn takes room more bytes, once told so, and then breaks.
type breakingConn struct {
	net.Conn
	breaks atomic.Bool
	room   atomic.Int64
}

func (c *breakingConn) Write(p []byte) (int, error) {
	if !c.breaks.Load() {
		return c.Conn.Write(p)
	}
	n, _ := c.Conn.Write(p[:min(len(p), int(c.room.Swap(0)))])
	return n, io.ErrShortWrite
}

// gatedConn is a connection whose peer says nothing, and takes a message only
// when told to.
type gatedConn struct {
	messages chan []byte
	once     sync.Once
	closed   chan struct{}
	init     sync.Once
}

func (c *gatedConn) gone() chan struct{} {
	c.init.Do(func() { c.closed = make(chan struct{}) })
	return c.closed
}

func (c *gatedConn) Read([]byte) (int, error) {
	<-c.gone()
	return 0, io.EOF
}

func (c *gatedConn) writeMessage(b []byte) error {
	select {
	case c.messages <- slices.Clone(b[headroom:]):
		return nil
	case <-c.gone():
		return io.ErrClosedPipe
	}
}

func (c *gatedConn) close(uint16, string) {
	gone := c.gone()
	c.once.Do(func() { close(gone) })
}

// next takes a message; waiting writers go on.
func (c *gatedConn) next() []byte { return <-c.messages }

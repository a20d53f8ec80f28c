package tunnel

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// headroom is how much of a message's buffer lies before its payload, for
	// writeMessage to put the frame's header into: 2 bytes, 8 of length, 4 of mask.
	headroom = 14

	// writeChunk is the largest message that Write makes.
	writeChunk = 32 << 10

	// controlTimeout is how long a ping or pong may wait for room in the socket
	// while nothing else is being written; then the connection counts as broken.
	controlTimeout = 5 * time.Second

	// closeTimeout bounds close, as far as the peer can delay it.
	closeTimeout = time.Second
)

// A carrier is a stream of bytes in the binary messages of a WebSocket
// (RFC 6455), in either role. Where a message ends means nothing.
//
// One goroutine may read, any number may write, ping and close at the same time.
type carrier struct {
	// Static after construction.
	nc     net.Conn
	sock   *socket   // nc, if that is a TCP connection, else nil
	r      io.Reader // sock or nc
	w      io.Writer // sock or nc
	client bool      // we mask, the peer does not
	plain  bool      // between nodes: neither masks
	epoch  time.Time // what last counts from

	// last is when the last bytes arrived, in ns since epoch. Written by the
	// reader alone.
	last atomic.Int64

	// What went through the connection, in bytes.
	received, sent atomic.Uint64

	// Owned by the reader, of which there is one at a time.
	in frameReader

	// wlock is held by whoever writes to nc: a semaphore and no mutex, because
	// close gives up waiting for it and pings never begin to.
	wlock chan struct{}

	closeSent bool           // guarded by wlock
	pairHead  [headroom]byte // of writePair

	// waiting says that ctl has a ping or a pong to send: whoever lets go of
	// wlock looks here afterwards, so that nobody has to wait in order to ping.
	waiting atomic.Bool

	ctl struct {
		mu sync.Mutex // never held over a system call

		// Guarded by mu.
		ping, pong    bool
		pongPayload   []byte // of the latest ping only: RFC 6455, section 5.5.3
		writeDeadline time.Time
		closing       bool // close was called
		closed        bool // no more flushers
		// err ends all writing. Written with wlock held as well.
		err error
	}

	flushers sync.WaitGroup // goroutines that write a control frame; close waits for them
	ended    sync.WaitGroup // the first call of close, for which the others wait
}

// newCarrier carries bytes over nc, on which the handshake is done. buffered is
// what was read behind the handshake; it is copied. The carrier owns nc.
func newCarrier(nc net.Conn, buffered []byte, client bool) *carrier {
	c := &carrier{nc: nc, sock: newSocket(nc), r: nc, w: nc, client: client, epoch: time.Now(), wlock: make(chan struct{}, 1)}
	if c.sock != nil {
		c.r, c.w = c.sock, c.sock
	}
	c.in.buf = c.in.small[:]
	if len(buffered) > len(c.in.buf) {
		c.in.buf = make([]byte, len(buffered)) // until it has been read
	}
	c.in.w = copy(c.in.buf, buffered)
	return c
}

// lastRead is when the last byte of any kind arrived, or when the carrier was
// made. Any goroutine may call it.
func (c *carrier) lastRead() time.Time {
	return c.epoch.Add(time.Duration(c.last.Load()))
}

// close tells the peer why, unless the connection does not take that within
// 1 s, and closes the connection. It waits for what the carrier has started,
// and may be called by anyone and again. The code 0 tells the peer nothing,
// for a connection that is known to be dead.
func (c *carrier) close(code uint16, reason string) {
	if !c.beginClose() {
		c.ended.Wait()
		return
	}
	defer c.ended.Done()
	told := code != 0 && c.sendClose(code, reason, errClosedHere)
	c.ctl.mu.Lock()
	c.ctl.closed = true
	c.ctl.mu.Unlock()
	if below := underneath(c.nc); below != c.nc && !told {
		// crypto/tls would try for 5 s to say goodbye.
		below.Close()
	}
	c.nc.Close()
	c.flushers.Wait()
}

// beginClose reports whether this is the first call.
func (c *carrier) beginClose() bool {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	if c.ctl.closing {
		return false
	}
	c.ctl.closing = true
	c.ended.Add(1)
	return true
}

// Close is close with the code of a normal end.
func (c *carrier) Close() error {
	c.close(closeNormal, "")
	return nil
}

// LocalAddr is the connection's.
func (c *carrier) LocalAddr() net.Addr { return c.nc.LocalAddr() }

// RemoteAddr is the connection's.
func (c *carrier) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *carrier) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds Read. A Read that ran out of time has lost nothing:
// the next one goes on where it stopped.
func (c *carrier) SetReadDeadline(t time.Time) error { return c.nc.SetReadDeadline(t) }

// SetWriteDeadline bounds Write. A Write that ran out of time within a message
// has broken the carrier.
func (c *carrier) SetWriteDeadline(t time.Time) error {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	c.ctl.writeDeadline = t
	return c.nc.SetWriteDeadline(t)
}

var _ net.Conn = (*carrier)(nil)

package tunnel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is a TCP connection to an endpoint, as it travels between a client and a
// node: a WebSocket, one for each connection, whose binary messages are its
// bytes. It is a net.Conn that can be closed one way, with CloseWrite, if both
// sides know how, and reset. Its methods are safe for concurrent use; calls of
// Read wait for each other, as calls of Write do.
//
// Read returns io.EOF only if the peer has ended its side in order; any other
// end is another error, so that nobody takes a part for the whole. Nothing is
// cut for being idle or slow: while Read waits for a peer that has been silent
// for 10 s it is pinged, which keeps the way open, and the connection is given
// up only if its system does not confirm what it is sent. A peer that does not
// read is waited for, for ever.
type Conn struct {
	// Static after construction.
	c    *carrier
	half bool          // both sides know half-close
	done chan struct{} // see Done

	// rmu is held by Read and by whoever reads in its place, before mu.
	rmu sync.Mutex

	// writer is held by Write and by whoever ends our side, before mu: a
	// semaphore and no mutex, because Close gives up waiting for it.
	writer chan struct{}

	reading atomic.Bool // somebody waits for the peer

	wg sync.WaitGroup // goroutines; Add only with mu held and closed false

	// Guarded by mu.
	mu       sync.Mutex
	over     bool        // done is closed
	closed   bool        // by Close or Reset
	eofSent  bool        // our side has ended
	eofSeen  bool        // the peer's has, and drain reads in place of Read
	peerDone bool        // the peer has closed both sides in order
	err      error       // why the connection failed; nil if it did not
	linger   *time.Timer // ends what the peer has closed; nil until then
	life     connLife
	timer    *time.Timer // runs watch

	readEnd error // what Read returns from now on; guarded by rmu
	cut     bool  // Close has cut a Write short; guarded by writer
}

// What ends a Conn.
var (
	errNoHalfClose = fmt.Errorf("close one side of the connection: %w", errors.ErrUnsupported)
	errCutShort    = fmt.Errorf("connection ended without its end: %w", io.ErrUnexpectedEOF)
)

// newConn takes over the carrier.
func newConn(c *carrier, half bool) *Conn {
	c.in.tcp(half)
	conn := &Conn{c: c, half: half, done: make(chan struct{}), writer: make(chan struct{}, 1)}
	conn.mu.Lock()
	conn.timer = time.AfterFunc(idleBeforePing, conn.watch)
	conn.mu.Unlock()
	return conn
}

// HalfClose says whether both sides know how to end one direction. Without it
// CloseWrite fails, and the peer's io.EOF means that it reads nothing any more.
func (c *Conn) HalfClose() bool { return c.half }

// Done is closed once the connection is of no more use: it has failed, it was
// closed or reset at this end, or the peer has closed both sides 30 s ago. It is
// for who neither reads nor writes at the moment.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Read reads what has arrived, straight into p where that is large. It returns
// io.EOF when the peer has ended its side. It allocates nothing.
func (c *Conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.readEnd != nil {
		return 0, c.readEnd
	}
	c.reading.Store(true)
	n, err := c.c.Read(p)
	c.reading.Store(false)
	if err != nil {
		return n, c.readFailed(err)
	}
	return n, nil
}

// readFailed is what Read returns instead of the carrier's error; rmu is held.
func (c *Conn) readFailed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		err = ErrClosed
	case c.err != nil: // it was found dead
		err = c.err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case err == errEOFMessage:
		c.eofSeen = true
		_ = c.c.nc.SetReadDeadline(time.Time{})
		c.wg.Go(c.drain)
		err = io.EOF
	case err == io.EOF && !c.half && c.c.in.orderly():
		c.peerClosed()
	default:
		err = c.fail(c.brokenBy(err))
	}
	c.readEnd = err
	return err
}

// brokenBy makes a failure of an end that should not have come.
func (c *Conn) brokenBy(err error) error {
	if err != io.EOF {
		return err
	}
	if in := &c.c.in; in.closeCode != 0 {
		return fmt.Errorf("websocket closed with code %d %s: %w", in.closeCode, quoteShort(in.closeReason), ErrStreamReset)
	}
	return errCutShort
}

// fail ends the connection; it needs mu, and returns err.
func (c *Conn) fail(err error) error {
	if c.err == nil && !c.closed {
		c.err = err
	}
	c.end()
	return err
}

// end closes done; it needs mu.
func (c *Conn) end() {
	if !c.over {
		c.over = true
		close(c.done)
	}
}

// peerClosed notes that nobody at the other end reads any more: who has nothing
// to write is not to wait for ever. It needs mu.
func (c *Conn) peerClosed() {
	c.peerDone = true
	if c.closed || c.linger != nil {
		return
	}
	c.linger = time.AfterFunc(lingerTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.end()
	})
}

// drain reads on behind the peer's end: pings are to be answered and failures
// to be noticed. It ends when the connection is closed. It needs no rmu: Read
// does not touch the carrier any more.
func (c *Conn) drain() {
	c.reading.Store(true)
	defer c.reading.Store(false)
	var none [1]byte
	_, err := c.c.Read(none[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
	case c.eofSent, err == io.EOF && c.c.in.closeCode == closeNormal:
		c.peerClosed()
	default:
		_ = c.fail(c.brokenBy(err))
	}
}

// Write sends p, in messages of up to 64 KiB and each with one system call. It
// waits while the peer does not read. It allocates nothing. A Write that ran
// out of time has broken the connection if it has sent anything.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writer <- struct{}{}
	defer c.letWrite()
	for {
		if err := c.writeFails(); err != nil {
			c.cut = c.cut || n > 0
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		m := min(len(p)-n, connChunk)
		if err := c.c.writeCopy(opBinary, p[n:n+m]); err != nil {
			return n, c.writeFailed(err)
		}
		if n += m; n == len(p) {
			return n, nil
		}
	}
}

// letWrite lets the next one write.
func (c *Conn) letWrite() { <-c.writer }

// writeFails is why nothing can be written.
func (c *Conn) writeFails() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed, c.eofSent:
		return ErrClosed
	case c.err != nil:
		return c.err
	}
	return nil
}

// writeFailed is what Write returns instead of the carrier's error.
func (c *Conn) writeFailed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return ErrClosed
	case c.err != nil:
		return c.err
	}
	return err
}

// CloseWrite ends our side of the connection: the peer reads io.EOF behind what
// was written. Reading goes on. Without half-close it does nothing and returns
// an errors.ErrUnsupported.
func (c *Conn) CloseWrite() error {
	if !c.half {
		return errNoHalfClose
	}
	c.writer <- struct{}{}
	defer c.letWrite()
	c.mu.Lock()
	ended, last := c.eofSent && !c.closed, c.eofSeen
	c.mu.Unlock()
	if ended {
		return nil
	}
	if err := c.writeFails(); err != nil {
		return err
	}
	if err := c.c.writeEnd(last); err != nil {
		return c.writeFailed(err)
	}
	c.mu.Lock()
	c.eofSent = true
	c.mu.Unlock()
	return nil
}

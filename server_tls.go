package main

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// tlsRecord is the first byte of a TLS handshake. No HTTP request begins with it.
const tlsRecord = 0x16

// tlsListener accepts connections on a port that speaks TLS: each is a
// *tls.Conn, but those that do not begin with a handshake, which other nodes
// make. It looks at the first byte of each in a goroutine of its own, since a
// client may take its time.
type tlsListener struct {
	net.Listener // TCP

	// Static after construction.
	cfg     *tls.Config
	timeout time.Duration // for the first byte
	conns   *tally        // counts connections that Accept has not returned yet
	start   sync.Once
	running sync.WaitGroup
	ready   chan net.Conn
	over    chan struct{} // closed when no more will be ready; err says why
	closed  chan struct{} // closed by Close

	err error // set before over is closed

	// Owned by who calls Accept.
	handed bool // the last connection that was returned is still counted

	// Guarded by mu.
	mu       sync.Mutex
	isClosed bool
	waiting  map[net.Conn]struct{} // whose first byte has not come
}

// newTLSListener wants Close to be called, which closes ln too. When ln alone
// is closed, connections that are being looked at can still be accepted.
func newTLSListener(ln net.Listener, cfg *tls.Config, timeout time.Duration, conns *tally) *tlsListener {
	return &tlsListener{
		Listener: ln, cfg: cfg, timeout: timeout, conns: conns,
		ready: make(chan net.Conn), over: make(chan struct{}), closed: make(chan struct{}), waiting: make(map[net.Conn]struct{}),
	}
}

// Accept implements net.Listener, for one caller at a time. A connection counts
// until the next call: by then http.Server counts it.
func (l *tlsListener) Accept() (net.Conn, error) {
	l.start.Do(func() { l.running.Go(l.run) })
	if l.handed {
		l.handed = false
		l.conns.done()
	}
	select {
	case nc := <-l.ready:
		l.handed = true
		return nc, nil
	case <-l.over:
		return nil, l.err
	}
}

// Close ends what Accept has not returned, and waits until no goroutine is left.
func (l *tlsListener) Close() error {
	l.mu.Lock()
	if !l.isClosed {
		l.isClosed = true
		close(l.closed)
	}
	for nc := range l.waiting {
		nc.Close()
	}
	l.mu.Unlock()
	err := l.Listener.Close()
	l.running.Wait()
	return err
}

// run accepts until the port is closed.
func (l *tlsListener) run() {
	defer close(l.over)
	var looking sync.WaitGroup
	defer looking.Wait()
	pause := time.Duration(0)
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			if !l.rest(err, &pause) {
				l.err = err
				return
			}
			continue
		}
		pause = 0
		l.conns.add()
		looking.Go(func() {
			if !l.look(nc) {
				nc.Close()
				l.conns.done()
			}
		})
	}
}

// rest waits when an error is one that passes, such as too many open files.
func (l *tlsListener) rest(err error, pause *time.Duration) bool {
	if passing, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err); !ok || !passing.Temporary() {
		return false
	}
	*pause = min(max(2**pause, 5*time.Millisecond), time.Second)
	t := time.NewTimer(*pause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.closed:
		return false
	}
}

// look waits for the first byte, and for Accept to take the connection.
func (l *tlsListener) look(nc net.Conn) bool {
	if !l.wait(nc) {
		return false
	}
	first := &readConn{TCPConn: nc.(*net.TCPConn)}
	_ = nc.SetReadDeadline(time.Now().Add(l.timeout))
	_, err := nc.Read(first.b[:])
	_ = nc.SetReadDeadline(time.Time{})
	l.mu.Lock()
	delete(l.waiting, nc)
	l.mu.Unlock()
	if err != nil {
		return false
	}
	var out net.Conn = first
	if first.b[0] == tlsRecord {
		out = tls.Server(first, l.cfg)
	}
	select {
	case l.ready <- out:
		return true
	case <-l.closed:
		return false
	}
}

// wait notes that a connection may have to be closed under who reads it.
func (l *tlsListener) wait(nc net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isClosed {
		l.waiting[nc] = struct{}{}
	}
	return !l.isClosed
}

// readConn is a connection whose first byte was read already.
type readConn struct {
	*net.TCPConn
	b    [1]byte
	done bool // b was read again; owned by the reader
}

// Read implements net.Conn.
func (c *readConn) Read(p []byte) (int, error) {
	if c.done || len(p) == 0 {
		return c.TCPConn.Read(p)
	}
	c.done = true
	p[0] = c.b[0]
	return 1, nil
}

// NetConn is the connection below, once the first byte was read.
func (c *readConn) NetConn() net.Conn { return c.TCPConn }

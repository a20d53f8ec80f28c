package listen

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"piko/fault"
	"piko/proxyproto"
)

// tlsRecord is the first byte of a TLS handshake. No HTTP request begins with it.
const tlsRecord = 0x16

// run accepts until the port is closed, and looks at each connection.
func (l *Listener) run() {
	defer close(l.over)
	var looking sync.WaitGroup
	defer looking.Wait()
	for {
		c, err := l.next()
		if err != nil {
			l.err = err
			return
		}
		looking.Go(func() { l.serve(c) })
	}
}

// serve looks at a connection and waits until Accept takes it.
func (l *Listener) serve(c *Conn) {
	nc := l.look(c)
	if nc != nil {
		select {
		case l.ready <- nc:
			return
		case <-l.closed:
		}
	}
	c.Close()
	l.pending.Add(-1)
}

// look does what comes before the first request. It returns nil for a
// connection that is of no use.
func (l *Listener) look(c *Conn) net.Conn {
	if !l.await(c) {
		return nil
	}
	defer l.seen(c)
	end := time.Now().Add(l.opt.HandshakeTimeout)
	if c.viaProxy && !l.readProxyHeader(c) {
		return nil
	}
	if l.opt.TLS == nil {
		return l.wrap(c)
	}
	_ = c.SetDeadline(end)
	first, err := c.peek()
	switch {
	case err != nil:
		l.unheard(c, err)
		return nil
	case first == tlsRecord:
		return l.handshake(c)
	case l.opt.AllowPlain:
		_ = c.SetDeadline(time.Time{})
		c.plain = true
		return l.wrap(c)
	}
	l.refused(c.remote, refusedPlain)
	c.sayTLS()
	return nil
}

// handshake is the server's part in TLS.
func (l *Listener) handshake(c *Conn) net.Conn {
	conn := tls.Server(c, l.opt.TLS)
	if err := conn.Handshake(); err != nil { // the deadline, and Close, end it
		l.metrics.handshakes.WithLabelValues(handshakeResult(err)).Inc()
		l.log.Debug("TLS handshake failed", "port", l.opt.Port, "remote", c.remote.String(), "error", err)
		return nil
	}
	_ = c.SetDeadline(time.Time{})
	switch conn.ConnectionState().NegotiatedProtocol {
	case "h2":
		return conn // net/http knows it by its type
	case "", "http/1.1":
		return l.wrap(conn)
	}
	// A challenge of ACME, which is over. Whoever agrees on it did not have to
	// show a certificate, so nothing that follows may be read.
	conn.Close()
	return nil
}

// handshakeResult is the label of a failed handshake.
func handshakeResult(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return "gone"
	}
	return "failed"
}

// unheard takes up that a client said nothing.
func (l *Listener) unheard(c *Conn, err error) {
	l.metrics.handshakes.WithLabelValues(handshakeResult(err)).Inc()
	l.log.Debug("connection ended before its first byte", "port", l.opt.Port, "remote", c.remote.String(), "error", err)
}

// readProxyHeader takes the client's address from the PROXY header, and decides
// once more who may stay. Another node comes without a header, also out of a
// network that must send one.
func (l *Listener) readProxyHeader(c *Conn) bool {
	_ = c.SetDeadline(time.Now().Add(min(proxyHeaderTimeout, l.opt.HandshakeTimeout)))
	first, err := c.peek()
	if err != nil {
		l.unheard(c, err)
		return false
	}
	if l.opt.Peers && !proxyproto.Begins(first) {
		_ = c.SetDeadline(time.Time{})
		return l.restrict(c, refusedNoHeader)
	}
	header, err := proxyproto.Read(c)
	if err != nil {
		l.metrics.refused.WithLabelValues(refusedProxy).Inc()
		if ok, dropped := l.lines.allow(time.Now()); ok {
			l.log.Warn("PROXY header refused", "port", l.opt.Port, "remote", c.remote.String(), "error", err, "not_logged", dropped)
		}
		return false
	}
	_ = c.SetDeadline(time.Time{})
	return l.introduce(c, header.Client)
}

// ErrPlain is what clients are told that speak no TLS to a port with TLS.
var ErrPlain = &fault.Error{Code: fault.MalformedRequest, Detail: "this port speaks TLS"}

// sayTLS tells a client ErrPlain, whatever it has asked.
func (c *Conn) sayTLS() {
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := c.Write(speakTLS()); err != nil {
		return
	}
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.CopyN(io.Discard, c.Conn, 64<<10) // or the close would be a reset, and take the answer with it
}

// speakTLS is the answer to a request without TLS.
var speakTLS = sync.OnceValue(func() []byte {
	var a answer
	a.header = make(http.Header)
	fault.Write(&a, nil, ErrPlain)
	return a.Bytes()
})

// answer is an http.ResponseWriter that keeps the response as it is sent.
type answer struct {
	bytes.Buffer
	header http.Header
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	fmt.Fprintf(a, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = a.header.Write(a)
	a.WriteString("\r\n")
}

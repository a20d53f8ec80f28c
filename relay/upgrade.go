package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// idleBuffer is all that a direction of an upgraded connection holds while nothing comes.
	idleBuffer = 1 << 10
	// goodbye bounds what closing a TLS connection may take to say so.
	goodbye = time.Second
)

// switchProtocols makes the connection the response's body, if the request asked for that.
func (x *exchange) switchProtocols() error {
	offered, _ := UpgradeType(x.req.Header)
	if offered == "" || !agreed(offered, x.head.header) {
		return malformed("status 101 to what nobody asked for")
	}
	x.out.halt()
	x.waitSent() // RFC 9110, section 7.8: the new protocol begins after the whole request
	x.mu.Lock()
	err := x.writeErr
	if x.cause != nil {
		err = x.cause
	}
	x.mu.Unlock()
	if err != nil {
		return err
	}
	x.setUnfit()
	x.res.Body = &upgraded{x: x}
	return nil
}

// upgraded is the connection after 101: one reader, one writer, any closers.
type upgraded struct {
	x    *exchange
	once sync.Once
}

// Read gives first what came together with the response's head.
func (u *upgraded) Read(p []byte) (int, error) {
	c := u.x.c
	if c.buf != nil {
		if n := copy(p, c.buf[c.r:c.w]); n > 0 {
			c.r += n
			return n, nil
		}
		c.drop()
	}
	return c.nc.Read(p)
}

func (u *upgraded) Write(p []byte) (int, error) { return u.x.c.nc.Write(p) }

// CloseWrite tells the service that no more comes.
func (u *upgraded) CloseWrite() error { return closeWrite(u.x.c.nc) }

// Close ends the connection in order, Abort as a failure.
func (u *upgraded) Close() error {
	u.once.Do(func() {
		u.x.unwatch()
		_ = u.x.c.nc.SetWriteDeadline(time.Now().Add(goodbye))
		_ = u.x.c.nc.Close()
		u.x.p.end()
	})
	return nil
}

// What follows makes it a net.Conn, whatever the connection can do of that.

func (u *upgraded) LocalAddr() net.Addr                { return u.x.c.nc.LocalAddr() }
func (u *upgraded) RemoteAddr() net.Addr               { return u.x.c.nc.RemoteAddr() }
func (u *upgraded) SetDeadline(t time.Time) error      { return u.x.c.nc.SetDeadline(t) }
func (u *upgraded) SetReadDeadline(t time.Time) error  { return u.x.c.nc.SetReadDeadline(t) }
func (u *upgraded) SetWriteDeadline(t time.Time) error { return u.x.c.nc.SetWriteDeadline(t) }

// Abort ends the connection so that the service sees a failure, and wakes who reads or writes it.
func (u *upgraded) Abort() { u.x.c.abort() }

// errNoHalfClose is what CloseWrite says of a connection that has only one end.
var errNoHalfClose = errors.New("connection has no half-close")

func closeWrite(w any) error {
	if cw, ok := w.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errNoHalfClose
}

// Upgrade answers a 101 response: it takes the client's connection over, writes the response's head, with what
// w.Header() has set, and copies both ways until both directions have ended, one has failed, or the request's context
// ends. An end of one direction is passed on as a half-close where the connection has that; otherwise it ends both.
// Nothing is cut for being idle. in counts the bytes from the client, out those to it. It closes res.Body.
//
// The error is nil if both directions ended in order; *ClientError if the client's side failed.
func Upgrade(w http.ResponseWriter, req *http.Request, res *http.Response) (in, out int64, err error) {
	defer res.Body.Close()
	service, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return 0, 0, malformed("status 101 without a connection")
	}
	client, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return 0, 0, &ClientError{Op: "take over connection", Err: err}
	}
	defer client.Close()
	t := &twoWay{client: client, service: service}
	defer context.AfterFunc(req.Context(), t.abort)()
	head, err := switchingHead(w.Header(), res)
	if err != nil {
		return 0, 0, err
	}
	if n := brw.Reader.Buffered(); n > 0 {
		t.early, _ = brw.Reader.Peek(n)
	}
	if _, err := client.Write(head); err != nil {
		return 0, 0, &ClientError{Op: "write response", Err: err}
	}
	in, out, err = t.run()
	if cause := context.Cause(req.Context()); cause != nil {
		err = fmt.Errorf("upgraded connection: %w", cause)
	}
	return in, out, err
}

// switchingHead is the head of the 101 response for the client.
func switchingHead(h http.Header, res *http.Response) ([]byte, error) {
	copyHeader(h, res.Header)
	protocol, err := UpgradeType(res.Header)
	if err != nil {
		return nil, err
	}
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{protocol}
	b := append([]byte("HTTP/1.1 "), res.Status...)
	b, err = appendFields(append(b, "\r\n"...), h, framingField)
	return append(b, "\r\n"...), err
}

// twoWay copies between a client and a service.
type twoWay struct {
	client  net.Conn
	service io.ReadWriteCloser
	early   []byte // what the client sent before the connection was taken over
}

// abort ends both connections at once; it may be called at any time.
func (t *twoWay) abort() {
	if a, ok := t.service.(interface{ Abort() }); ok {
		a.Abort()
	} else {
		_ = t.service.Close()
	}
	(&conn{nc: t.client}).abort()
}

// run copies until both directions have ended. The first failure ends both.
func (t *twoWay) run() (in, out int64, err error) {
	var inErr error
	var wg sync.WaitGroup
	wg.Go(func() { in, inErr = t.copyIn() })
	out, err = t.copyOut()
	wg.Wait()
	if err == nil {
		err = inErr
	}
	return in, out, err
}

func (t *twoWay) copyIn() (n int64, err error) {
	if len(t.early) > 0 {
		m, err := t.service.Write(t.early)
		n += int64(m)
		if err != nil {
			t.abort()
			return n, err
		}
	}
	m, readErr, writeErr := pump(t.service, t.client)
	n += m
	if readErr != nil {
		readErr = &ClientError{Op: "read", Err: readErr}
	}
	return n, t.ended(t.service, readErr, writeErr)
}

func (t *twoWay) copyOut() (int64, error) {
	n, readErr, writeErr := pump(t.client, t.service)
	if writeErr != nil {
		writeErr = &ClientError{Op: "write", Err: writeErr}
	}
	return n, t.ended(t.client, readErr, writeErr)
}

// ended passes the end of a direction on to where it led.
func (t *twoWay) ended(to any, readErr, writeErr error) error {
	if readErr == nil && writeErr == nil {
		if closeWrite(to) != nil {
			t.abort() // it has no half-close, or is gone
		}
		return nil
	}
	t.abort()
	if readErr != nil {
		return readErr
	}
	return writeErr
}

// pump copies until src ends, which is no error. While nothing comes it holds a small buffer only: most upgraded
// connections are idle most of the time, and there are many.
func pump(dst io.Writer, src io.Reader) (n int64, readErr, writeErr error) {
	small := make([]byte, idleBuffer)
	var large *[]byte
	defer func() {
		if large != nil {
			copyBuffers.Put(large)
		}
	}()
	buf := small
	for {
		r, err := src.Read(buf)
		if r > 0 {
			m, werr := dst.Write(buf[:r])
			n += int64(m)
			if werr != nil {
				return n, nil, werr
			}
		}
		if err == io.EOF {
			return n, nil, nil
		}
		if err != nil {
			return n, err, nil
		}
		switch {
		case r == len(small) && large == nil:
			large = copyBuffers.Get().(*[]byte)
			buf = *large
		case r <= len(small)/2 && large != nil:
			copyBuffers.Put(large)
			large, buf = nil, small
		}
	}
}

package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
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

// Done is closed when the connection is of no more use; nil, which is never, if it cannot tell.
func (u *upgraded) Done() <-chan struct{} {
	if d, ok := u.x.c.nc.(interface{ Done() <-chan struct{} }); ok {
		return d.Done()
	}
	return nil
}

// Abort ends the connection so that the service sees a failure, and wakes who reads or writes it.
func (u *upgraded) Abort() { u.x.c.abort() }

// Upgrade answers a 101 response: it takes the client's connection over, writes the response's head, with what
// w.Header() has set, and copies both ways until both directions have ended, one has failed, or the request's context
// ends. An end of one direction is passed on as a half-close where the connection has that; otherwise it ends both.
// A failure of one side, and the end of the context, resets the other. Nothing is cut for being idle. in counts the
// bytes from the client, out those to it. It closes res.Body.
//
// If the context's cause is ErrGoingAway, a WebSocket is told so before: in each direction that is between two frames,
// or will be within a second, with a close frame of status 1001. A second is also what both sides get to answer.
//
// The error is nil if both directions ended in order; *ClientError if the client's side failed. If it fails before the
// copying begins, the service's connection is reset.
func Upgrade(w http.ResponseWriter, req *http.Request, res *http.Response) (in, out int64, err error) {
	defer res.Body.Close()
	service, said, ok := takeOver(res.Body)
	if !ok {
		return 0, 0, malformed("status 101 without a connection")
	}
	began := false
	defer func() {
		if !began { // an end in order would be a word of the client's
			resetConn(service)
		}
	}()
	client, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return 0, 0, &ClientError{Op: "take over connection", Err: err}
	}
	defer client.Close()
	s := newSplice(client, service)
	if n := brw.Reader.Buffered(); n > 0 {
		s.forth.early, _ = brw.Reader.Peek(n)
	}
	s.back.early = said
	newFarewell(res, s)
	head, err := switchingHead(w.Header(), res)
	if err != nil {
		return 0, 0, err
	}
	if err := s.writeHead(req.Context(), client, head); err != nil {
		return 0, 0, err
	}
	began = true
	err = s.run(req.Context())
	return s.forth.n, s.back.n, upgradeError(err, client)
}

// takeOver returns the connection that a response's body is, with what was read from it already.
func takeOver(body io.ReadCloser) (service io.ReadWriteCloser, said []byte, ok bool) {
	if u, ok := body.(*upgraded); ok {
		return u.x.c.nc, u.handOver(), true
	}
	service, ok = body.(io.ReadWriteCloser)
	return service, nil, ok
}

// handOver returns what was read of the new protocol. The connection is the caller's from now on: it does not end with
// the request's context any more.
func (u *upgraded) handOver() (said []byte) {
	u.x.unwatch()
	u.x.mu.Lock()
	u.x.taken = true
	u.x.mu.Unlock()
	c := u.x.c
	if c.buf != nil {
		said = bytes.Clone(c.buf[c.r:c.w])
		c.drop()
	}
	return said
}

// writeHead writes the head of the response.
func (s *splice) writeHead(ctx context.Context, client net.Conn, head []byte) error {
	defer afterContext(ctx, func() {
		s.note(context.Cause(ctx))
		s.reset()
	})()
	if _, err := client.Write(head); err != nil {
		return &ClientError{Op: "write response", Err: err}
	}
	return nil
}

// upgradeError says if it was the client who failed.
func upgradeError(err error, client net.Conn) error {
	if e, ok := errors.AsType[*SpliceError](err); ok {
		if e.Conn == client {
			return &ClientError{Op: e.Op, Err: e.Err}
		}
		return err
	}
	if err != nil {
		err = fmt.Errorf("upgraded connection: %w", err)
	}
	return err
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

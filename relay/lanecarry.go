package relay

import (
	"bytes"
	"context"
	"errors"
	"net/http"
)

// errClientGone is why a lane is aborted whose client has ended the connection.
var errClientGone = errors.New("client has ended its connection")

// carry sends the request and its response.
func (l *Lane) carry() laneEnd {
	defer l.Keeper.End(l)
	defer l.unkeep()
	if n := l.Request.Length; n > 0 {
		k := min(n, int64(l.in.buffered()))
		l.out = append(l.out, l.in.buf[l.in.r:l.in.r+int(k)]...)
		l.in.r += int(k)
		l.pos.Store(k)
		l.complete.Store(k == n)
	}
	err := l.attempts()
	if err != nil && !l.begun {
		end, answered := l.fail(err)
		if !answered {
			return end
		}
		err = nil
	}
	l.Request.Received = l.pos.Load()
	if err != nil {
		l.Request.Err = err
		l.endUpload(false)
		return laneReset
	}
	return l.finish()
}

// attempts sends the request until there is a response, or no sense in trying.
func (l *Lane) attempts() error {
	fresh := l.fresh()
	for {
		c, err := l.connect(fresh)
		opened := err == nil
		if opened {
			err = l.try(c)
		} else {
			err = &exchangeError{op: "open connection", err: err, never: true}
		}
		if err == nil || l.begun || l.Cause() != nil || !l.whole() {
			return err
		}
		if _, garbage := errors.AsType[*ProtocolError](err); garbage {
			return err
		}
		switch seen := !NeverExecuted(err); {
		case opened && l.stale(c, err):
			fresh = fresh || seen
		case !l.Keeper.Again(l, err, opened):
			return err
		default:
			fresh = seen || l.fresh()
		}
	}
}

// fresh says whether the request needs a connection that carried no other before.
func (l *Lane) fresh() bool { return l.Pool.Fresh != nil && l.Pool.Fresh(l.Request.Method) }

// whole reports whether the request can be sent again from its first byte on. It ends the upload, of which what has come
// is in out then.
func (l *Lane) whole() bool {
	if l.uploading && l.log == nil {
		return false
	}
	l.endUpload(false)
	if l.log != nil {
		l.out = append(l.out, *l.log...)
		*l.log = (*l.log)[:0]
	}
	return true
}

// stale is what Pool.again is for other requests.
func (l *Lane) stale(c *conn, err error) bool {
	return c.reused && l.Request.Length == 0 &&
		(NeverExecuted(err) || l.Pool.RetryStale && Idempotent(l.Request.Method) && !Responded(err))
}

// connect returns a connection to the service.
func (l *Lane) connect(fresh bool) (*conn, error) {
	if !fresh {
		if c := l.Pool.reuse(); c != nil {
			return c, nil
		}
	}
	ctx, cancel := context.WithCancelCause(l.ctx)
	defer cancel(nil)
	l.mu.Lock()
	l.dialling = cancel
	cause := l.cause
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.dialling = nil
		l.mu.Unlock()
	}()
	if cause != nil {
		return nil, cause
	}
	return l.Pool.open(ctx)
}

// try sends the request over a connection, and its response to the client. An error before begun says that there was no
// response.
func (l *Lane) try(c *conn) error {
	c.hold()
	l.c, l.responded, l.wrote = c, false, false
	l.mu.Lock()
	l.attached, l.writeErr = c, nil
	if l.cause != nil {
		c.abort()
	}
	l.mu.Unlock()
	n, err := c.nc.Write(l.out)
	l.wrote = n > 0
	switch {
	case err != nil:
		l.noteWrite(err)
	case !l.complete.Load():
		l.startUpload(c)
	}
	var a laneAnswer
	err = l.answer(c, &a)
	if err != nil && !l.begun {
		err = l.failure(err)
	} else if err != nil {
		err = l.brokenBy(err)
	}
	if l.c == nil { // released early
		return err
	}
	if err == nil && l.uploading && l.complete.Load() {
		l.awaitUpload(c)
	}
	if err != nil || l.uploading {
		a.keepAlive = false
	}
	l.release(c, &a)
	return err
}

// noteWrite keeps the first failure of writing the request. The service may have answered before it hung up.
func (l *Lane) noteWrite(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writeErr == nil {
		l.writeErr = err
	}
}

// release gives the connection back if it is fit, and ends it otherwise.
func (l *Lane) release(c *conn, a *laneAnswer) {
	l.mu.Lock()
	fit := a.keepAlive && a.framing != untilClose && l.attached == c && l.writeErr == nil && c.buffered() == 0
	l.attached = nil
	l.mu.Unlock()
	c.drop()
	l.c = nil
	if fit {
		l.Pool.put(c)
		return
	}
	c.abort() // also wakes an upload
	l.Pool.discard(c)
}

// failure says why there is no response.
func (l *Lane) failure(seen error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err, op := seen, "read response"
	switch _, garbage := errors.AsType[*ProtocolError](seen); {
	case l.cause != nil:
		err = l.cause
	case l.writeErr != nil && !garbage:
		err, op = l.writeErr, "write request"
	}
	if e, ok := err.(*ClientError); ok {
		return e
	}
	return &exchangeError{op: op, err: err, never: !l.wrote && !l.responded, responded: l.responded}
}

// brokenBy says why a response has broken off.
func (l *Lane) brokenBy(seen error) error {
	if cause := l.Cause(); cause != nil {
		return cause
	}
	if _, ok := seen.(*ClientError); ok {
		return seen
	}
	return &exchangeError{op: "read response", err: seen, responded: true}
}

// answer passes the service's responses on.
func (l *Lane) answer(c *conn, a *laneAnswer) error {
	for n := 0; ; n++ {
		raw, err := l.readHead(c)
		if err != nil {
			return err
		}
		buf := laneBuffer(len(raw) + c.buffered() + 2*laneRoom)
		out, ok := a.scan((*buf)[:0], raw, l.Request.Method, l.Drop, l.Filter)
		if !ok {
			out, err = a.parse((*buf)[:0], raw, l.Request.Method, l.Drop, l.Filter)
		}
		switch {
		case err != nil:
		case a.status == http.StatusSwitchingProtocols:
			err = malformed("status 101 to what nobody asked for")
		case a.status >= 200:
			err = l.pass(c, a, out)
			putLaneBuffer(buf)
			return err
		case n == maxInformational:
			err = malformed("more than %d informational responses", maxInformational)
		default:
			_, err = l.in.nc.Write(out)
			err = clientError(err)
		}
		putLaneBuffer(buf)
		if err != nil {
			return err
		}
	}
}

// readHead returns the next head of the service.
func (l *Lane) readHead(c *conn) ([]byte, error) {
	if !l.responded && c.buffered() == 0 {
		if err := c.more(); err != nil {
			return nil, err
		}
		l.responded = true
	}
	limit := l.Pool.maxResponseHeader()
	raw, err := c.head(limit)
	if err == errTooLong {
		return nil, malformed("header over %d bytes", limit)
	}
	return raw, unexpected(err)
}

// fail answers a request that got no response. answered says that the client has got an answer and that the connection may
// go on.
func (l *Lane) fail(err error) (end laneEnd, answered bool) {
	intact := !l.moved // all that has come is in the buffer
	answer, back := l.Keeper.Failed(l, err, intact)
	l.endUpload(false)
	l.Request.Received = l.pos.Load()
	switch {
	case back:
		return laneBack, false
	case answer == nil || l.Cause() != nil:
		if l.Request.Err == nil {
			l.Request.Err = err
		}
		return laneReset, false
	}
	if l.closing = l.closing || l.Keeper.Closing() || !l.complete.Load(); l.closing {
		answer = bytes.Replace(answer, []byte("\r\n\r\n"), []byte("\r\nConnection: close\r\n\r\n"), 1)
	}
	if _, err := l.in.nc.Write(answer); err != nil {
		return laneReset, false
	}
	return laneGoOn, true
}

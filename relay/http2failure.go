package relay

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

const (
	// streamRefused is the code of a stream of which nothing was done (RFC 9113, section 8.7).
	streamRefused = 7
	// What net/http says, which has no other names for these.
	fromPeer   = "received from peer"
	gotGoAway  = "http2: Transport received Server's graceful shutdown GOAWAY"
	brokeRules = "connection error: "
)

// streamError has the form of net/http's error for a stream that was reset, which can be had as this by errors.As.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

// Error implements error.
func (e streamError) Error() string { return "stream reset" }

// failure says why the exchange failed, given what was seen of it.
func (x *http2Exchange) failure(seen error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := seen
	if x.cause != nil {
		err = x.cause
	}
	switch err.(type) {
	case *ClientError, *exchangeError:
		return err
	}
	// When we gave up it is not known how far net/http was.
	never := x.cause == nil && !x.responded && (!x.headMayHaveLeft() || notTaken(seen))
	return &exchangeError{op: "exchange over HTTP/2", err: protocolError(err), never: never, responded: x.responded}
}

// notTaken reports whether the other side said that it did nothing of the request: by resetting its stream as refused,
// or by a GOAWAY with the number of a stream before.
func notTaken(err error) bool {
	if s, ok := errors.AsType[streamError](err); ok {
		return s.Code == streamRefused && s.Cause != nil && s.Cause.Error() == fromPeer
	}
	return err.Error() == gotGoAway
}

// protocolError finds out what net/http itself reset a stream for, or ended the connection.
func protocolError(err error) error {
	if strings.HasPrefix(err.Error(), brokeRules) {
		return malformed("%v", err)
	}
	s, ok := errors.AsType[streamError](err)
	if !ok || s.Cause != nil && s.Cause.Error() == fromPeer {
		return unexpected(err)
	}
	if s.Cause == nil {
		return malformed("%v", err)
	}
	return malformed("%v", s.Cause)
}

// nudge makes net/http look again at who waits for flow control on the connection. It does so when any stream ends;
// here one that never begins, and of which the other side sees nothing.
func (c *http2Conn) nudge() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://service/", nil)
	if err != nil {
		return
	}
	_ = c.cc.Reserve() // or it would use up the reservation of another
	if res, err := c.cc.RoundTrip(req); err == nil {
		_ = res.Body.Close()
	}
}

package tunnel

import (
	"errors"
	"fmt"
	"net"

	"piko/fault"
)

// Errors of streams. A session's end is seen on its streams as the error that
// the session ended with.
var (
	// ErrStreamReset: the peer reset the stream.
	ErrStreamReset = errors.New("stream reset by the peer")
	// ErrRefused: the peer reset the stream before it accepted it. Nothing that
	// was written on it has been acted upon: it is safe to try elsewhere.
	ErrRefused error = refusedError{}
	// ErrClosed: the stream was closed or reset at this end. It is a
	// net.ErrClosed.
	ErrClosed = fmt.Errorf("use stream: %w", net.ErrClosed)
	// ErrPeerOverloaded: the peer reset the stream because too many bytes
	// waited there for readers. It is a fault.Overloaded.
	ErrPeerOverloaded error = fault.New(fault.Overloaded, ErrStreamReset)
	// ErrBufferFull: the session held too many bytes that nobody had read when
	// more came for this stream, which was reset.
	// It is a fault.Overloaded.
	ErrBufferFull error = fault.New(fault.Overloaded, errors.New("stream reset: too many unread bytes in its tunnel"))
)

// Errors of open. Nothing was sent.
var (
	// ErrTooManyStreams: as many streams as the limit allows are open.
	ErrTooManyStreams = errors.New("too many streams")
	// ErrExhausted: the session has opened as many streams as there are ids. It
	// has to be replaced by a new one.
	ErrExhausted = errors.New("stream ids exhausted")
	// ErrGoAway: the peer takes no new streams.
	ErrGoAway = errors.New("peer takes no new streams")
)

type refusedError struct{}

func (refusedError) Error() string { return "stream refused by the peer" }

// Refused says that trying elsewhere repeats nothing: package relay asks for it.
func (refusedError) Refused() bool { return true }

// A GoAwayError is what a session ends with when the peer said that it is over,
// and not only that no stream may follow.
type GoAwayError struct {
	Code uint32 // 1 protocol error, 2 internal error; others are unknown
}

// Error names the code.
func (e *GoAwayError) Error() string {
	switch e.Code {
	case goAwayProtocol:
		return "peer ended the tunnel: protocol error"
	case goAwayInternal:
		return "peer ended the tunnel: internal error"
	}
	return fmt.Sprintf("peer ended the tunnel: code %d", e.Code)
}

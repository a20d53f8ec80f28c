package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

// ErrNoAnswer is what SpeaksHTTP1 returns when the connection broke, or what came over it is neither HTTP/1 nor HTTP/2.
var ErrNoAnswer = errors.New("question for HTTP/1.1: no answer")

// SpeaksHTTP1 asks over a new connection, which it closes, whether the other side answers requests of HTTP/1.1. Servers
// that speak nothing but HTTP/2 hang up in order, or send its settings. The question is OPTIONS *, which changes nothing
// and which most servers answer by themselves. An error says that nothing was learned: ctx has ended first, or it is
// ErrNoAnswer.
func SpeaksHTTP1(ctx context.Context, conn net.Conn, host string) (bool, error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	begin := make([]byte, http2FrameHeader)
	n := 0
	_, err := io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
	if err == nil {
		n, err = io.ReadFull(conn, begin)
	}
	if cause := context.Cause(ctx); cause != nil {
		return false, cause
	}
	switch {
	case bytes.HasPrefix(begin[:n], []byte("HTTP/1.")):
		return true, nil
	case n == 0 && errors.Is(err, io.EOF):
		return false, nil
	case n == len(begin) && isSettings(begin):
		return false, nil
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return false, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return false, ErrNoAnswer
}

// http2FrameHeader is how many bytes a frame begins with.
const http2FrameHeader = 9

// isSettings reports whether b is the header of the frame that an HTTP/2 server has to begin with: RFC 9113, section 3.4.
func isSettings(b []byte) bool {
	length := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	const settings, setting = 4, 6
	return b[3] == settings && b[4] == 0 && length%setting == 0 && length <= 1<<14 && bytes.Equal(b[5:], []byte{0, 0, 0, 0})
}

package relay

import (
	"context"
	"io"
	"net"
	"strings"
)

// SpeaksHTTP1 asks over a new connection, which it closes, whether the other side answers requests of HTTP/1.1. Servers
// that speak nothing but HTTP/2 hang up, or say something else. The question is OPTIONS *, which changes nothing and
// which most servers answer by themselves. An error says that nothing was learned: ctx has ended first.
func SpeaksHTTP1(ctx context.Context, conn net.Conn, host string) (bool, error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	const answer = "HTTP/1."
	begin := make([]byte, len(answer))
	n := 0
	_, err := io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
	if err == nil {
		n, _ = io.ReadFull(conn, begin)
	}
	if err := context.Cause(ctx); err != nil {
		return false, err
	}
	return strings.HasPrefix(string(begin[:n]), answer), nil
}

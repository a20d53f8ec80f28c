package relay

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// lateWriter is a connection whose Write returns long after its bytes have arrived: when the connection is closed.
type lateWriter struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *lateWriter) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	<-c.closed
	return n, err
}

func (c *lateWriter) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A service may have read a request, and hung up, before whoever wrote it knows that it is written. It must not be sent
// again for that.
func TestWhatAServiceHasReadWasExecuted(t *testing.T) {
	for _, body := range []string{"short", strings.Repeat("x", 2*copyBuffer)} {
		p := &Pool{Dial: func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			go func() {
				io.ReadFull(there, make([]byte, 20))
				io.CopyN(io.Discard, there, int64(len("short")))
				there.Close()
			}()
			return &lateWriter{Conn: here, closed: make(chan struct{})}, nil
		}}
		req := post(t, "/", struct{ io.Reader }{strings.NewReader(body)})
		req.ContentLength = int64(len(body))
		res, err := p.RoundTrip(req)
		if err == nil {
			res.Body.Close()
			t.Fatal("an answer from nobody")
		}
		if NeverExecuted(err) {
			t.Errorf("%d bytes: never executed, says %v", len(body), err)
		}
		p.Close()
	}
}

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"
)

// oldAgent is what an agent of v0.9.0 is to a cluster: a WebSocket and yamux with their
// defaults, one tunnel, and no extension.
type oldAgent struct {
	url     string // of the endpoint, at the upstream port
	service string // host:port
}

// run keeps a tunnel until the context ends. As with v0.9.0, an orderly close would end the
// agent for good; only what looks like a failure makes it connect again.
func (a *oldAgent) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.serve(ctx)
		if errors.Is(err, io.EOF) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100*time.Millisecond + rand.N(100*time.Millisecond)):
		}
	}
}

// serve is one tunnel from its beginning to its end.
func (a *oldAgent) serve(ctx context.Context) error {
	ws, res, err := websocket.DefaultDialer.DialContext(ctx, a.url, nil)
	if err != nil {
		if res != nil {
			res.Body.Close()
		}
		return err
	}
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	sess, err := yamux.Client(&messageConn{Conn: ws}, cfg)
	if err != nil {
		ws.Close()
		return err
	}
	defer sess.Close()
	defer context.AfterFunc(ctx, func() { sess.Close() })()
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	target := &url.URL{Scheme: "http", Host: a.service}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport:     transport,
		FlushInterval: -1,
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Those of v0.9.0 do not, and so cut some answers to POSTs, whatever the server does.
		http.NewResponseController(w).EnableFullDuplex()
		proxy.ServeHTTP(w, r)
	})}
	defer srv.Close()
	return srv.Serve(sess)
}

// messageConn is a WebSocket as a stream of bytes in binary messages.
type messageConn struct {
	*websocket.Conn
	r io.Reader // of the message that is being read
}

// Read implements net.Conn.
func (c *messageConn) Read(p []byte) (int, error) {
	for {
		if c.r == nil {
			_, r, err := c.NextReader()
			if _, closed := errors.AsType[*websocket.CloseError](err); closed {
				err = net.ErrClosed
			}
			if err != nil {
				return 0, err
			}
			c.r = r
		}
		n, err := c.r.Read(p)
		if err != io.EOF {
			return n, err
		}
		if c.r = nil; n > 0 {
			return n, nil
		}
	}
}

// Write implements net.Conn.
func (c *messageConn) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

// SetDeadline implements net.Conn.
func (c *messageConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

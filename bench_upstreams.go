package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"piko/client"
)

// echoUpstreams are the upstreams that a benchmark registers: each is a
// listener of the SDK, on the endpoints in turn, that answers every request
// with its body.
type echoUpstreams struct {
	// Static after start.
	listeners []*client.Listener
	servers   sync.WaitGroup
	server    *http.Server
}

// startUpstreams registers n upstreams and returns when all of them are
// connected. It fails when the first of them cannot, and when ctx ends.
func startUpstreams(ctx context.Context, c *client.Client, n int, endpoint func(i int) string, log *slog.Logger) (*echoUpstreams, error) {
	u := &echoUpstreams{server: &http.Server{
		Handler:  http.HandlerFunc(echo),
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
	connected := make(chan error, n)
	listeners := make([]*client.Listener, n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := range n {
		go func() {
			var err error
			listeners[i], err = c.Listen(ctx, endpoint(i))
			connected <- err
		}()
	}
	var failed error
	for range n {
		if err := <-connected; err != nil && failed == nil {
			failed = fmt.Errorf("connect upstreams: %w", err)
			cancel()
		}
	}
	for _, l := range listeners {
		if l != nil {
			u.serve(l)
		}
	}
	if failed != nil {
		u.stop()
		return nil, failed
	}
	return u, nil
}

func (u *echoUpstreams) serve(l *client.Listener) {
	u.listeners = append(u.listeners, l)
	u.servers.Go(func() { u.server.Serve(l) })
}

// stop closes the listeners and waits for what served them.
func (u *echoUpstreams) stop() {
	u.server.Close()
	var closing sync.WaitGroup
	for _, l := range u.listeners {
		closing.Go(func() { l.Close() })
	}
	closing.Wait()
	u.servers.Wait()
}

// echoBuffers are for echo.
var echoBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// echo answers with the request's body, as it comes.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 {
		return
	}
	http.NewResponseController(w).EnableFullDuplex() // or a body larger than the server's buffers stalls
	h := w.Header()
	h["Content-Type"] = []string{"application/octet-stream"}
	if r.ContentLength > 0 {
		h["Content-Length"] = []string{fmt.Sprint(r.ContentLength)}
	}
	buf := echoBuffers.Get().(*[]byte)
	defer echoBuffers.Put(buf)
	// Neither side's own ReadFrom and WriteTo: they would bring their own buffer.
	io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r.Body}, *buf)
}

// awaitEndpoints returns once every endpoint answers through the proxy. A
// tunnel is open a moment before requests find it, and a wrong proxy URL shows
// here instead of in every single request.
func (l *load) awaitEndpoints(ctx context.Context) error {
	w := &loadWorker{load: l, buf: make([]byte, 1<<10)}
	for _, endpoint := range l.endpoints {
		var last error // that says more than that time ran out
		for {
			err := w.exchange(ctx, endpoint, nil)
			if err == nil {
				break
			}
			if last == nil || ctx.Err() == nil {
				last = err
			}
			if !sleepUntil(ctx, time.Now().Add(20*time.Millisecond)) {
				return fmt.Errorf("reach %s through %s: %w", endpoint, l.url, last)
			}
		}
	}
	return nil
}

// loadTransport is the HTTP client of a benchmark: a connection for each worker.
func loadTransport(clients int, dialTimeout time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Transport{
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: dialTimeout,
		MaxIdleConnsPerHost: clients,
		DisableCompression:  true,
	}
}

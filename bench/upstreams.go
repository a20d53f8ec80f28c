package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"piko/client"
)

// Kind is what a benchmark's services speak.
type Kind string

// The kinds of services: each answers with what it got.
const (
	KindHTTP Kind = "http" // HTTP/1.1 and, with prior knowledge, HTTP/2
	KindTCP  Kind = "tcp"
)

// Services are listeners that answer everything with what they got. Use Listen
// for one that others connect to, and Upstreams for listeners of the SDK.
type Services struct {
	// Static after construction.
	kind   Kind
	server *http.Server

	running sync.WaitGroup

	// Guarded by mu.
	mu        sync.Mutex
	stopped   bool
	listeners []net.Listener
	conns     map[net.Conn]struct{} // of KindTCP
}

// NewServices returns services without a listener. log gets at debug what goes wrong.
func NewServices(kind Kind, log *slog.Logger) *Services {
	s := &Services{kind: kind, conns: make(map[net.Conn]struct{})}
	s.server = &http.Server{
		Handler:   http.HandlerFunc(echo),
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Protocols: new(http.Protocols),
	}
	s.server.Protocols.SetHTTP1(true)
	s.server.Protocols.SetUnencryptedHTTP2(true)
	return s
}

// Listen serves a port of this machine.
func (s *Services) Listen(addr string) (net.Addr, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s.serve(ln)
	return ln.Addr(), nil
}

// dialsAtOnce bounds the upstreams that connect at the same time: of more than a
// listening socket queues, which are 4,096 on Linux, the system drops some, which then
// wait for a second or more before it tries again.
const dialsAtOnce = 1024

// Upstreams registers n upstreams, on the endpoints that endpoint names, and
// returns when all are connected. It fails when the first of them cannot, and
// when ctx ends.
func (s *Services) Upstreams(ctx context.Context, c *client.Client, n int, endpoint func(i int) string) error {
	connected := make(chan error, n)
	listeners := make([]*client.Listener, n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	turns := make(chan int, n)
	for i := range n {
		turns <- i
	}
	close(turns)
	for range min(n, dialsAtOnce) {
		go func() {
			for i := range turns {
				var err error
				listeners[i], err = c.Listen(ctx, endpoint(i))
				connected <- err
			}
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
			s.serve(l)
		}
	}
	return failed
}

func (s *Services) serve(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		ln.Close()
		return
	}
	s.listeners = append(s.listeners, ln)
	if s.kind == KindHTTP {
		s.running.Go(func() { s.server.Serve(ln) })
		return
	}
	s.running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.echo(conn)
		}
	})
}

// echo sends back what a connection brings.
func (s *Services) echo(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		conn.Close()
		return
	}
	s.conns[conn] = struct{}{}
	s.running.Go(func() {
		buf := echoBuffers.Get().(*[]byte)
		io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}, *buf)
		echoBuffers.Put(buf)
		conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	})
}

// Stop closes everything and waits for it.
func (s *Services) Stop() {
	s.mu.Lock()
	s.stopped = true
	listeners := s.listeners
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.server.Close()
	var closing sync.WaitGroup
	for _, l := range listeners {
		closing.Go(func() { l.Close() })
	}
	closing.Wait()
	s.running.Wait()
}

// echoBuffers are for echoes.
var echoBuffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// echo answers with the request's body, as it comes; a call of gRPC with its message.
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
	if r.Header.Get("Content-Type") == grpcType {
		h["Content-Type"], h[http.TrailerPrefix+"Grpc-Status"] = []string{grpcType}, []string{"0"}
	}
	buf := echoBuffers.Get().(*[]byte)
	defer echoBuffers.Put(buf)
	// Neither side's own ReadFrom and WriteTo: they would bring their own buffer.
	io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r.Body}, *buf)
}

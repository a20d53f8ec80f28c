package inspect

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// recorder is the http.ResponseWriter of an exchange. It belongs to the
// handler's goroutine, but for the request's body, which is read by whoever
// sends it.
type recorder struct {
	http.ResponseWriter
	s     *store
	x     *exchange
	wrote bool
	whole bool   // the handler has returned
	split parser // of the answer's body; nil: it has no messages

	hijacked bool
}

// Unwrap is http.ResponseController's.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// request is r with a body that is copied while it is read. The original stays
// as it is: net/http looks at its body.
func (w *recorder) request(r *http.Request) *http.Request {
	if isGRPC(r.Header) {
		w.s.change(w.x, func() int { w.x.kind = kindGRPC; return 0 })
	}
	out := *r
	if r.Body == nil || r.Body == http.NoBody {
		return &out
	}
	b := &body{ReadCloser: r.Body, w: w, in: r, out: &out}
	if isGRPC(r.Header) {
		b.split = &grpcParser{out: messages{s: w.s, x: w.x}}
	}
	out.Body = b
	return &out
}

// body is a request's body.
type body struct {
	io.ReadCloser
	w       *recorder
	in, out *http.Request
	split   parser // nil: it has no messages
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 || err == io.EOF {
		b.w.s.change(b.w.x, func() int {
			c := &b.w.x.request
			c.ended = err == io.EOF
			return b.w.s.body(c, p[:n])
		})
	}
	if b.split != nil {
		b.split.feed(p[:n])
	}
	if err == io.EOF {
		b.out.Trailer = b.in.Trailer // net/http makes it when the body ends
	}
	return n, err
}

// WriteHeader notes the head of the answer and writes it.
func (w *recorder) WriteHeader(status int) {
	if status >= 200 && !w.wrote {
		w.head(status, w.Header().Clone())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) head(status int, h http.Header) {
	w.wrote = true
	kind := ""
	switch media := mediaType(h.Get("Content-Type")); {
	case isGRPC(h):
		kind, w.split = kindGRPC, &grpcParser{out: messages{s: w.s, x: w.x, response: true}}
	case media == "text/event-stream":
		kind, w.split = kindEvents, &eventParser{out: messages{s: w.s, x: w.x, response: true}}
	}
	for name, values := range h {
		if len(values) == 0 || strings.HasPrefix(name, http.TrailerPrefix) {
			delete(h, name) // nil keeps net/http from making one up
		}
	}
	w.s.change(w.x, func() int {
		x := w.x
		x.status, x.answer, x.firstByte = status, h, time.Since(x.start)
		if kind != "" {
			x.kind = kind
		}
		return headerCost(h)
	})
}

// Write writes a piece of the answer's body and notes what has left.
func (w *recorder) Write(p []byte) (int, error) {
	if !w.wrote {
		w.head(http.StatusOK, w.Header().Clone())
	}
	n, err := w.ResponseWriter.Write(p)
	w.s.change(w.x, func() int { return w.s.body(&w.x.response, p[:n]) })
	if w.split != nil {
		w.split.feed(p[:n])
	}
	return n, err
}

// Failed is told by the agent why a request failed, before its handler ends.
func (w *recorder) Failed(err error) {
	text := err.Error()
	text = text[:min(len(text), 1<<10)]
	w.s.change(w.x, func() int { w.x.failure = text; return len(text) })
}

// end notes the end of the exchange, also when the handler panics.
func (w *recorder) end() {
	if w.whole && !w.wrote && !w.hijacked {
		w.head(http.StatusOK, w.Header().Clone()) // as net/http does
	}
	trailer := trailers(w.Header())
	w.s.change(w.x, func() int {
		x := w.x
		x.done, x.took = true, time.Since(x.start)
		x.trailer = trailer
		x.response.ended = w.whole
		if !w.whole && x.failure == "" {
			x.failure = "the exchange was cut before its end"
		}
		return headerCost(trailer)
	})
}

// trailers are those of an answer that a handler has set.
func trailers(h http.Header) http.Header {
	t := make(http.Header)
	for name, values := range h {
		if name, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			t[name] = values
		}
	}
	for _, list := range h["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if values := h[name]; len(values) > 0 {
				t[name] = values
			}
		}
	}
	return t.Clone()
}

// Hijack gives the connection away, with a copy of what passes over it.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.hijacked = true
	in, out := messages{s: w.s, x: w.x}, messages{s: w.s, x: w.x, response: true}
	c := &conn{Conn: nc, in: &rawParser{out: in}, out: &switchParser{w: w, out: out}}
	if strings.EqualFold(w.x.header.Get("Upgrade"), "websocket") {
		c.in = &socketParser{out: in}
	}
	if n := brw.Reader.Buffered(); n > 0 {
		early, _ := brw.Reader.Peek(n)
		c.in.feed(early)
	}
	return c, brw, nil
}

// conn is a connection that was taken over: one goroutine reads it, one writes.
type conn struct {
	net.Conn
	in, out parser
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.feed(p[:n])
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.feed(p[:n])
	return n, err
}

// CloseWrite, Done and Reset are what the agent asks of its streams.

func (c *conn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *conn) Done() <-chan struct{} {
	if d, ok := c.Conn.(interface{ Done() <-chan struct{} }); ok {
		return d.Done()
	}
	return nil
}

func (c *conn) Reset() {
	if r, ok := c.Conn.(interface{ Reset() }); ok {
		r.Reset()
		return
	}
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Conn.Close()
}

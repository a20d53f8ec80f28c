package proxy

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// readProgress is for how long a body may stay away. Over HTTP/2 the body itself sees to that.
func (x *exchange) readProgress() time.Duration {
	limit := max(0, x.f.opt.ReadTimeout)
	if isGRPC(x.r) || limit == 0 {
		return 0
	}
	if x.r.ProtoMajor < 2 {
		return limit
	}
	if x.r.ContentLength > 0 {
		x.r.Body = newStallingBody(x.w, x.r.Body, limit)
	}
	return 0
}

// progressLimit is for how long the client may read nothing of a response; 0 is for ever. Streams rest as they like.
func (x *exchange) progressLimit(res *http.Response) time.Duration {
	if res.ContentLength < 0 || isGRPC(x.r) {
		return 0
	}
	return max(0, x.f.opt.WriteTimeout)
}

// progressWriter ends a response that makes no progress. With HTTP/1 each write moves the deadline, eight times within
// its duration at most, and net/http clears it behind the response. With HTTP/2 a deadline ends the stream also while
// nothing waits to be written, so the time of each write is taken here.
type progressWriter struct {
	http.ResponseWriter
	limit time.Duration // 0 is none
	armed time.Time
	stall *stall // nil unless HTTP/2 with a limit
}

// start sets the first deadline, which also bounds what net/http writes at the end.
func (w *progressWriter) start(to http.ResponseWriter, r *http.Request, limit time.Duration) {
	w.ResponseWriter, w.limit = to, limit
	if r.ProtoMajor >= 2 && limit > 0 {
		w.stall = &stall{limit: limit, cut: func() { _ = http.NewResponseController(to).SetWriteDeadline(longAgo) }}
		return
	}
	w.arm()
}

// end bounds what net/http has still to write of a whole response.
func (w *progressWriter) end() {
	if w.stall != nil {
		boundEnd(w.ResponseWriter, w.limit)
	}
}

// boundEnd is for HTTP/2, where a client that opens no window keeps even an empty response waiting.
func boundEnd(w http.ResponseWriter, limit time.Duration) {
	if limit > 0 {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit))
	}
}

// Unwrap is for http.ResponseController.
func (w *progressWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *progressWriter) Write(p []byte) (int, error) {
	if w.stall != nil {
		w.stall.begin()
		defer w.stall.over()
	} else {
		w.arm()
	}
	return w.ResponseWriter.Write(p)
}

// FlushError is what http.ResponseController calls. It may have to wait for the client as a Write may.
func (w *progressWriter) FlushError() error {
	if w.stall != nil {
		w.stall.begin()
		defer w.stall.over()
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *progressWriter) arm() {
	if w.limit == 0 {
		return
	}
	slack := w.limit / 8
	if now := time.Now(); now.Sub(w.armed) > slack {
		w.armed = now
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(now.Add(w.limit + slack))
	}
}

// stallingBody is a request body over HTTP/2 that fails with a time-out when it is waited for too long. The read deadline
// of net/http would run on while a service that reads slowly keeps us from reading the client.
type stallingBody struct {
	io.ReadCloser
	stall stall
}

func newStallingBody(w http.ResponseWriter, body io.ReadCloser, limit time.Duration) io.ReadCloser {
	cut := func() { _ = http.NewResponseController(w).SetReadDeadline(longAgo) }
	return &stallingBody{body, stall{limit: limit, cut: cut}}
}

// Read implements io.Reader.
func (b *stallingBody) Read(p []byte) (int, error) {
	b.stall.begin()
	defer b.stall.over()
	return b.ReadCloser.Read(p)
}

// longAgo is a deadline that is over.
var longAgo = time.Unix(1, 0)

// stall cuts something off that takes too long each time. Times are taken between begin and over, by one goroutine at a
// time; cut is called at no other moment, so that it may use what lives only so long.
type stall struct {
	// Static after construction.
	limit time.Duration
	cut   func()

	// Guarded by mu.
	mu    sync.Mutex
	timer *time.Timer
	since time.Time // zero unless the time is being taken
}

func (s *stall) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
	if s.timer == nil {
		s.timer = time.AfterFunc(s.limit, s.ring)
		return
	}
	s.timer.Reset(s.limit)
}

func (s *stall) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Time{}
	s.timer.Stop()
}

func (s *stall) ring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		return
	}
	if left := s.limit - time.Since(s.since); left > 0 { // it rang for the time before
		s.timer.Reset(left)
		return
	}
	s.cut()
}

package proxy

import (
	"net/http"
	"time"
)

// readProgress is for how long a body may stay away.
func (x *exchange) readProgress() time.Duration {
	if isGRPC(x.r) {
		return 0
	}
	return max(0, x.f.opt.ReadTimeout)
}

// progressLimit is for how long the client may read nothing of a response; 0 is for ever. Streams rest as they like.
func (x *exchange) progressLimit(res *http.Response) time.Duration {
	if res.ContentLength < 0 || isGRPC(x.r) {
		return 0
	}
	return max(0, x.f.opt.WriteTimeout)
}

// progressWriter ends a response that makes no progress: each write moves the deadline, eight times within its
// duration at most. net/http clears it behind the response.
type progressWriter struct {
	http.ResponseWriter
	limit time.Duration // 0 is none
	armed time.Time
}

// start sets the first deadline, which also bounds what net/http writes at the end.
func (w *progressWriter) start(to http.ResponseWriter, limit time.Duration) {
	w.ResponseWriter, w.limit = to, limit
	w.arm()
}

// Unwrap is for http.ResponseController.
func (w *progressWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *progressWriter) Write(p []byte) (int, error) {
	w.arm()
	return w.ResponseWriter.Write(p)
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

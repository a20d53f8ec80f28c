package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"piko/fault"
	"piko/relay"
)

// breakLogInterval is how often at most the log gets that the service breaks
// off its answers.
const breakLogInterval = 10 * time.Second

// serviceHealth is what the log knows of the service, so that a service which
// is down under load costs a line and not a thousand. Safe for concurrent use.
type serviceHealth struct {
	down      atomic.Bool  // the last request got no answer
	nextBreak atomic.Int64 // when the next answer that breaks off may be logged; ns since 1970
}

// unanswered logs that the service gave no answer, once until it does.
func (l *listener) unanswered(f *fault.Error) {
	if f.Code.Status() < http.StatusInternalServerError {
		return // the request's fault
	}
	if l.health.down.CompareAndSwap(false, true) {
		l.log.Warn("service unreachable", "endpoint", l.cfg.Endpoint, "service", l.service.host, "error", f.Err)
	}
}

// answered logs that the service can be reached again, if it could not.
func (l *listener) answered() {
	if l.health.down.Load() && l.health.down.CompareAndSwap(true, false) {
		l.log.Info("service reachable again", "endpoint", l.cfg.Endpoint, "service", l.service.host)
	}
}

// brokeOff logs that an answer ended half-way, unless the client was the reason.
func (l *listener) brokeOff(err error) {
	if _, ok := errors.AsType[*relay.ClientError](err); ok {
		return
	}
	now, next := time.Now().UnixNano(), l.health.nextBreak.Load()
	if now < next || !l.health.nextBreak.CompareAndSwap(next, now+int64(breakLogInterval)) {
		return
	}
	l.log.Warn("service broke off its answer", "endpoint", l.cfg.Endpoint, "service", l.service.host, "error", err)
}

// serverLog gets what net/http's server has to say: a panic of ours is an
// error, the rest is what peers do.
type serverLog struct{ log *slog.Logger }

func (s serverLog) Write(p []byte) (int, error) {
	line := string(bytes.TrimSpace(p))
	if bytes.HasPrefix(p, []byte("http: panic")) {
		s.log.Error(line)
	} else {
		s.log.Debug(line)
	}
	return len(p), nil
}

package strict

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// A client of HTTP/2 that opens requests and resets them at once has each of them looked up, sent to a service and
// cancelled there, for two dozen bytes (CVE-2023-44487; CVE-2025-8671 where it makes the server reset them). net/http
// bounds how many there are at a time, not how many there are.
//
// rapid is how long a request lives at least that is no sign of such a client. With the limit on streams it bounds what
// a client can do who waits as long.
const rapid = time.Second

// DefaultResets is how many requests a second may be reset rapidly for ever; resetBurst times as many may be at once, beyond
// those that were not. A page that is left is far below, and so are thousands of callers behind one connection who all give
// up on a service that hangs: uploads that meet the GOAWAY cannot be sent again. It costs a twentieth of a core.
const (
	DefaultResets = 500
	resetBurst    = 10
)

// resets counts for one connection.
type resets struct {
	perSecond float64 // forgiven

	mu     sync.Mutex
	score  float64
	last   time.Time
	calmed bool
}

// note takes note of a request that has ended, and reports, once, that the connection should.
func (s *resets) note(now time.Time, wasRapid bool) (enough bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.score = max(0, s.score-s.perSecond*now.Sub(s.last).Seconds())
	s.last = now
	if !wasRapid {
		s.score = max(0, s.score-1)
		return false
	}
	s.score++
	enough = s.score > resetBurst*s.perSecond && !s.calmed
	s.calmed = s.calmed || enough
	return enough
}

type resetsKey struct{}

// CountResets prepares a connection's context for Calm; it is called from an http.Server's ConnContext. perSecond is how many
// requests it may reset rapidly in each second, such as DefaultResets, and ten times as many at once.
func CountResets(ctx context.Context, perSecond int) context.Context {
	return context.WithValue(ctx, resetsKey{}, &resets{perSecond: float64(perSecond)})
}

// Calm is a handler that sends GOAWAY to clients of HTTP/2 that reset requests about as fast as they make them: what they
// have under way goes on, and nothing new begins on that connection. It hands everything to next.
func Calm(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor < 2 {
			next.ServeHTTP(w, r)
			return
		}
		if s, ok := r.Context().Value(resetsKey{}).(*resets); ok {
			defer s.end(w, r, time.Now())
		}
		next.ServeHTTP(w, r)
	})
}

// end is called when the handler is through, also when it panics. As long as it runs nobody but the client, or the end of
// the connection, ends the context.
func (s *resets) end(w http.ResponseWriter, r *http.Request, began time.Time) {
	now := time.Now()
	if s.note(now, r.Context().Err() != nil && now.Sub(began) < rapid) {
		// That is how net/http is told to send GOAWAY. Of the response nobody sees anything: its stream is reset.
		w.Header().Set("Connection", "close")
		_ = http.NewResponseController(w).Flush()
	}
}

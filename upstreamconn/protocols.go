package upstreamconn

import (
	"context"
	"errors"
	"time"

	"piko/relay"
)

// askTime bounds the question whether an upstream speaks HTTP/1.1.
const askTime = 2 * time.Second

// maxQuestions is how often a tunnel's upstream is asked whose answers break off.
const maxQuestions = 5

// question is whether an upstream that serves HTTP/2 speaks HTTP/1.1 as well.
type question struct {
	answered chan struct{}
	only2    bool // it does not. Static once answered is closed
}

// isOnly2 reports whether the upstream, which serves HTTP/2, has nothing else,
// as a grpc.Server. The first request that would do with HTTP/1.1 asks; by then
// the upstream has seen nothing of it.
func (u *upstream) isOnly2(ctx context.Context) bool {
	q := u.question.Load()
	if q == nil {
		mine := &question{answered: make(chan struct{})}
		if u.question.CompareAndSwap(nil, mine) {
			u.askHTTP1(ctx, mine)
		}
		if q = u.question.Load(); q == nil {
			return false // it could not be asked
		}
	}
	select {
	case <-q.answered:
		return q.only2
	default:
	}
	select {
	case <-q.answered:
	case <-ctx.Done():
		return false
	}
	return q.only2
}

// saidHTTP1 reports whether the upstream was asked, and speaks HTTP/1.1.
func (u *upstream) saidHTTP1() bool {
	q := u.question.Load()
	if q == nil {
		return false
	}
	select {
	case <-q.answered:
		return !q.only2
	default:
		return false
	}
}

// askHTTP1 answers the question, which others may be waiting for: so it does not
// end with the request. A connection that breaks, as when the upstream is just
// being stopped, is no answer: it is asked again, for maxQuestions times. Silence
// is no answer that a request could do better without, and is not asked again.
func (u *upstream) askHTTP1(ctx context.Context, q *question) {
	defer close(q.answered)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	conn, err := u.dial(bounded)
	if err != nil {
		u.question.Store(nil)
		return
	}
	speaks1, err := relay.SpeaksHTTP1(bounded, conn, "localhost")
	q.only2 = err == nil && !speaks1
	if errors.Is(err, relay.ErrNoAnswer) && u.broken.Add(1) < maxQuestions {
		u.question.Store(nil)
	}
}

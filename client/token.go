package client

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"piko/tunnel"
)

// A server ends a tunnel when its token expires, unless it is given a fresh one
// in time. A listener does that for all of its tunnels, those included that it
// has left and whose last connections go on.

const (
	// The next token is asked for when this part of a token's remaining life is
	// over: not by all listeners, whose tokens may be of the same second, at once.
	refreshLeast, refreshMost = 0.7, 0.8

	// refreshPause is between two attempts to get a token that is later than the
	// last one, at least.
	refreshPause = time.Second

	// refreshTime bounds an attempt.
	refreshTime = 30 * time.Second
)

// refresher gives the tunnels of one listener fresh tokens.
type refresher struct {
	// Static after construction.
	token func(context.Context) (string, error)
	poll  time.Duration // 0: only when a token's life demands it
	wake  chan struct{} // a tunnel with a token is open

	wg sync.WaitGroup // the goroutine

	// Owned by run.
	seen    string // what the last poll returned: it may be half of a token that is just being written
	failing int    // attempts in a row that brought no token to send
}

// given is what a tunnel lives by; the zero value is no token. Guarded by the
// listener's mu.
type given struct {
	token string
	at    time.Time // when it was asked for
	due   time.Time // when a fresh one is to be asked for; zero: never
}

// giving is what is to be known of a token that a server has just been given.
func giving(token string, now time.Time) given {
	return given{token: token, at: now, due: dueAt(token, now)}
}

// dueAt is when a token is to be replaced; zero if it does not expire, or has
// expired.
func dueAt(token string, now time.Time) time.Time {
	left := tokenExpiry(token).Sub(now)
	if left <= 0 {
		return time.Time{}
	}
	part := refreshLeast + rand.Float64()*(refreshMost-refreshLeast)
	return now.Add(max(time.Duration(part*float64(left)), refreshPause))
}

// tokenExpiry is the claim exp of a JWT, of which nothing is verified: only the
// server can. It is the zero time if there is none.
func tokenExpiry(token string) time.Time {
	if len(token) > tunnel.MaxToken {
		return time.Time{}
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok {
		return time.Time{}
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(payload, "="))
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	const latest = 1 << 40 // in seconds, beyond which time.Time goes on and durations do not
	if json.Unmarshal(text, &claims) != nil || !(claims.Exp > 0 && claims.Exp < latest) {
		return time.Time{}
	}
	seconds, fraction := math.Modf(claims.Exp)
	return time.Unix(int64(seconds), int64(fraction*1e9))
}

// newRefresher is nil without tokens.
func newRefresher(c *Client) *refresher {
	if c.Token == nil {
		return nil
	}
	return &refresher{token: c.Token, poll: c.TokenPoll, wake: make(chan struct{}, 1)}
}

// asked returns a token func for one attempt that keeps what it returned in g.
func (r *refresher) asked(g *given) func(context.Context) (string, error) {
	if r == nil {
		return nil
	}
	return func(ctx context.Context) (string, error) {
		token, err := r.token(ctx)
		*g = giving(strings.TrimSpace(token), time.Now())
		return token, err
	}
}

// start lets l's tunnels have fresh tokens until l's ctx ends.
func (r *refresher) start(l *Listener) {
	if r != nil {
		r.wg.Go(func() { r.run(l) })
	}
}

// nudge has a new tunnel looked at.
func (r *refresher) nudge() {
	if r == nil {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// wait returns when the goroutine has ended, which it does with l's ctx.
func (r *refresher) wait() {
	if r != nil {
		r.wg.Wait()
	}
}

func (r *refresher) run(l *Listener) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(r.pause(l, time.Now()))
		select {
		case <-l.ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
			r.refresh(l)
		}
	}
}

// pause is how long it is until a token is to be asked for.
func (r *refresher) pause(l *Listener, now time.Time) time.Duration {
	if r.poll > 0 {
		return r.poll
	}
	wait := time.Duration(math.MaxInt64)
	l.mu.Lock()
	defer l.mu.Unlock()
	for lk := range l.open {
		if due := lk.given.due; !due.IsZero() {
			wait = min(wait, max(due.Sub(now), 0))
		}
	}
	return wait
}

// refresh asks for a token, and gives it to the servers that have another one.
func (r *refresher) refresh(l *Listener) {
	if r.poll > 0 && !l.hasOpen() {
		return
	}
	ctx, cancel := context.WithTimeout(l.ctx, refreshTime)
	token, err := r.token(ctx)
	cancel()
	if l.ctx.Err() != nil {
		return
	}
	if token = strings.TrimSpace(token); err == nil && r.poll > 0 && token != r.seen {
		r.seen = token // and next time it is whole
		return
	}
	if err == nil {
		err = unfit(token, l.newestToken(), time.Now())
	}
	if err != nil {
		r.fail(l, err)
		token = ""
	} else {
		r.failing = 0
	}
	l.giveToken(token)
}

// fail says once that there is no token to send. The first time may be the moment
// in which a file is written.
func (r *refresher) fail(l *Listener, err error) {
	if r.failing++; r.failing == 1 && r.poll == 0 || r.failing == 2 && r.poll > 0 {
		l.log.Warn("no fresh token to send; tunnels end when theirs expire", "err", err.Error())
	}
}

// unfit says why a token is not to be sent where the server has another one:
// servers end the tunnels of who sends one that is no good. It may be used to
// connect all the same; then it costs nothing.
func unfit(token, was string, now time.Time) error {
	expiry := tokenExpiry(token)
	switch {
	case token == "":
		return errors.New("it is empty")
	case token == was:
		return nil
	case !expiry.IsZero() && !expiry.After(now):
		return errors.New("it has expired")
	case strings.Count(was, ".") == 2 && strings.Count(token, ".") != 2:
		return errors.New("it is no JWT as the one before")
	}
	return nil
}

// newestToken is the one that a server was given last.
func (l *Listener) newestToken() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var newest given
	for lk := range l.open {
		if lk.given.at.After(newest.at) {
			newest = lk.given
		}
	}
	return newest.token
}

func (l *Listener) hasOpen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open) > 0
}

// giveToken gives the token to the servers that have another one; the turn of
// the others comes again before theirs expires. "" is a token that could not be
// had.
func (l *Listener) giveToken(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, sent := time.Now(), 0
	for lk := range l.open {
		if token == "" || lk.given.token == token {
			if due := lk.given.due; !due.IsZero() && !due.After(now) {
				lk.given.due = dueAt(lk.given.token, now)
			}
			continue
		}
		lk.given = giving(token, now)
		if lk.sess.SendToken(token) == nil { // it only queues; an error says that the server takes none, or has gone
			sent++
		}
	}
	if sent > 0 {
		l.log.Info("fresh token sent", "tunnels", sent, "expires", cmp.Or(formatExpiry(token), "never"))
	}
}

// formatExpiry is "" for a token that does not expire, as far as we know.
func formatExpiry(token string) string {
	expiry := tokenExpiry(token)
	if expiry.IsZero() {
		return ""
	}
	return expiry.UTC().Format(time.RFC3339)
}

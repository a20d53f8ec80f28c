package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"piko/fault"
)

// load sends requests and counts what became of them. A request counts as done
// when the whole answer came and was the request's body; everything else is a
// failure of some kind.
type load struct {
	// Static after construction.
	client    *http.Client
	url       string
	endpoints []string
	size      int
	random    []byte        // each body is a window of it
	requests  int64         // to send in all; 0: until duration is over
	duration  time.Duration // 0: until requests are sent
	rate      float64       // requests started a second; 0: as fast as they end
	timeout   time.Duration // of one request

	// Safe for concurrent use.
	next atomic.Int64 // the next request's number
	hist histogram    // of the requests that are done

	// Guarded by mu.
	mu       sync.Mutex
	failures map[string]int64
	failed   int64
}

// randomSpan is how many different bodies a load has: an answer that belongs
// to another request is noticed with that probability.
const randomSpan = 64 << 10

// run sends the requests with n workers and returns how long it took. The
// requests that were in flight when ctx ended count as neither done nor failed.
func (l *load) run(ctx context.Context, n int) time.Duration {
	l.random = make([]byte, l.size+randomSpan)
	for i := range l.random {
		l.random[i] = byte(rand.Uint32())
	}
	l.mu.Lock()
	l.failures = make(map[string]int64)
	l.mu.Unlock()

	begin := time.Now()
	var workers sync.WaitGroup
	for range n {
		workers.Go(func() { l.work(ctx, begin) })
	}
	workers.Wait()
	return time.Since(begin)
}

// work sends one request after the other.
func (l *load) work(ctx context.Context, begin time.Time) {
	w := &loadWorker{load: l, buf: make([]byte, 32<<10)}
	for {
		start, ok := l.take(ctx, begin)
		if !ok {
			return
		}
		err := w.request(ctx)
		switch {
		case err == nil:
			l.hist.add(time.Since(start))
		case ctx.Err() != nil:
			return
		default:
			l.fail(err)
		}
	}
}

// take waits until the next request is due and returns when it was meant to
// start; false when there is none left. In an open loop a request that finds
// every worker busy starts late, and that delay is part of its latency: a
// server that stalls cannot hide behind a generator that waits for it.
func (l *load) take(ctx context.Context, begin time.Time) (time.Time, bool) {
	i := l.next.Add(1) - 1
	if ctx.Err() != nil || l.requests > 0 && i >= l.requests {
		return time.Time{}, false
	}
	start := time.Now()
	if l.rate > 0 {
		start = begin.Add(time.Duration(float64(i) / l.rate * float64(time.Second)))
	}
	if l.duration > 0 && start.Sub(begin) >= l.duration {
		return time.Time{}, false
	}
	return start, sleepUntil(ctx, start)
}

// sleepUntil returns false if ctx ended before t.
func sleepUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// fail counts err by its kind.
func (l *load) fail(err error) {
	kind := errorKind(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures[kind]++
	l.failed++
}

// loadWorker is what one worker has for itself.
type loadWorker struct {
	*load
	buf []byte
}

// request makes one request to an endpoint by chance and compares the answer.
func (w *loadWorker) request(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	at := rand.IntN(randomSpan)
	body := w.random[at : at+w.size]
	return w.exchange(ctx, w.endpoints[rand.IntN(len(w.endpoints))], body)
}

// exchange posts body to the endpoint and reads its echo.
func (w *loadWorker) exchange(ctx context.Context, endpoint string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header["X-Piko-Endpoint"] = []string{endpoint}
	res, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		refused := fault.ReadRefused(res)
		io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection is kept
		return refused
	}
	return compare(res.Body, body, w.buf)
}

// errWrongEcho is an answer that is not what was sent.
var errWrongEcho = errors.New("answer differs from the request")

// compare reads all of r and checks that it is want. An end that comes too
// early is an error of its own, since a truncated answer is what no tunnel may
// ever pass off as whole.
func compare(r io.Reader, want, buf []byte) error {
	for {
		n, err := r.Read(buf)
		if n > len(want) || !bytes.Equal(buf[:n], want[:n]) {
			return errWrongEcho
		}
		want = want[n:]
		if err == io.EOF {
			if len(want) > 0 {
				return errTruncated
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var errTruncated = errors.New("answer ended early, as if it were complete")

// errorKind names the kind of a failure, so that failures can be counted.
func errorKind(err error) string {
	if refused, ok := errors.AsType[*fault.Refused](err); ok {
		if refused.Code != "" {
			return fmt.Sprintf("status %d %s", refused.Status, string(refused.Code))
		}
		return fmt.Sprintf("status %d", refused.Status)
	}
	if t, ok := errors.AsType[net.Error](err); errors.Is(err, context.DeadlineExceeded) || ok && t.Timeout() {
		return "timeout"
	}
	for _, known := range []struct {
		target error
		kind   string
	}{
		{errWrongEcho, errWrongEcho.Error()},
		{errTruncated, errTruncated.Error()},
		{io.ErrUnexpectedEOF, "connection closed in the answer"},
		{io.EOF, "connection closed before the answer"},
		{syscall.ECONNREFUSED, "connection refused"},
		{syscall.ECONNRESET, "connection reset"},
		{syscall.EPIPE, "connection reset"},
		{os.ErrDeadlineExceeded, "timeout"},
	} {
		if errors.Is(err, known.target) {
			return known.kind
		}
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return "cannot " + op.Op
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err.Error()
	}
	return err.Error()
}

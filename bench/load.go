package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"piko/fault"
)

// Load is what is sent and for how long.
type Load struct {
	// Clients is how many exchanges are under way at once.
	Clients int
	// Requests is how many exchanges there are in all; 0 is until Duration is over.
	Requests int64
	// Duration, if Requests is 0, is how long exchanges are started.
	Duration time.Duration
	// Warmup is how long exchanges are made before, that count for nothing.
	Warmup time.Duration
	// Rate is how many exchanges are started a second; 0 starts each when the one
	// before has ended.
	Rate float64
	// Timeout bounds one exchange.
	Timeout time.Duration
}

// Client is what one of a load's clients does, one exchange after the other. It
// belongs to one goroutine.
type Client interface {
	// Exchange does one, and returns an error unless the whole answer came and was
	// what it must be.
	Exchange(ctx context.Context) error
	// Close lets go of connections.
	Close()
}

// Target is something to be measured.
type Target struct {
	// Name is what the report calls it.
	Name string
	// Client makes one of the clients.
	Client func() Client
	// Processes are those whose spending is reported.
	Processes []Process
}

// run is one measurement under way.
type run struct {
	// Static after construction.
	load   Load
	target Target
	begin  time.Time

	// Safe for concurrent use.
	next atomic.Int64 // the next exchange's number
	hist histogram    // of the exchanges that are done

	// Guarded by mu.
	mu       sync.Mutex
	failures map[string]int64
	failed   int64
}

// Run sends the load and returns what became of it. The exchanges that were in
// flight when ctx ended count as neither done nor failed. While it runs progress,
// unless nil, is called twice a second by one goroutine.
func (l Load) Run(ctx context.Context, target Target, progress func(Progress)) (*Result, error) {
	clients := make([]Client, l.Clients)
	for i := range clients {
		clients[i] = target.Client()
	}
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	if l.Warmup > 0 {
		warm := Load{Clients: l.Clients, Duration: l.Warmup, Rate: l.Rate, Timeout: l.Timeout}
		warm.start(ctx, target, clients, nil)
	}
	before, err := usageOf(target.Processes)
	if err != nil {
		return nil, err
	}
	r, took := l.start(ctx, target, clients, progress)
	after, err := usageOf(target.Processes)
	if err != nil {
		return nil, err
	}
	return r.result(took, spent(before, after)), nil
}

func (l Load) start(ctx context.Context, target Target, clients []Client, progress func(Progress)) (*run, time.Duration) {
	r := &run{load: l, target: target, begin: time.Now(), failures: make(map[string]int64)}
	var reporting sync.WaitGroup
	over := make(chan struct{})
	if progress != nil {
		reporting.Go(func() { r.report(progress, over) })
	}
	var workers sync.WaitGroup
	for _, c := range clients {
		workers.Go(func() { r.work(ctx, c) })
	}
	workers.Wait()
	took := time.Since(r.begin)
	close(over)
	reporting.Wait()
	return r, took
}

// work makes one exchange after the other.
func (r *run) work(ctx context.Context, c Client) {
	for {
		start, ok := r.take(ctx)
		if !ok {
			return
		}
		err := r.exchange(ctx, c)
		switch {
		case err == nil:
			r.hist.add(time.Since(start))
		case ctx.Err() != nil:
			return
		default:
			r.fail(err)
		}
	}
}

func (r *run) exchange(ctx context.Context, c Client) error {
	ctx, cancel := context.WithTimeout(ctx, r.load.Timeout)
	defer cancel()
	return c.Exchange(ctx)
}

// take waits until the next exchange is due and returns when it was meant to
// start; false when there is none left. In an open loop one that finds every
// client busy starts late, and that delay is part of its latency.
func (r *run) take(ctx context.Context) (time.Time, bool) {
	l := &r.load
	i := r.next.Add(1) - 1
	if ctx.Err() != nil || l.Requests > 0 && i >= l.Requests {
		return time.Time{}, false
	}
	start := time.Now()
	if l.Rate > 0 {
		start = r.begin.Add(time.Duration(float64(i) / l.Rate * float64(time.Second)))
	}
	if l.Requests == 0 && start.Sub(r.begin) >= l.Duration {
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
func (r *run) fail(err error) {
	kind := errorKind(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.failures) >= maxKinds && r.failures[kind] == 0 {
		kind = "other"
	}
	r.failures[kind]++
	r.failed++
}

// maxKinds bounds the kinds of failures: an error's text may have anything in it.
const maxKinds = 32

// Answers that are wrong. An end that comes too early is an error of its own,
// since a truncated answer is what no tunnel may ever pass off as whole.
var (
	errWrongEcho = errors.New("answer differs from the request")
	errTruncated = errors.New("answer ended early, as if it were complete")
)

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

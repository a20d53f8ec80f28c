package relay

import (
	"context"
	"net"
	"sync"
	"time"
)

// Defaults and bounds of a Pool.
const (
	defaultIdleTimeout    = 90 * time.Second
	defaultResponseHeader = 256 << 10
	minAutoIdle           = 64
	maxAutoIdle           = 4096
	// peakWindow is how long a peak of connections in use counts, at least; it counts for up to twice that.
	peakWindow = 30 * time.Second
)

// Pool keeps idle HTTP/1.1 connections to one destination and makes exchanges over them in the caller's goroutine. The
// zero value with Dial works. It is safe for concurrent use.
type Pool struct {
	// Static after the first use.

	// Dial opens a connection. What it fails with is NeverExecuted. Connections that have a method `Reset()` are
	// aborted with it, others are closed; one that has `Quiet() bool` is asked before it is used again.
	Dial func(ctx context.Context) (net.Conn, error)
	// MaxIdle bounds the idle connections. 0 is as many as were in use at once lately, at least 64 and at most 4096:
	// too few means a dial for most requests (v0.9.0 dialled for 8 of 10 with 64 clients), too many cost memory.
	MaxIdle int
	// IdleTimeout closes connections that were idle for so long. 0 is 90 s, less than 0 never. It should be shorter
	// than the other side's own.
	IdleTimeout time.Duration
	// MaxResponseHeader bounds the header of a response in bytes; 0 is 256 KiB.
	MaxResponseHeader int
	// Fresh, if set, says by their method which requests need a connection that carried no other request before.
	Fresh func(method string) bool
	// RetryStale sends an idempotent request without a body once more, over a new connection, when a reused one ended
	// before a byte of the response: for services that close idle connections at a time of their own.
	RetryStale bool

	// Guarded by mu.
	mu       sync.Mutex
	idle     []*conn // the one that was idle longest comes first
	closed   bool
	expiry   *time.Timer // nil unless armed
	busy     int
	peak     int // of busy, in this window
	lastPeak int // in the window before
	window   time.Time
}

// take returns a connection that is fit for use, and whether it carried a request before.
func (p *Pool) take(ctx context.Context, fresh bool) (*conn, error) {
	if !fresh {
		if c := p.reuse(); c != nil {
			return c, nil
		}
	}
	return p.open(ctx)
}

// reuse returns an idle connection that is fit for use; nil if there is none.
func (p *Pool) reuse() *conn {
	for {
		c := p.takeIdle()
		if c == nil {
			return nil
		}
		if c.fit() {
			c.reused = true
			return c
		}
		p.discard(c)
	}
}

// open returns a new connection.
func (p *Pool) open(ctx context.Context) (*conn, error) {
	if err := p.begin(); err != nil {
		return nil, err
	}
	nc, err := p.Dial(ctx)
	if err != nil {
		p.end()
		return nil, err
	}
	return newConn(p, nc), nil
}

// takeIdle takes the connection that was used last, so that those beyond the need grow old.
func (p *Pool) takeIdle() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	p.countBusy()
	return c
}

// begin counts a connection in use.
func (p *Pool) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrPoolClosed
	}
	p.countBusy()
	return nil
}

// countBusy wants mu.
func (p *Pool) countBusy() {
	p.busy++
	p.peak = max(p.peak, p.busy)
}

func (p *Pool) end() {
	p.mu.Lock()
	p.busy--
	p.mu.Unlock()
}

// discard closes a connection that was in use.
func (p *Pool) discard(c *conn) {
	p.end()
	c.close()
}

// put takes back a connection whose exchange was whole.
func (p *Pool) put(c *conn) {
	now := time.Now()
	c.idleSince = now
	p.mu.Lock()
	p.busy--
	if now.Sub(p.window) >= peakWindow {
		p.window, p.lastPeak, p.peak = now, p.peak, p.busy+1
	}
	keep := !p.closed && len(p.idle) < p.maxIdle()
	if keep {
		p.idle = append(p.idle, c)
		p.arm(c)
	}
	p.mu.Unlock()
	if !keep {
		c.close()
	}
}

// maxIdle wants mu.
func (p *Pool) maxIdle() int {
	if p.MaxIdle != 0 {
		return p.MaxIdle
	}
	return min(max(p.peak, p.lastPeak, minAutoIdle), maxAutoIdle)
}

func (p *Pool) idleTimeout() time.Duration {
	if p.IdleTimeout == 0 {
		return defaultIdleTimeout
	}
	return p.IdleTimeout
}

func (p *Pool) maxResponseHeader() int {
	if p.MaxResponseHeader == 0 {
		return defaultResponseHeader
	}
	return p.MaxResponseHeader
}

// arm starts the one timer of the pool for the connection that expires first. It wants mu.
func (p *Pool) arm(oldest *conn) {
	d := p.idleTimeout()
	if p.expiry != nil || d < 0 {
		return
	}
	p.expiry = time.AfterFunc(time.Until(oldest.idleSince.Add(d)), p.expire)
}

// expire closes what was idle for too long.
func (p *Pool) expire() {
	limit := time.Now().Add(-p.idleTimeout())
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && !p.idle[n].idleSince.After(limit) {
		n++
	}
	old := append([]*conn(nil), p.idle[:n]...)
	p.idle = append(p.idle[:0:0], p.idle[n:]...)
	p.expiry = nil
	if len(p.idle) > 0 {
		p.arm(p.idle[0])
	}
	p.mu.Unlock()
	closeAll(old)
}

// CloseIdle closes the connections that no exchange uses now. Later exchanges open new ones.
func (p *Pool) CloseIdle() {
	p.mu.Lock()
	closeAll(p.takeAll())
}

// Conns returns how many connections carry an exchange now and how many are kept for the next.
func (p *Pool) Conns() (busy, idle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy, len(p.idle)
}

// Close closes the idle connections, now and for good: exchanges under way go on to their end, new ones fail with
// ErrPoolClosed. It waits for nothing.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	closeAll(p.takeAll())
}

// takeAll empties the pool. It wants mu and gives it back.
func (p *Pool) takeAll() []*conn {
	defer p.mu.Unlock()
	idle := p.idle
	p.idle = nil
	if p.expiry != nil {
		p.expiry.Stop()
		p.expiry = nil
	}
	return idle
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		c.close()
	}
}

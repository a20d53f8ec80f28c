//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rate is how many GETs and POSTs a second a run sends; each kind of stream has so many
// beside them.
const (
	rate           = 200
	streamsPerKind = 4
	maxInFlight    = 2000
)

// traffic is the load of a chaos run: GETs and POSTs that begin at a steady rate whatever
// became of those before, on connections that are kept, and streams of three kinds, one
// after the other. Each request is planned from the seed and its number alone.
type traffic struct {
	// Static after construction.
	seed      uint64
	endpoints []string
	streams   time.Duration // the longest; the shortest is half as long
	dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	stop      chan struct{} // closed by end
	wg        sync.WaitGroup
	room      chan struct{} // one for each GET and POST in flight

	entry atomic.Pointer[string] // where requests go in, host:port

	// Guarded by mu.
	mu       sync.Mutex
	issued   int
	well     int // how many ended well
	records  []record
	inFlight map[string]int // GETs and POSTs, by entry
	idle     []*plainClient
}

// plan is what one request is to be.
type plan struct {
	id       string
	kind     kind
	endpoint string
	body     int // bytes of the request
	chunked  bool
	size     int // bytes of the answer
	takes    time.Duration
}

// startTraffic starts the load; streams take up to the given time each, and 0 is none.
func startTraffic(seed uint64, entry string, endpoints []string, streams time.Duration, dial func(context.Context, string, string) (net.Conn, error)) *traffic {
	l := &traffic{
		seed: seed, endpoints: endpoints, streams: streams, dial: dial,
		stop: make(chan struct{}), room: make(chan struct{}, maxInFlight), inFlight: map[string]int{},
	}
	l.entry.Store(&entry)
	l.wg.Go(l.dispatch)
	for _, k := range streamKinds {
		for i := range streamsPerKind {
			if streams == 0 {
				break
			}
			l.wg.Go(func() {
				for n := 0; !l.stopped(); n++ {
					l.stream(l.planStream(k, i, n))
				}
			})
		}
	}
	return l
}

func (l *traffic) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// dispatch begins the GETs and POSTs, each at its time.
func (l *traffic) dispatch() {
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	began := time.Now()
	for n := 0; ; {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		// A ticker drops ticks when the machine is busy; the rate holds all the same.
		for due := int(time.Since(began).Seconds() * rate); n < due && !l.stopped(); n++ {
			l.room <- struct{}{}
			p := l.planPlain(n)
			l.wg.Go(func() {
				defer func() { <-l.room }()
				l.plain(p)
			})
		}
	}
}

func (l *traffic) random(sort, n int) *rand.Rand {
	return rand.New(rand.NewPCG(l.seed, uint64(sort)<<32|uint64(n)))
}

func (l *traffic) planPlain(n int) plan {
	r := l.random(0, n)
	sizes := []int{0, 1, 13, 500, 4 << 10, 20 << 10, 100<<10 + 1}
	p := plan{kind: kindGet, endpoint: l.endpoints[r.IntN(len(l.endpoints))], size: sizes[r.IntN(len(sizes))]}
	if r.IntN(2) == 0 {
		p.kind, p.chunked = kindPost, r.IntN(4) == 0
		p.body = []int{0, 13, 4 << 10, 60 << 10, 100 << 10}[r.IntN(5)]
	}
	switch r.IntN(20) {
	case 0:
		p.takes = 300 * time.Millisecond
	case 1, 2, 3, 4, 5:
		p.takes = time.Duration(r.IntN(30)) * time.Millisecond
	}
	p.id = fmt.Sprintf("%s-%d", p.kind, n)
	return p
}

func (l *traffic) planStream(k kind, i, n int) plan {
	r := l.random(1+i+len(k)<<8, n)
	return plan{
		id: fmt.Sprintf("%s-%d-%d", k, i, n), kind: k, endpoint: l.endpoints[r.IntN(len(l.endpoints))],
		size: 1<<20 + r.IntN(1<<20), takes: l.streams/2 + rand.N(l.streams/2),
	}
}

// begin notes that a request has begun.
func (l *traffic) begin(p plan) record {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.issued++
	return record{ID: p.id, Kind: p.kind, Endpoint: p.endpoint, Entry: *l.entry.Load(), Start: time.Now()}
}

// done notes how it ended.
func (l *traffic) done(r record) {
	r.End = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
	if r.Failure == "" {
		l.well++
	}
}

// failed tells it apart from one that went well, and says why.
func (r *record) failed(f failure, format string, args ...any) {
	r.Failure, r.Detail = f, fmt.Sprintf(format, args...)
}

// plain makes one GET or POST on a connection that is kept for the next one.
func (l *traffic) plain(p plan) {
	r := l.begin(p)
	c := l.takeClient(r.Entry)
	c.do(p, &r)
	l.giveBack(c, r.Failure != "")
	l.done(r)
}

// takeClient returns a client of this entry, with a connection if there is one that is idle.
func (l *traffic) takeClient(entry string) *plainClient {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight[entry]++
	for len(l.idle) > 0 {
		c := l.idle[len(l.idle)-1]
		l.idle = l.idle[:len(l.idle)-1]
		if c.addr == entry {
			return c
		}
		c.close()
	}
	return &plainClient{addr: entry, dial: l.dial}
}

func (l *traffic) giveBack(c *plainClient, broken bool) {
	if broken {
		c.close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight[c.addr]--
	l.idle = append(l.idle, c)
}

// enter has all requests from now on go in elsewhere, and waits until none of the GETs and
// POSTs that went in before is left.
func (l *traffic) enter(t testing.TB, entry string) {
	t.Helper()
	before := *l.entry.Swap(&entry)
	if before == entry {
		return
	}
	eventually(t, 30*time.Second, "the requests through "+before+" have ended", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if n := l.inFlight[before]; n > 0 {
			return fmt.Errorf("%d are in flight", n)
		}
		return nil
	})
}

// succeeded returns how many requests have ended well.
func (l *traffic) succeeded() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.well
}

// end stops the load, waits for what is under way, and closes all connections.
func (l *traffic) end() {
	close(l.stop)
	l.wg.Wait()
	for _, c := range l.idle {
		c.close()
	}
}

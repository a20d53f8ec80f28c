// Package inspect shows a developer the requests that an agent forwards: it
// keeps the latest of them in memory, within a bound of bytes, and serves a page
// with what they and their answers were, from which each can be sent again.
//
// The way of a request: Wrap stands between the agent's listener and what
// forwards to the service. It hands every byte on as it came and keeps a copy of
// those that fit: nothing is ever waited for, changed or held back. Bodies and
// the messages of WebSockets, gRPC and server-sent events are taken apart while
// they pass (frames.go), kept in a store (store.go), and shown without the
// secrets that are known as such (redact.go). A replay is a request that nobody
// sent: it goes the same way through the same handler (replay.go).
//
// The package imports nothing of ours. It opens no port: main does, and serves
// Handler there.
package inspect

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// The defaults of Config.
const (
	DefaultMaxBytes = 64 << 20
	DefaultMaxBody  = 1 << 20
)

// Config are the settings of an Inspector. The zero value works.
type Config struct {
	// MaxBytes bounds the memory of all that is kept, in bytes: beyond it the
	// oldest request is forgotten. 0 means DefaultMaxBytes.
	MaxBytes int
	// MaxBody bounds what is kept of each body, and of all messages of one
	// exchange together, in bytes. 0 means DefaultMaxBody.
	MaxBody int
	// ShowSecrets shows credentials as they are. They are in memory in any case,
	// since a replay has to send them.
	ShowSecrets bool
	// Hosts are names and addresses that the page may be asked for by, besides
	// those of this machine; any other Host is refused, as it is that of a site
	// whose name leads here (DNS rebinding).
	Hosts []string
	// AnyAddress lets the page be asked for by any IP address: for a port that
	// is open on all of them. A site cannot be behind an address in place of a
	// name.
	AnyAddress bool
}

// Inspector keeps exchanges and shows them. Make one with New. All methods are
// safe for concurrent use.
type Inspector struct {
	// Static after construction.
	cfg   Config
	store *store

	viewers chan struct{} // one for each live view
	replays chan struct{} // one for each replay under way

	// The end of all replays.
	base    context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	// Guarded by mu.
	mu     sync.Mutex
	closed bool
	next   map[route]http.Handler // what has got the latest request
}

// route is what a replay finds its way by.
type route struct{ endpoint, service string }

// New returns an inspector that has seen nothing. Close must be called.
func New(cfg Config) *Inspector {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	i := &Inspector{
		cfg: cfg, store: newStore(cfg.MaxBytes, cfg.MaxBody),
		viewers: make(chan struct{}, maxViewers), replays: make(chan struct{}, maxReplays),
		next: make(map[route]http.Handler),
	}
	i.base, i.cancel = context.WithCancel(context.Background())
	return i
}

// Close ends the replays and live views that are under way, and waits for the replays.
func (i *Inspector) Close() {
	i.mu.Lock()
	i.closed = true
	i.mu.Unlock()
	i.cancel()
	i.running.Wait()
}

// Wrap returns a handler that hands requests for the endpoint to next, which
// forwards them to the service, and keeps what passes.
func (i *Inspector) Wrap(endpoint, service string, next http.Handler) http.Handler {
	to := route{endpoint, service}
	i.mu.Lock()
	if i.next[to] == nil {
		i.next[to] = next
	}
	i.mu.Unlock()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		i.next[to] = next // after a reload another listener may be, and may not: not all that are made run
		i.mu.Unlock()
		x := i.begin(to, r)
		i.store.add(x)
		i.forward(x, w, r, next)
	})
}

// begin notes a request.
func (i *Inspector) begin(to route, r *http.Request) *exchange {
	target := r.RequestURI
	if target == "" {
		target = r.URL.RequestURI()
	}
	x := &exchange{
		to: to, start: time.Now(),
		method: r.Method, target: target, host: r.Host, proto: r.Proto,
		header: r.Header.Clone(), client: r.Header.Get("X-Forwarded-For"), length: r.ContentLength,
	}
	x.shownTarget = x.target
	if !i.cfg.ShowSecrets {
		x.shownTarget = redactText(x.target)
	}
	return x
}

// forward hands the request on and keeps what passes. It panics as next does.
func (i *Inspector) forward(x *exchange, w http.ResponseWriter, r *http.Request, next http.Handler) {
	rec := &recorder{ResponseWriter: w, s: i.store, x: x}
	defer rec.end()
	next.ServeHTTP(rec, rec.request(r))
	rec.whole = true
}

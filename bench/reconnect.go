package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"text/tabwriter"
	"time"

	"piko/client"
)

// Reconnect is a storm: many listeners lose their tunnels at once, and come back.
type Reconnect struct {
	Client    *client.Client // with a ConnectTimeout; its URL, and no other, is set; its TLS config is for the URL's host
	Listeners int
	// Outage is how long nobody can connect after the tunnels were cut.
	Outage time.Duration
	// Restart says that somebody else cuts the tunnels, by starting the server
	// anew: the listeners are connected to it directly, and Outage is not used.
	Restart bool
	// Await is called when all are connected and the tunnels may be cut; it may
	// be nil.
	Await func()
	// Timeout bounds the time until all are back.
	Timeout   time.Duration
	Processes []Process
	Logger    *slog.Logger
}

// ReconnectResult is what became of it.
type ReconnectResult struct {
	Listeners int     `json:"listeners"`
	Outage    float64 `json:"outage_seconds"`
	Back      uint64  `json:"back"`
	// Latency is how long a listener was without a tunnel, outage included.
	Latency   Latency `json:"latency_ms"`
	Processes []Spent `json:"processes,omitempty"`
}

// Run connects the listeners through a relay of its own, cuts every connection,
// and waits until all are connected again.
func (b Reconnect) Run(ctx context.Context) (*ReconnectResult, error) {
	states := newWatch()
	c := *b.Client
	c.Connections, c.OnState = 1, states.set
	cut, mend := func() {}, func() {}
	if !b.Restart {
		relay, u, err := startRelay(b.Client.URL)
		if err != nil {
			return nil, err
		}
		defer relay.stop()
		if u.Scheme == "https" || u.Scheme == "wss" {
			c.TLS = named(c.TLS, u.Hostname())
		}
		u.Host = relay.ln.Addr().String()
		c.URL = u.String()
		cut, mend = func() { relay.cut(true) }, func() { relay.cut(false) }
	}
	services := NewServices(KindTCP, b.Logger)
	defer services.Stop()
	if err := b.connect(ctx, services, &c); err != nil {
		return nil, err
	}
	before, err := usageOf(b.Processes)
	if err != nil {
		return nil, err
	}
	var hist histogram
	whole := states.after(b.Listeners, hist.add)
	if b.Await != nil {
		b.Await()
	}
	cut()
	limit, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	if sleepUntil(limit, time.Now().Add(b.Outage)) {
		mend()
		select {
		case <-whole:
		case <-limit.Done():
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	after, err := usageOf(b.Processes)
	if err != nil {
		return nil, err
	}
	return &ReconnectResult{
		Listeners: b.Listeners, Outage: b.Outage.Seconds(), Back: hist.count(), Latency: latencyOf(&hist), Processes: spent(before, after),
	}, nil
}

// connect opens the tunnels that are to be cut, all in the time that the client has to connect.
func (b Reconnect) connect(ctx context.Context, services *Services, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, b.Client.ConnectTimeout)
	defer cancel()
	return services.Upstreams(ctx, c, b.Listeners, endpointName)
}

// Write prints r for a person.
func (r *ReconnectResult) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Listeners\t%d lost their tunnels, for %.1f s at least; %d are back\n", r.Listeners, r.Outage, r.Back)
	fmt.Fprintf(t, "Back after\t%v\n", r.Latency)
	writeProcesses(t, r.Processes)
	return t.Flush()
}

// cutter passes connections on to one address, until it is told to cut them.
type cutter struct {
	// Static after construction.
	ln      net.Listener
	to      string
	running sync.WaitGroup

	// Guarded by mu.
	mu    sync.Mutex
	off   bool
	conns map[net.Conn]struct{}
}

// startRelay returns a relay to a URL's host, and the URL.
func startRelay(serverURL string) (*cutter, *url.URL, error) {
	u, err := url.Parse(serverURL)
	if err != nil {
		return nil, nil, err
	}
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https", u.Scheme == "wss":
		port = "443"
	default:
		port = "80"
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	r := &cutter{ln: ln, to: net.JoinHostPort(u.Hostname(), port), conns: make(map[net.Conn]struct{})}
	r.running.Go(r.accept)
	return r, u, nil
}

// named is config for a server that is reached at another address than by its
// name.
func named(config *tls.Config, host string) *tls.Config {
	if config == nil {
		config = &tls.Config{}
	}
	if config = config.Clone(); config.ServerName == "" {
		config.ServerName = host
	}
	return config
}

func (r *cutter) accept() {
	for {
		in, err := r.ln.Accept()
		if err != nil {
			return
		}
		if r.join(in) {
			r.running.Go(func() { r.pass(in) })
		}
	}
}

// join notes a connection, so that it can be cut; one that comes while all are
// cut is closed.
func (r *cutter) join(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.off {
		c.Close()
		return false
	}
	r.conns[c] = struct{}{}
	return true
}

func (r *cutter) leave(c net.Conn) {
	c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

func (r *cutter) pass(in net.Conn) {
	defer r.leave(in)
	out, err := net.DialTimeout("tcp", r.to, 10*time.Second)
	if err != nil || !r.join(out) {
		return
	}
	defer r.leave(out)
	var up sync.WaitGroup
	up.Go(func() {
		passBytes(out, in)
		out.Close()
	})
	passBytes(in, out)
	in.Close()
	up.Wait()
}

// passBytes copies in this process: splice would take two pipes for each connection.
func passBytes(to, from net.Conn) {
	io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 4<<10))
}

// cut closes every connection and lets in none, or lets them in again.
func (r *cutter) cut(off bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.off = off
	if off {
		for c := range r.conns {
			c.Close()
		}
	}
}

func (r *cutter) stop() {
	r.ln.Close()
	r.cut(true)
	r.running.Wait()
}

package relay

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// dialBound ends a dial that does not end itself.
	dialBound = 30 * time.Second
	// settingsWait is how long the other side of a new connection may take to say its settings, with which it must begin.
	settingsWait = 10 * time.Second

	// A stream's window, and that of a connection: what a reader that has stopped may keep in memory, and how many of
	// them hold up all others.
	streamWindow = 512 << 10
	connWindow   = growAt * streamWindow
	frameSize    = 64 << 10

	defaultPingInterval = 5*time.Minute + 10*time.Second
	pingTimeout         = 15 * time.Second
	writeStall          = 30 * time.Second
)

// errNoRoom is why a new connection is of no use: its settings allow no streams, or came together with a GOAWAY. Another
// one would most likely be the same, so nobody goes on opening them.
var errNoRoom = errors.New("service takes no requests")

// http2Conn is a connection of an HTTP2Pool.
type http2Conn struct {
	// Static after construction.
	pool  *HTTP2Pool
	cc    *http.ClientConn
	nc    net.Conn // as Dial gave it
	wire  *http2Wire
	limit int // of streams, when the connection was new

	used    atomic.Bool // an exchange was made
	retired atomic.Bool // not for new exchanges
}

// http2Dial is a connection that is being opened.
type http2Dial struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

// ended is a channel that is closed when the dial is over, and nil if there is none.
func (d *http2Dial) ended() <-chan struct{} {
	if d == nil {
		return nil
	}
	return d.done
}

// startDial opens a connection in a goroutine, which outlives the request that wanted it first: others wait for the
// connection as well. It wants p.mu.
func (p *HTTP2Pool) startDial(ctx context.Context) *http2Dial {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialBound)
	d := &http2Dial{cancel: cancel, done: make(chan struct{})}
	go p.dial(ctx, d)
	return d
}

func (p *HTTP2Pool) dial(ctx context.Context, d *http2Dial) {
	defer d.cancel()
	c, err := p.open(ctx)
	p.adopt(d, c, err)
}

// open makes a connection and waits for its settings.
func (p *HTTP2Pool) open(ctx context.Context) (*http2Conn, error) {
	nc, err := p.Dial(ctx)
	if err != nil {
		return nil, err
	}
	wire := newHTTP2Wire(nc)
	cc, err := p.client().NewClientConn(context.WithValue(ctx, dialedKey{}, net.Conn(wire)), "http", "service:80")
	if err != nil {
		_ = wire.Close()
		return nil, err
	}
	patience := time.NewTimer(settingsWait)
	defer patience.Stop()
	select {
	case <-wire.known:
		err = wire.err
	case <-patience.C:
		err = ErrNotHTTP2
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	limit := cc.Available()
	if err == nil && limit == 0 {
		err = errNoRoom
	}
	if err != nil {
		_ = cc.Close()
		return nil, err
	}
	return &http2Conn{pool: p, cc: cc, nc: nc, wire: wire, limit: limit}, nil
}

// dialedKey is what a dial's context holds the connection under that the transport is to take.
type dialedKey struct{}

// client is the transport that makes HTTP/2 of connections. It keeps none and dials none.
func (p *HTTP2Pool) client() *http.Transport {
	p.once.Do(func() {
		t := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				nc, ok := ctx.Value(dialedKey{}).(net.Conn)
				if !ok {
					return nil, errors.ErrUnsupported
				}
				return nc, nil
			},
			Protocols:              new(http.Protocols),
			DisableCompression:     true,
			ExpectContinueTimeout:  continueWait,
			IdleConnTimeout:        max(orDefault(p.IdleTimeout, defaultIdleTimeout), 0),
			MaxResponseHeaderBytes: int64(orDefault(p.MaxResponseHeader, defaultResponseHeader)),
			HTTP2: &http.HTTP2Config{
				MaxReceiveBufferPerConnection: connWindow,
				MaxReceiveBufferPerStream:     streamWindow,
				MaxReadFrameSize:              frameSize,
				SendPingTimeout:               max(orDefault(p.PingInterval, defaultPingInterval), 0),
				PingTimeout:                   pingTimeout,
				WriteByteTimeout:              writeStall,
			},
		}
		t.Protocols.SetUnencryptedHTTP2(true) // whatever is below: TLS is Dial's business
		p.transport = t
	})
	return p.transport
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// useless reports whether a connection without room will never have any: it has ended, or the other side says that it
// goes. Nothing tells that from one that is full, but for how much it once could carry.
func (c *http2Conn) useless(busy int) bool {
	return busy == 0 || 2*busy < c.limit || c.cc.Err() != nil
}

// changed is called when an exchange has ended, or the connection has.
func (c *http2Conn) changed(cc *http.ClientConn) {
	p := c.pool
	switch {
	case cc.Err() != nil:
		p.remove(c)
	case c.retired.Load() && cc.InFlight() == 0:
		_ = cc.Close()
	}
	if p.waiting.Load() > 0 {
		p.mu.Lock()
		p.wake()
		p.mu.Unlock()
	}
}

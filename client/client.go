// Package client is the Go SDK of piko: it makes a program an upstream, and
// connects programs to endpoints.
//
//	ln, err := (&client.Client{URL: "https://piko.example.com"}).Listen(ctx, "my-endpoint")
//	if err != nil { ... }
//	http.Serve(ln, handler)
//
// Listen opens tunnels to a piko server and returns a net.Listener: what the
// server forwards to the endpoint arrives as connections. If the server is a
// cluster, the listener keeps tunnels to several of its nodes, so that one may
// be lost. The listener outlives its tunnels. When one is lost it connects
// again, with growing pauses, for as long as it takes; when a node asks it to
// move, it opens the new tunnel before it leaves the old one, so that no request
// is lost.
//
// Dial is the other side, for what is no HTTP: a connection to what listens on a
// TCP endpoint. HTTP clients need no SDK: they send their requests to the proxy
// port and name the endpoint in Host or x-piko-endpoint.
//
// The package knows nothing of HTTP requests and of no server code.
package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"piko/tunnel"
)

// Client says how to reach a piko server. The zero value connects to a server
// on this machine. It is not changed by its methods, which are safe for
// concurrent use.
type Client struct {
	// URL is a port of the server, or of a load balancer before it, with the
	// scheme http, https, ws or wss; a path is put before that of the server.
	// Listen wants the upstream port, "" means http://localhost:8001; Dial wants
	// the proxy port, "" means http://localhost:8000. So a program that does
	// both has two Clients, unless one name leads to both ports.
	URL string
	// URLs are more of them: of other nodes, or of other clusters, as during a
	// move from one to the other. A listener that may have as many tunnels as
	// there are URLs has one by each, but for those that lead to the same node.
	// Dial tries one after the other.
	URLs []string
	// Connections is how many tunnels a listener keeps, each to another node;
	// 0 means 2. There are never more than nodes. A v0.9.0 server does not say
	// which node it is: then there is one for each URL.
	Connections int
	// ProxyURL is an HTTP or SOCKS5 proxy on the way; "" means what the
	// environment says (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).
	ProxyURL string
	// Token is asked for a bearer token before each attempt to connect; nil
	// means none. A server ends a tunnel when its token expires. So a listener
	// asks again when 70 to 80 % of a token's life are over, which it reads from
	// the claim exp if it is a JWT, and gives the answer to all of its servers;
	// tunnels at servers that take no fresh token (v0.9.0) end and are opened
	// anew. It is called by several goroutines.
	Token func(ctx context.Context) (string, error)
	// TokenMayChange says that a token which was refused may be followed by a
	// better one, as from a file: then Listen and Dial do not give up on a
	// refusal.
	TokenMayChange bool
	// TokenPoll is how often Token is asked while tunnels are open, for a token
	// that changes when it likes, as that of a file: one that has been returned
	// twice in a row, since it may be half written the first time, is given to
	// the servers. 0 means that Token is asked only when the life of a token
	// demands it.
	TokenPoll time.Duration
	// TenantID names the tenant, for servers that have several.
	TenantID string
	// TLS is for https and wss URLs; nil means the defaults. It is cloned for
	// each connection. TLS.ServerName is the name that the server's certificate
	// has to be for, in place of the URL's host.
	TLS *tls.Config
	// GetTLS, if not nil, is asked for each connection in place of TLS, by any
	// goroutine: for certificates and authorities that change while the program
	// runs. What it returns is cloned and may be nil.
	GetTLS func() *tls.Config
	// Protocol says what a listener's program speaks, "http" or "tcp"; "" means
	// http.
	Protocol string
	// HTTP2 says that a listener's program serves HTTP/2 with prior knowledge on
	// the connections, as grpc.Server does, and an http.Server whose Protocols
	// have UnencryptedHTTP2. Then gRPC calls, and requests that stream both ways,
	// come as HTTP/2, several over one connection. All others come as HTTP/1.1; if
	// the program does not speak that, as grpc.Server does not, they are HTTP/2 as
	// well. Which it is each tunnel asks once, with OPTIONS *. A v0.9.0 server sends
	// everything as HTTP/1.1.
	HTTP2 bool
	// StreamWindow is how many bytes of a connection the server may send
	// ahead of what was read: 256 KiB to 16 MiB, 0 means 512 KiB.
	StreamWindow int
	// ConnectTimeout bounds one attempt to connect; 0 means 10 s.
	ConnectTimeout time.Duration
	// Logger gets what happens to the tunnels; nil discards.
	Logger *slog.Logger
	// OnState is called when one of a listener's tunnels was opened, lost or
	// left, or could not be opened, and when the listener begins and ends to
	// close: by one goroutine of a listener at a time, which waits for it. It
	// must not call the listener's Close or Shutdown.
	OnState func(State)
	// Metrics counts what happens; nil counts nothing, and costs nothing.
	Metrics *Metrics
}

// Phase says in a word how a listener is doing.
type Phase string

// The phases of a listener, in their order; a listener may be connected and
// reconnecting by turns.
const (
	PhaseConnecting   Phase = "connecting"   // it was never connected
	PhaseConnected    Phase = "connected"    // a tunnel serves the endpoint
	PhaseReconnecting Phase = "reconnecting" // every tunnel is lost
	PhaseDraining     Phase = "draining"     // it was closed, and some connections have not ended
	PhaseClosed       Phase = "closed"       // nothing of it is left
)

// State is what OnState is told.
type State struct {
	Endpoint string
	Phase    Phase
	// Connected says whether the endpoint is served by any tunnel now.
	Connected bool
	// Tunnels is how many tunnels the listener has now, without those that are
	// being left.
	Tunnels int
	// NodeID is the node that the tunnel is or was connected to; "" if none,
	// or if it is of v0.9.0.
	NodeID string
	// Err is why a tunnel was lost or not opened; nil when one was opened. It
	// is ErrLeft if all is well, and there is one tunnel less or none any more,
	// and net.ErrClosed with PhaseClosed.
	Err error
	// Retry is how long from now the next attempt is.
	Retry time.Duration
}

// ErrLeft is what State says of a tunnel that the listener has left: another one
// has taken its place, there are fewer nodes, or the listener was closed.
var ErrLeft = errors.New("tunnel is left")

const defaultURL = "http://localhost:8001"

// Listen connects to the server and serves the endpoint. Attempts are repeated
// until one succeeds or ctx ends; after that ctx has no effect. An attempt that
// cannot succeed later is final: 400, or 401 and 403 from a server of ours; the
// error is then a *fault.Refused. The caller closes the listener.
func (c *Client) Listen(ctx context.Context, endpoint string) (*Listener, error) {
	if _, err := tunnel.ParseEndpoint(endpoint); err != nil {
		return nil, fmt.Errorf("listen on endpoint %.64q: %w", endpoint, err)
	}
	l := newListener(ctx, c, endpoint)
	if err := l.start(ctx); err != nil {
		l.kill()
		return nil, fmt.Errorf("listen on endpoint %q: %w", endpoint, err)
	}
	return l, nil
}

// dialer returns what makes the tunnels of one listener, or a connection, but
// for the URL. Its instance tells the server which tunnels are of one listener.
func (c *Client) dialer() tunnel.Dialer {
	features := []string{tunnel.FeatureMeta}
	if c.HTTP2 {
		features = append(features, tunnel.FeatureH2)
	}
	if c.Token != nil {
		features = append(features, tunnel.FeatureToken)
	}
	return tunnel.Dialer{
		ProxyURL: c.ProxyURL,
		TLS:      c.TLS,
		GetTLS:   c.GetTLS,
		Token:    c.Token,
		TenantID: c.TenantID,
		Instance: rand.Text()[:16],
		Protocol: cmp.Or(c.Protocol, "http"),
		Features: features,
		Timeout:  c.ConnectTimeout,
		Options:  tunnel.Options{StreamWindow: c.StreamWindow},
	}
}

// urls are all URLs, each of them once.
func (c *Client) urls(otherwise string) []string {
	var list []string
	for _, u := range append([]string{c.URL}, c.URLs...) {
		if u != "" && !slices.Contains(list, u) {
			list = append(list, u)
		}
	}
	if len(list) == 0 {
		return []string{otherwise}
	}
	return list
}

func (c *Client) connections() int {
	if c.Connections <= 0 {
		return defaultConnections
	}
	return c.Connections
}

func (c *Client) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

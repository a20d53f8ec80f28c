package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"

	"piko/fault"
	"piko/router"
	"piko/tunnel"
)

var (
	errNoStream = errors.New("hop asks for no stream")
	errNotConn  = errors.New("node gave no connection")
)

// NewRemote returns what carries requests for one endpoint to another node: rt makes the exchanges, with the semantics
// of relay.Pool, over connections that only that node's Peer answers. It is a few words of memory and needs no closing.
// RoundTrip is rt's own: the fields that only nodes use are the caller's, Public, to set and to read. Any number of
// goroutines may use it.
func NewRemote(rt http.RoundTripper, endpoint string) router.Upstream {
	return &remote{RoundTripper: rt, endpoint: endpoint}
}

// remote is static after construction.
type remote struct {
	http.RoundTripper
	endpoint string
}

var streamURL = &url.URL{Scheme: "http", Host: "node", Opaque: pathStream}

// Open opens a raw stream to an upstream that the node has. ctx bounds the opening only. An error means that no service
// has seen anything: relay.NeverExecuted where the node itself said so.
func (r *remote) Open(ctx context.Context) (net.Conn, error) {
	held, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	req := (&http.Request{
		Method: http.MethodGet, URL: streamURL, Host: "node", Body: http.NoBody, Header: r.streamHeader(ctx),
	}).WithContext(held)
	res, err := r.RoundTrip(req)
	if err != nil {
		end(err)
		return nil, err
	}
	conn, ok := res.Body.(net.Conn)
	switch {
	case res.StatusCode == http.StatusMisdirectedRequest && res.Header[headerMiss] != nil:
		err = readMiss("of endpoint "+r.endpoint, res.Header)
	case res.StatusCode != http.StatusSwitchingProtocols || !ok:
		err = fault.New(fault.UpstreamUnreachable, errNotConn)
	case !stop():
		err = context.Cause(ctx)
	default:
		return &remoteStream{conn, end}, nil
	}
	_ = res.Body.Close()
	end(err)
	return nil, err
}

// streamHeader says to the owner what this node knows.
func (r *remote) streamHeader(ctx context.Context) http.Header {
	h := http.Header{"Connection": {"Upgrade"}, "Upgrade": {protocolStream}, headerRoute: {r.endpoint}}
	if client := tunnel.ClientAddr(ctx); client.IsValid() {
		h[headerClient] = []string{client.String()}
	}
	if n, ok := ctx.Value(attemptsKey{}).(int); ok {
		h[headerAttempts] = valueAttempts[n]
	}
	return h
}

// attemptsKey is the context key of withAttempts.
type attemptsKey struct{}

// withAttempts says how many attempts the owner may make beyond one.
func withAttempts(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, attemptsKey{}, n)
}

// remoteStream is a raw stream to a remote upstream. It ends by Close alone.
type remoteStream struct {
	net.Conn
	end context.CancelCauseFunc
}

// Close ends the stream in order.
func (s *remoteStream) Close() error {
	err := s.Conn.Close()
	s.end(net.ErrClosed)
	return err
}

// CloseWrite tells the upstream that no more comes.
func (s *remoteStream) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Done is closed when the stream is of no more use, where the connection to the node can tell.
func (s *remoteStream) Done() <-chan struct{} { return doneOf(s.Conn) }

// doneOf returns nil, which is never, for a connection that does not know.
func doneOf(c net.Conn) <-chan struct{} {
	if d, ok := c.(interface{ Done() <-chan struct{} }); ok {
		return d.Done()
	}
	return nil
}

// Reset ends the stream so that the upstream sees a failure.
func (s *remoteStream) Reset() {
	if a, ok := s.Conn.(interface{ Abort() }); ok {
		a.Abort()
	}
	_ = s.Close()
}

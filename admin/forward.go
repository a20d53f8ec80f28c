package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"piko/fault"
)

// A request with ?forward=NODE is answered by that node: an operator reaches
// every node through one, whichever a load balancer chose. It goes to addresses
// that the cluster itself announces and to no others, once and no further, and
// an answer counts only if the node says that it is the one that was meant.

const (
	// forwardParam is the query parameter with the id of the node that shall answer.
	forwardParam = "forward"
	// headerForwardTo has that id, on its way to the node.
	headerForwardTo = "X-Piko-Forward-To"
	// headerNode has the id of the node that answers a forwarded request.
	headerNode = "X-Piko-Node-Id"

	forwardTimeout = 15 * time.Second // for the whole answer
	maxForwards    = 32               // at a time
)

// actionPrefix begins the paths of what changes something.
const actionPrefix = "/status/"

// endless are the paths of answers without an end.
var endless = map[string]bool{"/status/live": true, "/status/events": true}

// forwarder passes requests on to other nodes. It has no goroutine: each
// request has a connection of its own.
type forwarder struct {
	// Static after construction.
	server    *Server
	next      http.Handler // what answers here
	transport http.RoundTripper
	slots     chan struct{}
}

func newForwarder(s *Server, next http.Handler) *forwarder {
	return &forwarder{
		server: s,
		next:   next,
		transport: &http.Transport{
			DialContext:            nodeDialer.DialContext,
			DialTLSContext:         s.dialTLS,
			DisableKeepAlives:      true,
			DisableCompression:     true, // the client's own is passed on
			MaxResponseHeaderBytes: 64 << 10,
		},
		slots: make(chan struct{}, maxForwards),
	}
}

func (f *forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to := r.URL.Query().Get(forwardParam)
	if want, ok := r.Header[headerForwardTo]; ok {
		w.Header().Set(headerNode, f.server.NodeID)
		if err := f.arrived(want, to); err != nil {
			fault.Write(w, r, err)
			return
		}
	} else if to != "" && to != "local" && to != f.server.NodeID {
		if err := f.forward(w, r, to); err != nil {
			f.server.log().Info("forward status request", "to", to, "path", r.URL.Path, "error", err)
			fault.Write(w, r, err)
		}
		return
	}
	f.next.ServeHTTP(w, r)
}

// arrived checks a request that another node has passed on to this one. The
// header is anybody's to send: it gets nobody anything but a refusal.
func (f *forwarder) arrived(want []string, to string) error {
	switch {
	case to != "":
		return &fault.Error{Code: fault.Forbidden, Detail: "a request is forwarded once"}
	case !slices.Equal(want, []string{f.server.NodeID}):
		return &fault.Error{Code: fault.NotFound, Detail: fmt.Sprintf("this is node %q, not %q", f.server.NodeID, strings.Join(want, ", "))}
	}
	return nil
}

// forward answers r with what node to answers. An error means that nothing was
// written.
func (f *forwarder) forward(w http.ResponseWriter, r *http.Request, to string) error {
	if acts := r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, actionPrefix); !acts && r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return fault.MethodNotAllowed
	}
	if endless[r.URL.Path] {
		return &fault.Error{Code: fault.Forbidden, Detail: "what has no end is not forwarded: ask the node itself"}
	}
	if strings.HasPrefix(r.URL.Path, pprofPrefix) {
		return &fault.Error{Code: fault.Forbidden, Detail: "profiles are not forwarded: ask the node itself, on its own machine"}
	}
	node, err := f.server.node(to)
	if err != nil {
		return err
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return fault.Overloaded
	}
	ctx, cancel := context.WithTimeout(r.Context(), forwardTimeout)
	defer cancel()
	res, err := f.ask(ctx, r, node)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	copyAnswer(w, res)
	return nil
}

// credentialKey is the context's key of the header with the token that let a
// request in.
type credentialKey struct{}

func withCredential(ctx context.Context, header string) context.Context {
	return context.WithValue(ctx, credentialKey{}, header)
}

// errKeepToken is for clusters that anybody could be a member of.
var errKeepToken = &fault.Error{Code: fault.Forbidden, Detail: "a token is not passed on: without --cluster.secret or TLS on the admin port another than the node could get it; ask the node itself"}

// ask sends the request to the node. Nothing of it but its path, query, what it
// accepts, and the token that let it in here; credentials that something in
// front of this port asked for are not for another.
func (f *forwarder) ask(ctx context.Context, r *http.Request, node Node) (*http.Response, error) {
	query := r.URL.Query()
	query.Del(forwardParam)
	scheme := "http"
	if f.server.TLS != nil {
		scheme = "https"
	}
	target := &url.URL{Scheme: scheme, Host: node.AdminAddr, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, r.Method, target.String(), nil)
	if err != nil {
		return nil, unreachableNode(node, err)
	}
	for _, name := range []string{"Accept", "Accept-Encoding"} {
		if values, ok := r.Header[name]; ok {
			req.Header[name] = values
		}
	}
	if name, _ := ctx.Value(credentialKey{}).(string); name != "" {
		if !f.server.PassToken {
			return nil, errKeepToken
		}
		req.Header[name] = r.Header[name]
	}
	req.Header.Set(headerForwardTo, node.ID)
	res, err := f.transport.RoundTrip(req)
	if err != nil {
		return nil, unreachableNode(node, err)
	}
	if got := res.Header.Get(headerNode); got != node.ID {
		res.Body.Close()
		return nil, unreachableNode(node, fmt.Errorf("it is %.64q that answers there", got))
	}
	return res, nil
}

// nodeDialer dials other nodes.
var nodeDialer = net.Dialer{Timeout: 5 * time.Second}

// dialTLS dials another node with what TLS says now. The transport keeps no
// connection, so that the next one is made with what is said then.
func (s *Server) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := nodeDialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	config := s.TLS().Clone()
	if config == nil {
		config = &tls.Config{}
	}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(addr)
	}
	conn := tls.Client(nc, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("tls handshake: %w", err)
	}
	return conn, nil
}

// unreachableNode is 504 if the node ran out of time, and 502 if not.
func unreachableNode(node Node, err error) error {
	e := &fault.Error{Code: fault.UpstreamUnreachable, Detail: fmt.Sprintf("node %q is unreachable at %s", node.ID, node.AdminAddr), Err: err}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		e.Code, e.Detail = fault.UpstreamTimeout, fmt.Sprintf("node %q did not answer in time at %s", node.ID, node.AdminAddr)
	}
	return e
}

// copyAnswer passes the answer on. One that breaks off must not look whole.
func copyAnswer(w http.ResponseWriter, res *http.Response) {
	h := w.Header()
	maps.Copy(h, res.Header)
	for _, name := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "Set-Cookie"} {
		h.Del(name)
	}
	w.WriteHeader(res.StatusCode)
	if _, err := io.Copy(w, res.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
}

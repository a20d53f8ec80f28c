package admin

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
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

// DefaultURL is where a node on this machine answers.
const DefaultURL = "http://localhost:8002"

// Bounds of a status request.
const (
	clientTimeout = forwardTimeout + time.Second // a node has its say on one that does not answer
	maxStatus     = 128 << 20                    // bytes; a million endpoints are 40 MB
)

// ErrNotAdmin means that something answered, but not as an admin port does.
var ErrNotAdmin = errors.New("not the admin port of a piko server")

// ErrUnknownNode means that the node that was asked knows none of that id.
var ErrUnknownNode = errors.New("no such node in the cluster")

// Client asks a node's admin port. The zero value asks DefaultURL. It may be
// used by any number of goroutines.
type Client struct {
	// URL is the admin port's: http or https, with a path prefix if something
	// in front of it wants one.
	URL string
	// Forward is the id of the node of the cluster that shall answer in place
	// of the one at URL, which passes the request on; "" is none.
	Forward string
	// Cluster asks for the answers of all nodes of the cluster, put together,
	// where a question has such.
	Cluster bool
	// Token is for a port that asks for one; "" is none.
	Token string
	// TLS is for a URL of https; nil trusts the system's authorities.
	TLS *tls.Config
	// HTTPClient makes the requests; nil is a client with a time-out of 16 s.
	HTTPClient *http.Client
}

// Endpoints returns the endpoints of the node's own upstreams with their number.
func (c *Client) Endpoints(ctx context.Context) (map[string]int, error) {
	var counts map[string]int
	if err := c.get(ctx, "status/upstream/endpoints", &counts); err != nil {
		return nil, fmt.Errorf("get endpoints: %w", err)
	}
	return counts, nil
}

// Nodes returns the nodes of the cluster, sorted by id.
func (c *Client) Nodes(ctx context.Context) ([]NodeSummary, error) {
	var nodes []NodeSummary
	if err := c.get(ctx, "status/cluster/nodes", &nodes); err != nil {
		return nil, fmt.Errorf("get nodes: %w", err)
	}
	return sorted(nodes, func(n NodeSummary) string { return n.ID }), nil
}

// Node returns the node with the id, or the one that answers for "local". The
// error is an ErrUnknownNode if there is none.
func (c *Client) Node(ctx context.Context, id string) (*NodeDetail, error) {
	var n NodeDetail
	if err := c.getNode(ctx, "status/cluster/nodes", id, &n); err != nil {
		return nil, fmt.Errorf("get node: %w", err)
	}
	return &n, nil
}

// GossipNodes returns the nodes as gossip sees them, sorted by id.
func (c *Client) GossipNodes(ctx context.Context) ([]GossipNode, error) {
	var nodes []GossipNode
	if err := c.get(ctx, "status/gossip/nodes", &nodes); err != nil {
		return nil, fmt.Errorf("get gossip nodes: %w", err)
	}
	return sorted(nodes, func(n GossipNode) string { return n.ID }), nil
}

// GossipNode returns what the node with the id, or the one that answers for
// "local", has told the others, sorted by version. The error is an
// ErrUnknownNode if there is none.
func (c *Client) GossipNode(ctx context.Context, id string) (*GossipNodeDetail, error) {
	var n GossipNodeDetail
	if err := c.getNode(ctx, "status/gossip/nodes", id, &n); err != nil {
		return nil, fmt.Errorf("get gossip node: %w", err)
	}
	slices.SortStableFunc(n.Entries, func(a, b GossipEntry) int { return cmp.Compare(a.Version, b.Version) })
	return &n, nil
}

// sorted is list by id: v0.9.0's servers list the nodes in any order.
func sorted[T any](list []T, id func(T) string) []T {
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(id(a), id(b)) })
	return list
}

// getNode gets one of the nodes below path. An id that would change the path
// is nobody's.
func (c *Client) getNode(ctx context.Context, path, id string, v any) error {
	if id == "" || id == "." || id == ".." {
		return fmt.Errorf("%w: %q", ErrUnknownNode, id)
	}
	return c.get(ctx, path+"/"+url.PathEscape(id), v)
}

// get asks for a path below the URL and decodes the answer into v. An answer
// that is not 200 is a *fault.Refused in the error.
func (c *Client) get(ctx context.Context, path string, v any) error {
	return c.ask(ctx, http.MethodGet, path, nil, v)
}

// ask is get with any method and a query.
func (c *Client) ask(ctx context.Context, method, path string, query url.Values, v any) error {
	target, res, err := c.send(ctx, c.client(), method, path, query)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxStatus)).Decode(v); err != nil {
		return fmt.Errorf("%s: %w (%w)", target.Redacted(), ErrNotAdmin, err)
	}
	return nil
}

// send returns an answer that is 200.
func (c *Client) send(ctx context.Context, client *http.Client, method, path string, query url.Values) (*url.URL, *http.Response, error) {
	target, err := c.target(path, query)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "application/json")
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, unreachable(target, err)
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		return nil, nil, c.refused(target, fault.ReadRefused(res))
	}
	return target, res, nil
}

func (c *Client) client() *http.Client {
	if c.HTTPClient != nil {
		return c.HTTPClient
	}
	return &http.Client{Timeout: clientTimeout, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSClientConfig: c.TLS.Clone(),
	}}
}

// target is the URL with the path behind its own.
func (c *Client) target(path string, more url.Values) (*url.URL, error) {
	text := c.URL
	if text == "" {
		text = DefaultURL
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("bad URL %q: it must be like %s", text, DefaultURL)
	}
	u = u.JoinPath(path)
	query := u.Query()
	maps.Copy(query, more)
	if c.Forward != "" {
		query.Set(forwardParam, c.Forward)
	}
	u.RawQuery = query.Encode()
	return u, nil
}

// unreachable says what to do about a request without an answer.
func unreachable(target *url.URL, err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // it would repeat method and URL
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", target.Redacted(), err)
	}
	hint := "is the server running, and is this its admin address?"
	if errors.Is(err, http.ErrSchemeMismatch) {
		hint = "the server has no TLS there: use http://"
	} else if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		hint = "name its authority with --server.tls.root-cas, or the name in its certificate with --server.tls.server-name"
	} else if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" { // an alert of TLS
		hint = "the server may ask for a certificate: see --server.tls.cert"
	}
	return fmt.Errorf("%s: %w; %s", target.Redacted(), err, hint)
}

// refused says what to do about an answer that is none.
func (c *Client) refused(target *url.URL, r *fault.Refused) error {
	switch {
	case c.isUnknownNode(target, r):
		return fmt.Errorf("%s: %w; piko server status cluster nodes lists them", target.Redacted(), ErrUnknownNode)
	case c.Forward != "" && (r.Code == fault.UpstreamUnreachable || r.Code == fault.UpstreamTimeout):
		return fmt.Errorf("%s: %w; is it running, and does its --admin.advertise-addr lead to it?", target.Redacted(), r)
	case r.Code == fault.MalformedRequest, r.Code == fault.InvalidEndpoint, r.Code == fault.NotFound && r.Text != fault.NotFound.Text(), r.Code == fault.Forbidden && c.Token == "":
		return fmt.Errorf("%s: %w", target.Redacted(), r) // it says what is wrong
	case r.Status == http.StatusUnauthorized || r.Status == http.StatusForbidden:
		return fmt.Errorf("%s: %w; the admin port asks for a token: see --server.token-file", target.Redacted(), r)
	case r.Status >= http.StatusInternalServerError:
		return fmt.Errorf("%s: %w; see the server's log", target.Redacted(), r)
	}
	return fmt.Errorf("%s: %w: %w; the admin port is :8002 by default", target.Redacted(), ErrNotAdmin, r)
}

// isUnknownNode reports whether it is a node that was not found, and not a
// route: v0.9.0 answers 404 without a word.
func (c *Client) isUnknownNode(target *url.URL, r *fault.Refused) bool {
	switch {
	case r.Status != http.StatusNotFound:
		return false
	case r.Code == "" && r.Text == "":
		return c.Forward != "" || strings.Contains(target.Path, "/nodes/")
	}
	return r.Code == fault.NotFound && strings.HasPrefix(r.Text, unknownNodeText)
}

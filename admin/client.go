package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"piko/fault"
)

// DefaultURL is where a node on this machine answers.
const DefaultURL = "http://localhost:8002"

// Bounds of a status request.
const (
	clientTimeout = 15 * time.Second
	maxStatus     = 128 << 20 // bytes; a million endpoints are 40 MB
)

// ErrNotAdmin means that something answered, but not as an admin port does.
var ErrNotAdmin = errors.New("not the admin port of a piko server")

// Client asks a node's admin port. The zero value asks DefaultURL. It may be
// used by any number of goroutines.
type Client struct {
	// URL is the admin port's: http or https, with a path prefix if something
	// in front of it wants one.
	URL string
	// HTTPClient makes the requests; nil is a client with a time-out of 15 s.
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

// get asks for a path below the URL and decodes the answer into v. An answer
// that is not 200 is a *fault.Refused in the error.
func (c *Client) get(ctx context.Context, path string, v any) error {
	target, err := c.target(path)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.client().Do(req)
	if err != nil {
		return unreachable(target, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return refused(target, fault.ReadRefused(res))
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxStatus)).Decode(v); err != nil {
		return fmt.Errorf("%s: %w (%w)", target.Redacted(), ErrNotAdmin, err)
	}
	return nil
}

func (c *Client) client() *http.Client {
	if c.HTTPClient != nil {
		return c.HTTPClient
	}
	return &http.Client{Timeout: clientTimeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
}

// target is the URL with the path behind its own.
func (c *Client) target(path string) (*url.URL, error) {
	text := c.URL
	if text == "" {
		text = DefaultURL
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("bad URL %q: it must be like %s", text, DefaultURL)
	}
	return u.JoinPath(path), nil
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
	}
	return fmt.Errorf("%s: %w; %s", target.Redacted(), err, hint)
}

// refused says what to do about an answer that is none.
func refused(target *url.URL, r *fault.Refused) error {
	switch {
	case r.Status == http.StatusUnauthorized || r.Status == http.StatusForbidden:
		return fmt.Errorf("%s: %w; the admin port asks for a token", target.Redacted(), r)
	case r.Status >= http.StatusInternalServerError:
		return fmt.Errorf("%s: %w; see the server's log", target.Redacted(), r)
	}
	return fmt.Errorf("%s: %w: %w; the admin port is :8002 by default", target.Redacted(), ErrNotAdmin, r)
}

package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// The questions about traffic, and what changes something. With Cluster all nodes
// are asked.

func (c *Client) scope() url.Values {
	query := url.Values{}
	if c.Cluster {
		query.Set(clusterParam, "true")
	}
	return query
}

// Overview returns what goes on at the node, or at all.
func (c *Client) Overview(ctx context.Context) (*Overview, error) {
	var o Overview
	if err := c.ask(ctx, http.MethodGet, "status/overview", c.scope(), &o); err != nil {
		return nil, fmt.Errorf("get overview: %w", err)
	}
	return &o, nil
}

// EndpointQuery says which endpoints to list. The zero value is the first 100 by
// name.
type EndpointQuery struct {
	Search string // part of the name
	Sort   string // name, tunnels, rps, errors or p99
	Order  string // asc or desc
	Offset int
	Limit  int // 0 is the server's own, 100
}

// List returns endpoints of the whole cluster, with the load that the node sees,
// or that all do.
func (c *Client) List(ctx context.Context, q EndpointQuery) (*EndpointList, error) {
	query := c.scope()
	for name, value := range map[string]string{"search": q.Search, "sort": q.Sort, "order": q.Order} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, value := range map[string]int{"offset": q.Offset, "limit": q.Limit} {
		if value != 0 {
			query.Set(name, strconv.Itoa(value))
		}
	}
	var list EndpointList
	if err := c.ask(ctx, http.MethodGet, "status/endpoints", query, &list); err != nil {
		return nil, fmt.Errorf("get endpoints: %w", err)
	}
	return &list, nil
}

// Endpoint returns what is known of one endpoint; tenant is "" unless tenants have
// endpoints of their own.
func (c *Client) Endpoint(ctx context.Context, tenant, endpoint string) (*EndpointDetail, error) {
	query := c.scope()
	if tenant != "" {
		query.Set("tenant", tenant)
	}
	var d EndpointDetail
	if err := c.ask(ctx, http.MethodGet, "status/endpoints/"+url.PathEscape(endpoint), query, &d); err != nil {
		return nil, fmt.Errorf("get endpoint: %w", err)
	}
	return &d, nil
}

// Upstreams returns tunnels, of one endpoint or for "" of all; limit 0 is the
// server's own, 1000.
func (c *Client) Upstreams(ctx context.Context, tenant, endpoint string, limit int) (*UpstreamList, error) {
	query := c.scope()
	for name, value := range map[string]string{"endpoint": endpoint, "tenant": tenant} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if limit != 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	var list UpstreamList
	if err := c.ask(ctx, http.MethodGet, "status/upstreams", query, &list); err != nil {
		return nil, fmt.Errorf("get upstreams: %w", err)
	}
	return &list, nil
}

// Drain makes the node drain, unless it does already, and returns how far it is.
func (c *Client) Drain(ctx context.Context) (*Drain, error) {
	var d Drain
	if err := c.ask(ctx, http.MethodPost, "status/drain", nil, &d); err != nil {
		return nil, fmt.Errorf("drain: %w", err)
	}
	return &d, nil
}

// Disconnect ends a tunnel of the node.
func (c *Client) Disconnect(ctx context.Context, id string) error {
	if id == "" || id == "." || id == ".." {
		return fmt.Errorf("disconnect: no tunnel is called %q", id)
	}
	var d Disconnected
	if err := c.ask(ctx, http.MethodPost, "status/upstreams/"+url.PathEscape(id)+"/disconnect", nil, &d); err != nil {
		return fmt.Errorf("disconnect: %w", err)
	}
	return nil
}

// errStreamEnded is what a stream of events ends with that should have none.
var errStreamEnded = errors.New("the server has ended the stream")

// Events calls f with each event as it comes, until ctx ends, f fails or the
// stream breaks off; it always returns an error..
func (c *Client) Events(ctx context.Context, f func(Event) error) error {
	client := *c.client()
	client.Timeout = 0
	target, res, err := c.send(ctx, &client, http.MethodGet, "status/events", nil)
	if err != nil {
		return fmt.Errorf("get events: %w", err)
	}
	defer res.Body.Close()
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return fmt.Errorf("get events: %s: %w", target.Redacted(), ErrNotAdmin)
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("get events: %s: %w (%w)", target.Redacted(), ErrNotAdmin, err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
	err = lines.Err()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if err == nil {
		err = errStreamEnded
	}
	return fmt.Errorf("get events: %s: %w", target.Redacted(), err)
}

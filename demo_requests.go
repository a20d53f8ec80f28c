package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"piko/fault"
)

// demoPost is what a POST carries, in bytes.
const demoPost = 64 << 10

// demoClient sends requests to the demo's endpoint.
type demoClient struct {
	proxy string // host:port of the proxy port
	http  *http.Client
}

// newDemoClient sends its requests to a proxy port. Whoever calls it closes its
// idle connections at the end.
func newDemoClient(addr string) *demoClient {
	return &demoClient{proxy: addr, http: &http.Client{Transport: &http.Transport{}}}
}

// try sends requests of all kinds through the balancer, prints a table of what
// came of them, and fails if one of them did.
func (d *demo) try(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 2*demoConnectTimeout)
	defer cancel()
	c := newDemoClient(d.balancer.proxyAddr())
	defer c.http.CloseIdleConnections()
	steps := []demoStep{
		{"GET /  (x-piko-endpoint: " + demoEndpoint + ")", c.get},
		{"GET /  (Host: " + demoEndpoint + ".example.com)", c.getByHost},
		{"POST /echo", c.post},
		{"GET /events  (server-sent events)", func(ctx context.Context) (string, error) { return c.events(ctx, demoEvents) }},
		{"GET /websocket", func(ctx context.Context) (string, error) { return c.websocket(ctx, demoEvents) }},
	}
	if failures := tabulate(ctx, w, steps); failures > 0 {
		return fmt.Errorf("run demo: %d of %d requests failed", failures, len(steps))
	}
	fmt.Fprintf(w, "\nAll %d requests went through a tunnel.\n\n", len(steps))
	return nil
}

// askEach asks every node at its own port: each serves every endpoint, wherever
// the agents are connected.
func (d *demo) askEach(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, demoConnectTimeout)
	defer cancel()
	var steps []demoStep
	for _, n := range d.nodes {
		c := newDemoClient(n.proxyAddr())
		defer c.http.CloseIdleConnections()
		steps = append(steps, demoStep{fmt.Sprintf("GET /  at %s, which has %s", n.name, n.tunnels()), c.get})
	}
	if failures := tabulate(ctx, w, steps); failures > 0 {
		return fmt.Errorf("run demo: %d of %d nodes did not serve %s", failures, len(steps), demoEndpoint)
	}
	fmt.Fprintf(w, "\nEvery node serves the endpoint, by itself or through another.\n\n")
	return nil
}

// demoStep is one request of the demo; do returns what came of it.
type demoStep struct {
	what string
	do   func(context.Context) (string, error)
}

// tabulate takes the steps, prints a table and returns how many failed.
func tabulate(ctx context.Context, w io.Writer, steps []demoStep) (failures int) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "  REQUEST\tRESULT\tTIME\n")
	for _, step := range steps {
		begin := time.Now()
		result, err := step.do(ctx)
		if err != nil {
			failures++
			result = "FAILED: " + err.Error()
		}
		fmt.Fprintf(t, "  %s\t%s\t%.1f ms\n", step.what, result, float64(time.Since(begin))/float64(time.Millisecond))
	}
	return failures
}

// awaitNodes returns once every node is ready and serves the endpoint, and the
// balancer knows.
func (d *demo) awaitNodes(ctx context.Context) error {
	for i, n := range d.nodes {
		if err := n.awaitReady(ctx); err != nil {
			return err
		}
		if err := d.balancer.awaitReady(ctx, i); err != nil {
			return err
		}
		c := newDemoClient(n.proxyAddr())
		err := c.awaitEndpoint(ctx, d.failed)
		c.http.CloseIdleConnections()
		if err != nil {
			return fmt.Errorf("connect agents of the demo to %s: %w", n.name, err)
		}
	}
	return nil
}

// awaitEndpoint returns once a request is not refused for want of an upstream.
func (c *demoClient) awaitEndpoint(ctx context.Context, failed <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, demoConnectTimeout)
	defer cancel()
	for {
		_, err := c.get(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-failed:
			return errPartEnded
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// request makes a request for the endpoint.
func (c *demoClient) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.proxy+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("x-piko-endpoint", demoEndpoint)
	return req, nil
}

// fetch sends req and returns the whole body of a 200.
func (c *demoClient) fetch(req *http.Request) ([]byte, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fault.ReadRefused(res)
	}
	return io.ReadAll(res.Body)
}

func (c *demoClient) get(ctx context.Context) (string, error) {
	req, err := c.request(ctx, http.MethodGet, "/", nil)
	if err != nil {
		return "", err
	}
	return c.greeting(req)
}

func (c *demoClient) getByHost(ctx context.Context) (string, error) {
	req, err := c.request(ctx, http.MethodGet, "/", nil)
	if err != nil {
		return "", err
	}
	req.Header.Del("x-piko-endpoint")
	req.Host = demoEndpoint + ".example.com"
	return c.greeting(req)
}

func (c *demoClient) greeting(req *http.Request) (string, error) {
	body, err := c.fetch(req)
	if err != nil {
		return "", err
	}
	if string(body) != demoGreeting {
		return "", fmt.Errorf("answer is not the service's: %.60q", body)
	}
	return "200: " + strings.TrimSpace(demoGreeting), nil
}

func (c *demoClient) post(ctx context.Context) (string, error) {
	sent := make([]byte, demoPost)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	req, err := c.request(ctx, http.MethodPost, "/echo", bytes.NewReader(sent))
	if err != nil {
		return "", err
	}
	received, err := c.fetch(req)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(sent, received) {
		return "", fmt.Errorf("the %d bytes that came back are not the %d that were sent", len(received), len(sent))
	}
	return fmt.Sprintf("200: %d KiB there and back, unchanged", len(sent)>>10), nil
}

// events checks that each event arrives when it was sent, not at the end.
func (c *demoClient) events(ctx context.Context, count int) (string, error) {
	req, err := c.request(ctx, http.MethodGet, "/events?n="+strconv.Itoa(count), nil)
	if err != nil {
		return "", err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", fault.ReadRefused(res)
	}
	var first time.Time
	n := 0
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "data: ") {
			continue
		}
		if n++; n == 1 {
			first = time.Now()
		}
	}
	switch spread := time.Since(first); {
	case lines.Err() != nil:
		return "", lines.Err()
	case n != count:
		return "", fmt.Errorf("%d events arrived, want %d", n, count)
	case spread < demoInterval:
		return "", fmt.Errorf("all events arrived within %v: they were held back", spread)
	}
	return fmt.Sprintf("200: %d events, each as it was sent", n), nil
}

// websocket sends messages, with pauses between them, and wants them back.
func (c *demoClient) websocket(ctx context.Context, messages int) (string, error) {
	req, err := c.request(ctx, http.MethodGet, "/websocket", nil)
	if err != nil {
		return "", err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.proxy)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r, err := wsDial(conn, req)
	if err != nil {
		return "", err
	}
	for i := range messages {
		if i > 0 {
			pause(ctx, demoInterval)
		}
		if err := wsRoundTrip(conn, r, wsText, strconv.Itoa(i)); err != nil {
			return "", err
		}
	}
	if err := wsRoundTrip(conn, r, wsClose, "\x03\xe8"); err != nil { // 1000: normal
		return "", fmt.Errorf("close: %w", err)
	}
	return fmt.Sprintf("101: %d messages echoed, then closed", messages), nil
}

// wsRoundTrip sends a frame and wants the same one back.
func wsRoundTrip(w io.Writer, r io.Reader, opcode byte, payload string) error {
	if err := wsWrite(w, opcode, []byte(payload), true); err != nil {
		return err
	}
	gotOpcode, got, err := wsRead(r, false)
	if err != nil {
		return err
	}
	if gotOpcode != opcode || string(got) != payload {
		return fmt.Errorf("frame %q came back as %q", payload, got)
	}
	return nil
}

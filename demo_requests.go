package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"piko/fault"
)

// What the demo's service says, and how fast.
const (
	demoGreeting = "Hello from a service that no port leads to.\n"
	demoEvents   = 3
	demoInterval = 100 * time.Millisecond // between two events
	demoPost     = 64 << 10
)

// demoOrigin is the demo's service.
func demoOrigin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, demoGreeting)
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Type", "application/octet-stream")
		io.Copy(w, r.Body)
	})
	mux.HandleFunc("GET /events", sendEvents)
	mux.HandleFunc("GET /websocket", wsEcho)
	return mux
}

// sendEvents sends a few server-sent events with pauses between them.
func sendEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(demoInterval)
	defer tick.Stop()
	for i := range demoEvents {
		fmt.Fprintf(w, "data: event %d\n\n", i+1)
		http.NewResponseController(w).Flush()
		if i+1 == demoEvents {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// demoClient sends requests to the demo's endpoint.
type demoClient struct {
	proxy string // host:port of the proxy port
	http  *http.Client
}

// try sends the requests, prints a table of what came of them, and fails if
// one of them did.
func (d *demo) try(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 3*demoConnectTimeout)
	defer cancel()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := &demoClient{proxy: d.node.ProxyAddr().String(), http: &http.Client{Transport: transport}}
	if err := c.awaitEndpoint(ctx, d.failed); err != nil {
		return err
	}
	steps := []demoStep{
		{"GET /  (x-piko-endpoint: " + demoEndpoint + ")", c.get},
		{"GET /  (Host: " + demoEndpoint + ".example.com)", c.getByHost},
		{"POST /echo", c.post},
		{"GET /events  (server-sent events)", c.events},
		{"GET /websocket", c.websocket},
	}
	if failures := tabulate(ctx, w, steps); failures > 0 {
		return fmt.Errorf("run demo: %d of %d requests failed", failures, len(steps))
	}
	fmt.Fprintf(w, "\nAll %d requests went through the tunnel.\n\n", len(steps))
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

// awaitEndpoint returns once the agent is connected: once a request is not
// refused for want of an upstream.
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
			return errors.New("run demo: a part of it ended by itself")
		case <-ctx.Done():
			return fmt.Errorf("connect agent of the demo: %w", err)
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
func (c *demoClient) events(ctx context.Context) (string, error) {
	req, err := c.request(ctx, http.MethodGet, "/events", nil)
	if err != nil {
		return "", err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
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
	case n != demoEvents:
		return "", fmt.Errorf("%d events arrived, want %d", n, demoEvents)
	case spread < demoInterval:
		return "", fmt.Errorf("all events arrived within %v: they were held back", spread)
	}
	return fmt.Sprintf("200: %d events, each as it was sent", n), nil
}

func (c *demoClient) websocket(ctx context.Context) (string, error) {
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
	messages := []string{"one", "two", "three"}
	for _, m := range messages {
		if err := wsRoundTrip(conn, r, wsText, m); err != nil {
			return "", err
		}
	}
	if err := wsRoundTrip(conn, r, wsClose, "\x03\xe8"); err != nil { // 1000: normal
		return "", fmt.Errorf("close: %w", err)
	}
	return fmt.Sprintf("101: %d messages echoed, then closed", len(messages)), nil
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

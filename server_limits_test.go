package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestLimitsAreReloaded: each limit of requests and tunnels is in force once a reload has said that it was applied, and
// gone again with the next.
func TestLimitsAreReloaded(t *testing.T) {
	n := startNode(t, nil)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	t.Cleanup(service.Close)
	startAgent(t, n, "app", service.Listener.Addr().String())
	c := newClient(t)
	ask := func(url string, header http.Header) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	request := func() int {
		return ask("http://"+n.ProxyAddr().String()+"/", http.Header{"X-Piko-Endpoint": {"app"}})
	}
	handshake := func() int {
		return ask("http://"+n.UpstreamAddr().String()+"/piko/v1/upstream/app", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}})
	}
	reload := func(next serverConfig) string {
		t.Helper()
		commit, applied, err := n.prepare(next)
		if err != nil {
			t.Fatal(err)
		}
		commit()
		return strings.Join(applied, " ")
	}
	for _, tt := range []struct {
		applied string
		change  func(*serverConfig)
		ask     func() int
		want    [2]int
	}{
		{"proxy.limits.rate-per-endpoint", func(c *serverConfig) { c.Proxy.Limits.RatePerEndpoint = 0.001 }, request, [2]int{200, 429}},
		{"proxy.limits.rate-per-endpoint", func(c *serverConfig) { c.Proxy.Limits.RatePerEndpoint = 1e6 }, request, [2]int{200, 200}},
		{"upstream.limits.tunnels", func(c *serverConfig) { c.Upstream.Limits.Tunnels = 1 }, handshake, [2]int{503, 503}},
		{"upstream.limits.tunnels-per-endpoint", func(c *serverConfig) { c.Upstream.Limits.TunnelsPerEndpoint = 1 }, handshake, [2]int{503, 503}},
		{"upstream.limits.tunnels-per-token", func(c *serverConfig) { c.Upstream.Limits.TunnelsPerToken = 1 }, request, [2]int{200, 200}},
		{"proxy.limits.burst-per-tenant", func(c *serverConfig) { c.Proxy.Limits.BurstPerTenant = 1 }, request, [2]int{200, 200}},
	} {
		next := n.cfg
		tt.change(&next)
		if got := reload(next); got != tt.applied {
			t.Errorf("applied %q, want %q", got, tt.applied)
		}
		if got := [2]int{tt.ask(), tt.ask()}; got != tt.want {
			t.Errorf("with %s: %v, want %v", tt.applied, got, tt.want)
		}
		if got := reload(next); got != "" {
			t.Errorf("applied once more, with nothing new: %q", got)
		}
		reload(n.cfg)
		if got := request(); got != http.StatusOK {
			t.Errorf("after %s: %d", tt.applied, got)
		}
	}
}

// TestLimitsInFlightAreReloaded: they count requests that are in flight when they come into force, as far as another
// limit has counted them before.
func TestLimitsInFlightAreReloaded(t *testing.T) {
	n := startNode(t, func(c *serverConfig) {
		c.Proxy.Limits.Requests, c.Proxy.Limits.RequestsPerEndpoint, c.Proxy.Limits.RequestsPerTunnel = 10, 10, 10
	})
	arrived, leave := make(chan struct{}), make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			arrived <- struct{}{}
			<-leave
		}
	}))
	t.Cleanup(service.Close)
	startAgent(t, n, "app", service.Listener.Addr().String())
	c := newClient(t)
	ask := func(path string) (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.ProxyAddr().String()+path, nil)
		if err != nil {
			return 0, err
		}
		req.Header.Set("x-piko-endpoint", "app")
		res, err := c.Do(req)
		if err != nil {
			return 0, err
		}
		return res.StatusCode, res.Body.Close()
	}
	done := make(chan int, 1)
	go func() {
		status, _ := ask("/wait")
		done <- status
	}()
	<-arrived
	for name, change := range map[string]func(*limitsConfig){
		"proxy.limits.requests":              func(c *limitsConfig) { c.Requests = 1 },
		"proxy.limits.requests-per-endpoint": func(c *limitsConfig) { c.RequestsPerEndpoint = 1 },
		"proxy.limits.requests-per-tunnel":   func(c *limitsConfig) { c.RequestsPerTunnel = 1 },
	} {
		next := n.cfg
		change(&next.Proxy.Limits)
		commit, applied, err := n.prepare(next)
		if err != nil || len(applied) != 1 || applied[0] != name {
			t.Fatalf("%s: applied %v, %v", name, applied, err)
		}
		commit()
		if got, err := ask("/"); got != http.StatusServiceUnavailable {
			t.Errorf("with %s: %d, %v", name, got, err)
		}
		if commit, _, err = n.prepare(n.cfg); err != nil {
			t.Fatal(err)
		}
		commit()
		if got, err := ask("/"); got != http.StatusOK {
			t.Errorf("after %s: %d, %v", name, got, err)
		}
	}
	close(leave)
	if got := <-done; got != http.StatusOK {
		t.Errorf("the request that was in flight: %d", got)
	}
}

package upstreamconn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/fault"
	"piko/tunnel"
)

// handshake sends a GET that is a correct handshake but for edit, and returns
// the answer and the code in its JSON.
func handshake(t *testing.T, url string, edit func(*http.Request)) (*http.Response, fault.Code) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	if edit != nil {
		edit(req)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		return res, ""
	}
	var answer struct {
		Error string
		Code  fault.Code
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.Error == "" {
		t.Errorf("%s: body is no JSON with an error: %v", res.Status, err)
	}
	return res, answer.Code
}

func TestRefusals(t *testing.T) {
	n := startNode(t, nil)
	path := n.url + "/piko/v1/upstream/"
	for _, c := range []struct {
		name, url string
		edit      func(*http.Request)
		status    int
		code      fault.Code
	}{
		{"no endpoint", path, nil, 400, fault.MissingEndpoint},
		{"a space in the endpoint", path + "my%20endpoint", nil, 400, fault.InvalidEndpoint},
		{"a slash in the endpoint", path + "my%2Fendpoint", nil, 400, fault.InvalidEndpoint},
		{"a line feed in the endpoint", path + "my%0Aendpoint", nil, 400, fault.InvalidEndpoint},
		{"254 bytes", path + strings.Repeat("x", 254), nil, 400, fault.InvalidEndpoint},
		{"300 bytes", path + strings.Repeat("x", 300), nil, 400, fault.InvalidEndpoint},
		{"more path", path + "endpoint/more", nil, 404, fault.NotFound},
		{"another path", n.url + "/", nil, 404, fault.NotFound},
		{"the path of the proxy port", n.url + "/_piko/v1/upstream/endpoint", nil, 404, fault.NotFound},
		{"POST", path + "endpoint", func(r *http.Request) { r.Method = http.MethodPost }, 405, fault.MethodNotAllowed},
		{"no upgrade", path + "endpoint", func(r *http.Request) { r.Header.Del("Upgrade") }, 400, fault.MalformedRequest},
		{"another version", path + "endpoint", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") }, 400, fault.MalformedRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, code := handshake(t, c.url, c.edit)
			if res.StatusCode != c.status || code != c.code {
				t.Errorf("answered %s %q, want %d %q", res.Status, code, c.status, c.code)
			}
		})
	}
	if refused := n.log.with("upstream refused", "remote=127.0.0.1"); len(refused) == 0 {
		t.Error("no line says who was refused")
	}
	if n.Tunnels() != 0 {
		t.Error("a tunnel was opened")
	}
}

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var l logLimit
	now := time.Unix(1000, 0)
	logged, dropped := 0, 0
	for i := range 1000 {
		ok, d := l.allow(now.Add(time.Duration(i) * 10 * time.Millisecond)) // for 10 s
		if ok {
			logged++
		}
		dropped += d
	}
	if logged > 10*linesPerSecond || logged+dropped < 900 {
		t.Errorf("%d lines, %d said to be dropped, of 1000", logged, dropped)
	}
}

func TestEndpointsAreComparedInLowerCase(t *testing.T) {
	n := startNode(t, nil)
	startAgent(t, n.url, "My-Endpoint", echo)
	n.waitFor(t, "my-endpoint", 1)
	dialOldAgent(t, n.url, "%6Dy-%65ndpoint")
	n.waitFor(t, "my-endpoint", 2)
}

func TestRequestsGoThrough(t *testing.T) {
	n := startNode(t, nil)
	startAgentFor(t, n.url, "ours", "tcp", echo)
	dialOldAgent(t, n.url, "old").serve(t, echo)
	for _, endpoint := range []string{"ours", "old"} {
		u := n.waitFor(t, endpoint, 1)[0].Upstream()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 50 {
					want := strings.Repeat(fmt.Sprint(i, j), 1+j*100)
					method := []string{http.MethodPost, http.MethodPut}[j%2]
					if got, err := do(u, method, want); err != nil || got != want {
						t.Errorf("%s: %d bytes of %d came back, %v", endpoint, len(got), len(want), err)
						return
					}
				}
			})
		}
		wg.Wait()
		c, err := u.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nraw")
		if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), "raw") {
			t.Errorf("%s: raw stream read %q, %v", endpoint, b, err)
		}
		c.Close()
	}
}

func TestUpstreamIsGoneWithItsTunnel(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := startNode(t, func(s *Server) { s.Registerer = reg })
	a := startAgent(t, n.url, "endpoint", echo)
	old := dialOldAgent(t, n.url, "endpoint")
	old.serve(t, echo)
	n.waitFor(t, "endpoint", 2)
	wantMetric(t, reg, "piko_upstreams_connected_upstreams", 2)
	wantMetric(t, reg, "piko_upstreams_registered_endpoints", 1)
	do(n.waitFor(t, "endpoint", 2)[0].Upstream(), http.MethodGet, "")
	wantMetric(t, reg, "piko_upstreams_upstream_requests_total", 1)
	wantMetric(t, reg, "piko_upstreams_streams_opened_total", 1)
	wantMetric(t, reg, "piko_upstreams_streams", 1)
	wantMetric(t, reg, "piko_upstreams_tunnels", 2)

	a.Close()
	n.waitFor(t, "endpoint", 1)
	old.ws.NetConn().Close() // without a word
	n.waitFor(t, "endpoint", 0)
	wantMetric(t, reg, "piko_upstreams_connected_upstreams", 0)
	wantMetric(t, reg, "piko_upstreams_registered_endpoints", 0)
	wantMetric(t, reg, "piko_upstreams_disconnects_total", 2)
	for _, what := range []string{"upstream connected", "upstream disconnected"} {
		if got := n.log.with(what, "endpoint=endpoint", "remote=127.0.0.1:"); len(got) != 2 {
			t.Errorf("%d lines say %q: %s", len(got), what, got)
		}
	}
	if got := n.log.with("upstream disconnected", "instance=", "duration=", "reason=\"tunnel closed by the peer\""); len(got) != 2 {
		t.Errorf("the log does not say why: %s", n.log.with("disconnected"))
	}
}

// wantMetric sums the metric over its labels.
func wantMetric(t *testing.T, reg *prometheus.Registry, name string, want float64) {
	t.Helper()
	eventually(t, func() error {
		families, err := reg.Gather()
		if err != nil {
			return err
		}
		got := 0.0
		for _, f := range families {
			if f.GetName() != name {
				continue
			}
			for _, m := range f.GetMetric() {
				got += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		if got != want {
			return fmt.Errorf("%s is %v, want %v", name, got, want)
		}
		return nil
	})
}

// An upstream that accepts nothing is told apart from one that is slow to
// answer, before a client's patience ends.
func TestUpstreamThatAcceptsNothingFailsFast(t *testing.T) {
	n := startNode(t, nil)
	d := tunnel.Dialer{URL: n.url}
	sess, err := d.Dial(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	u := n.waitFor(t, "endpoint", 1)[0].Upstream()
	for {
		start := time.Now()
		c, err := u.Open(t.Context())
		if err == nil {
			defer c.Close()
			continue
		}
		if took := time.Since(start); took > 2*openTime || !errors.Is(err, fault.UpstreamUnreachable) {
			t.Errorf("after %v: %v", took, err)
		}
		break
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("client went away")
	cancel(gone)
	if _, err := u.Open(ctx); !errors.Is(err, gone) {
		t.Errorf("for a client that went away: %v", err)
	}
}

func TestTooManyStreamsIsOverloaded(t *testing.T) {
	n := startNode(t, func(s *Server) { s.MaxStreams = 3 })
	startAgentFor(t, n.url, "endpoint", "tcp", echo)
	u := n.waitFor(t, "endpoint", 1)[0].Upstream()
	for range 10 {
		c, err := u.Open(t.Context())
		if err == nil {
			defer c.Close()
			continue
		}
		if !errors.Is(err, fault.Overloaded) {
			t.Error(err)
		}
		return
	}
	t.Error("ten streams were opened")
}

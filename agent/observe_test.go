package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"piko/accesslog"
)

func TestMetricsHaveTheNamesOfV090(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := newMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	l := m.listener("my-endpoint")
	l.inFlight.Inc()
	l.done("GET", 200, 0, 0, 13)
	l.done("GET", 200, 0, 0, 13)
	l.done("BREW", 502, 0, 100, 0)
	l.done("GET", 99999, 0, 0, 0) // no status that HTTP has

	res := httptest.NewRecorder()
	MetricsHandler(reg).ServeHTTP(res, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`piko_agent_requests_in_flight{endpoint="my-endpoint"} 1`,
		`piko_agent_requests_total{endpoint="my-endpoint",method="GET",status="200"} 2`,
		`piko_agent_requests_total{endpoint="my-endpoint",method="other",status="502"} 1`,
		`piko_agent_requests_total{endpoint="my-endpoint",method="GET",status="500"} 1`,
		`piko_agent_request_latency_seconds_count{endpoint="my-endpoint",method="GET",status="200"} 2`,
		`piko_agent_request_size_bytes_sum{endpoint="my-endpoint"} 100`,
		`piko_agent_response_size_bytes_sum{endpoint="my-endpoint"} 26`,
		`piko_agent_response_size_bytes_bucket{endpoint="my-endpoint",le="4.194304e+06"} 4`,
	} {
		if !strings.Contains(res.Body.String(), want+"\n") {
			t.Errorf("metrics have no line %q:\n%s", want, res.Body)
		}
	}
	for path, want := range map[string]int{"/metrics": 200, "/": 404, "/debug/pprof/": 404} {
		res := httptest.NewRecorder()
		MetricsHandler(reg).ServeHTTP(res, httptest.NewRequest("GET", path, nil))
		if res.Code != want {
			t.Errorf("GET %s: status %d, want %d", path, res.Code, want)
		}
	}
}

func TestMetricsAreCountedWithoutAllocation(t *testing.T) {
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	l := m.listener("my-endpoint")
	l.done("GET", 200, 0, 0, 0)
	if n := testing.AllocsPerRun(100, func() { l.done("GET", 200, 1, 2, 3) }); n != 0 {
		t.Errorf("counting a request allocates %v times, want 0", n)
	}
}

func TestTwoAgentsCannotShareARegistry(t *testing.T) {
	reg := prometheus.NewRegistry()
	cfg := Config{Listeners: []Listener{{Endpoint: "a", Addr: "3000"}}}
	if _, err := New(cfg, nil, nil, reg, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg, nil, nil, reg, nil); err == nil {
		t.Error("the second agent's metrics replaced the first's")
	}
}

func TestAccessLogHasALinePerRequest(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Set-Cookie", "secret")
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, "created")
	})
	access := new(logBuffer)
	a := startAgent(t, service.URL, func(o *agentOptions) { o.access = access })
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://my-endpoint.example.com/a/b?q=secret", strings.NewReader("12345"))
	req.Header = http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Request-Id": {"id-1"}, "Authorization": {"Bearer secret"}}
	res, err := a.do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()

	var line struct {
		Level, Subsystem, Msg string
		Request               struct {
			Proto, Method, Host, Path, Endpoint, Client, Upstream string
			Status                                                int
			BytesIn                                               int    `json:"bytes_in"`
			BytesOut                                              int    `json:"bytes_out"`
			RequestID                                             string `json:"request_id"`
		}
	}
	eventually(t, func() error {
		if err := json.Unmarshal([]byte(access.String()), &line); err != nil {
			return fmt.Errorf("access log %q: %w", access, err)
		}
		return nil
	})
	r := line.Request
	if line.Level != "info" || line.Subsystem != "proxy.http.access" || line.Msg != "request" {
		t.Errorf("line is %+v", line)
	}
	if r.Method != "PUT" || r.Host != "my-endpoint.example.com" || r.Path != "/a/b" || r.Endpoint != "my-endpoint" ||
		r.Client != "192.0.2.1" || r.Status != 201 || r.BytesIn != 5 || r.BytesOut != 7 || r.RequestID != "id-1" ||
		"http://"+r.Upstream != service.URL {
		t.Errorf("request is logged as %+v", r)
	}
	if strings.Contains(access.String(), "secret") {
		t.Errorf("access log has a secret:\n%s", access)
	}
}

func TestAccessLogNamesTheReasonOfAFailure(t *testing.T) {
	access := new(logBuffer)
	a := startAgent(t, rawService(t, "rubbish"), func(o *agentOptions) { o.access = access })
	if status, _, err := a.get("/"); status != 502 || err != nil {
		t.Fatalf("status %d, error %v", status, err)
	}
	eventually(t, func() error {
		if log := access.String(); !strings.Contains(log, `"level":"warn"`) || !strings.Contains(log, "read response") {
			return fmt.Errorf("access log has no warning with the reason: %q", log)
		}
		return nil
	})
}

func TestAccessLogCanBeOff(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	access := new(logBuffer)
	a := startAgent(t, service.URL, func(o *agentOptions) {
		o.access = access
		o.listener.AccessLog = accesslog.Config{Disable: true}
	})
	a.mustGet("/")
	a.stop()
	a.node.client.CloseIdleConnections()
	<-a.done
	a.done <- nil
	if access.String() != "" {
		t.Errorf("access log is off and has %q", access)
	}
}

func TestPanicsOfTheServerAreErrors(t *testing.T) {
	log := new(logBuffer)
	w := serverLog{slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	io.WriteString(w, "http: response.WriteHeader on hijacked connection\n")
	if log.String() != "" {
		t.Errorf("what a peer did is logged above debug: %s", log)
	}
	io.WriteString(w, "http: panic serving 127.0.0.1:1: boom\n")
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "boom") {
		t.Errorf("a panic is no error in the log: %q", log)
	}
}

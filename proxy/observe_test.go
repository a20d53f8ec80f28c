package proxy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"piko/accesslog"
)

// lines collects what is written.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(b))
	return len(b), nil
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

// logged is what a test looks at in a line.
type logged struct {
	Level, Msg string
	Request    struct {
		Method, Host, Path, Endpoint, Client, Node, Upstream, Error string
		Status, Retries                                             int
		BytesIn                                                     int64  `json:"bytes_in"`
		BytesOut                                                    int64  `json:"bytes_out"`
		RequestID                                                   string `json:"request_id"`
	}
}

func TestAccessLog(t *testing.T) {
	var out lines
	w := newWorld(t, func(o *Options) {
		o.AccessLog = accesslog.New(&out, accesslog.Config{Level: slog.LevelInfo}, accesslog.Options{Subsystem: "proxy.access"})
	})
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/half" {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		ok(w, "answer")
	})
	w.serveRaw("ws", func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello")
		io.Copy(io.Discard, r)
	})
	w.add("down", noDial)
	for _, tt := range []struct {
		name, request, want string
	}{
		{"a request", "POST /a?secret=1 HTTP/1.1\r\nHost: e.x\r\nX-Request-Id: id\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
			"info request POST e.x /a e node-1 upstream-1 200 in 3 out 6 retries 0 id id error false"},
		{"a failure", "GET /b HTTP/1.1\r\nHost: down.x\r\nX-Request-Id: id\r\nConnection: close\r\n\r\n",
			"warn request GET down.x /b down node-1 upstream-1 502 in 0 out 63 retries 0 id id error true"},
		{"nobody there", "GET /c HTTP/1.1\r\nHost: nobody.x\r\nX-Request-Id: id\r\nConnection: close\r\n\r\n",
			"warn request GET nobody.x /c nobody node-1  502 in 0 out 56 retries 0 id id error true"},
		{"malformed", "GET /d HTTP/1.1\r\nHost: a,b\r\n\r\n",
			"info request GET a,b /d  node-1  400 in 0 out 57 retries 0 id  error true"},
		{"a response cut short", "GET /half HTTP/1.1\r\nHost: e.x\r\nX-Request-Id: id\r\n\r\n",
			"info request GET e.x /half e node-1 upstream-1 200 in 0 out 4 retries 0 id id error true"},
		{"an upgrade", "GET /ws HTTP/1.1\r\nHost: ws.x\r\nConnection: Upgrade\r\nUpgrade: x\r\nX-Request-Id: id\r\n\r\nabcd",
			"info connection opened GET ws.x /ws ws node-1 upstream-1 101 in 0 out 0 retries 0 id id error false|" +
				"info connection closed GET ws.x /ws ws node-1 upstream-1 101 in 4 out 5 retries 0 id id error false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "an upgrade" {
				c, err := net.Dial("tcp", w.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				io.WriteString(c, tt.request)
				r := bufio.NewReader(c)
				http.ReadResponse(r, nil)
				r.Discard(5)
				c.(*net.TCPConn).CloseWrite()
				io.ReadAll(r)
			} else {
				w.talk(tt.request)
			}
			var got []string
			eventually(t, func() error {
				for _, line := range out.take() {
					got = append(got, summary(t, line))
				}
				if len(got) < strings.Count(tt.want, "|")+1 {
					return io.ErrNoProgress
				}
				return nil
			})
			if s := strings.Join(got, "|"); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
		})
	}
}

func summary(t *testing.T, line string) string {
	var l logged
	if err := json.Unmarshal([]byte(line), &l); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	r := l.Request
	if !strings.HasPrefix(r.Client, "127.0.0.1:") || strings.Contains(line, "secret") {
		t.Errorf("got %s", line)
	}
	return l.Level + " " + l.Msg + " " + r.Method + " " + r.Host + " " + r.Path + " " + r.Endpoint + " " + r.Node + " " + r.Upstream +
		" " + jsonText(r.Status) + " in " + jsonText(r.BytesIn) + " out " + jsonText(r.BytesOut) + " retries " + jsonText(r.Retries) +
		" id " + r.RequestID + " error " + jsonText(strings.Contains(line, `"err`))
}

func jsonText(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// The metrics of v0.9.0, whose labels no client can make up.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := newWorld(t, func(o *Options) { o.Registerer = reg })
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.Method == "WEIRD" {
			w.WriteHeader(777)
		}
		ok(w, "answer")
	})
	w.do("GET", "/", nil)
	w.do("POST", "/", strings.NewReader(strings.Repeat("x", 300)))
	w.do("WEIRD", "/", nil)
	w.do("get", "/", nil)
	w.add("f", noDial)
	w.serve("f", func(w http.ResponseWriter, r *http.Request) {})
	for testutil.CollectAndCount(reg, "piko_proxy_retries_total") == 0 || !strings.Contains(text(t, reg), `piko_proxy_retries_total{kind="free"} 1`) {
		w.do("POST", "/", nil, "X-Piko-Endpoint", "f")
	}
	w.do("GET", "/", nil, "X-Piko-Endpoint", "nobody")
	w.do("GET", "/", nil, "X-Piko-Endpoint", "no/name")
	w.serve("g", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	w.do("GET", "/", nil, "X-Piko-Endpoint", "g")
	eventually(t, func() error { // a request is counted a moment after its answer
		return has(text(t, reg),
			`piko_proxy_requests_in_flight 0`,
			`piko_proxy_requests_total{method="GET",status="200"} 1`,
			`piko_proxy_requests_total{method="other",status="500"} 1`,
			`piko_proxy_requests_total{method="other",status="200"} 1`,
			`piko_proxy_request_latency_seconds_count{method="GET",status="200"} 1`,
			`piko_proxy_request_size_bytes_bucket{le="1024"}`,
			`piko_proxy_response_size_bytes_sum`,
			`piko_proxy_retries_total{kind="budget"} 0`,
			`piko_proxy_errors_total{code="no-upstream"} 1`,
			`piko_proxy_errors_total{code="invalid-endpoint"} 1`,
			`piko_proxy_errors_total{code="service"} 2`,
			`piko_proxy_errors_total{code="other"} 0`)
	})
	if _, err := NewPublic(Options{Lookup: w.table.Lookup, Registerer: reg}); err == nil {
		t.Error("the same metrics were registered twice")
	}
}

func has(text string, lines ...string) error {
	for _, want := range lines {
		if !strings.Contains(text, want) {
			return fmt.Errorf("no %s in\n%s", want, text)
		}
	}
	return nil
}

// text is what a scrape shows, in one line for each series.
func text(t *testing.T, g prometheus.Gatherer) string {
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+jsonText(l.GetValue()))
			}
			set := ""
			if len(labels) > 0 {
				set = "{" + strings.Join(labels, ",") + "}"
			}
			switch {
			case m.GetCounter() != nil:
				b.WriteString(f.GetName() + set + " " + jsonText(m.GetCounter().GetValue()) + "\n")
			case m.GetGauge() != nil:
				b.WriteString(f.GetName() + set + " " + jsonText(m.GetGauge().GetValue()) + "\n")
			case m.GetHistogram() != nil:
				b.WriteString(f.GetName() + "_count" + set + " " + jsonText(m.GetHistogram().GetSampleCount()) + "\n")
				b.WriteString(f.GetName() + "_sum" + set + " " + jsonText(m.GetHistogram().GetSampleSum()) + "\n")
				for _, bucket := range m.GetHistogram().GetBucket() {
					b.WriteString(f.GetName() + `_bucket{le="` + jsonText(bucket.GetUpperBound()) + "\"}\n")
				}
			}
		}
	}
	return b.String()
}

// Expect: 100-continue: what the client is told comes from the service, once, and its body is read only when wanted.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	everyWay(t, testExpectContinue)
}

func testExpectContinue(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		switch req.URL.Path {
		case "/100":
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Piko-A: b\r\n\r\n")
		case "/401":
			io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
			return
		}
		b, _ := io.ReadAll(req.Body)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"+string(b))
	})
	for path, want := range map[string]string{
		"/100":    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n",
		"/401":    "HTTP/1.1 401 Unauthorized\r\n",
		"/silent": "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
	} {
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: e.x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		r := bufio.NewReader(c)
		first, _ := r.Peek(12)
		if string(first) == "HTTP/1.1 100" {
			io.WriteString(c, "hello")
		}
		b, _ := io.ReadAll(r)
		if got := string(b); !strings.HasPrefix(got, want) || strings.HasSuffix(got, "hello") != (path != "/401") {
			t.Errorf("%s: got %q", path, got)
		}
	}
}

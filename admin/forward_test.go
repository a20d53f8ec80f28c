package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"piko/fault"
)

func pathEscape(s string) string { return url.PathEscape(s) }

// forwardCluster is nodes "a", at the URL that is returned, and "b", which
// serve each other's questions; b is at addr if that is not "".
func forwardCluster(t *testing.T, addr string) (aURL string) {
	t.Helper()
	a := testServer()
	b := testCluster()
	b.Ready = func() bool { return false }
	bSrv := httptest.NewServer(b.Handler())
	t.Cleanup(bSrv.Close)
	if addr == "" {
		addr = strings.TrimPrefix(bSrv.URL, "http://")
	}
	a.NodeID = "a"
	a.Nodes = func() []Node {
		return []Node{{ID: "a", Status: StatusActive, AdminAddr: "192.0.2.1:1"}, {ID: "b", Status: StatusActive, AdminAddr: addr}}
	}
	aSrv := httptest.NewServer(a.Handler())
	t.Cleanup(aSrv.Close)
	return aSrv.URL
}

// ask makes a request with headers, as name and value.
func ask(t *testing.T, method, target string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestForward(t *testing.T) {
	aURL := forwardCluster(t, "")
	tests := []struct {
		method, path string
		status       int
		body         string // a part of it
	}{
		{"GET", "/status/cluster/nodes/local?forward=b", 200, `{"id":"b"`},
		{"GET", "/status/cluster/nodes/local?forward=a", 200, `{"id":"a"`},
		{"GET", "/status/cluster/nodes/local?forward=local", 200, `{"id":"a"`},
		{"GET", "/status/cluster/nodes/local?forward=", 200, `{"id":"a"`},
		{"GET", "/status/cluster/nodes?forward=b", 200, `[{"id":"a","status":"draining"`},
		{"GET", "/status/gossip/nodes/b?x=1&forward=b", 200, `"Entries"`},
		{"GET", "/status/upstream/endpoints?forward=b", 200, `{"one":1,"two":2}`},
		{"HEAD", "/status/upstream/endpoints?forward=b", 200, ""},
		{"GET", "/ready?forward=b", 503, ""},
		{"GET", "/health?forward=b", 200, ""},
		{"GET", "/metrics?forward=b", 200, "piko_test_total 42"},
		{"GET", "/status/cluster/nodes/x%2Fy?forward=b", 404, `unknown node \"x/y\"`},
		{"GET", "/nothing?forward=b", 404, `"code":"not-found"`},
		{"GET", "/status/cluster/nodes?forward=c", 404, `unknown node \"c\"`},
		{"GET", "/status/cluster/nodes?forward=127.0.0.1:22", 404, `unknown node \"127.0.0.1:22\"`},
		{"GET", "/status/cluster/nodes?forward=b@example.com", 404, `unknown node`},
		{"POST", "/status/cluster/nodes?forward=b", 405, `"code":"method-not-allowed"`},
		{"GET", "/debug/pprof/heap?forward=b", 403, "not forwarded"},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			res, body := ask(t, tt.method, aURL+tt.path)
			if res.StatusCode != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("got %d %.200q, want %d %q", res.StatusCode, body, tt.status, tt.body)
			}
		})
	}
}

// TestForwardedOnce: no header and no parameter makes a node pass on what it
// was passed.
func TestForwardedOnce(t *testing.T) {
	aURL := forwardCluster(t, "")
	res, body := ask(t, "GET", aURL+"/status/cluster/nodes/local?forward=b", headerForwardTo, "a")
	if res.StatusCode != 403 || !strings.Contains(body, "forwarded once") {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
	if res, body = ask(t, "GET", aURL+"/status/cluster/nodes/local", headerForwardTo, "b"); res.StatusCode != 404 || !strings.Contains(body, `this is node \"a\"`) {
		t.Errorf("a request for another node: got %d %q", res.StatusCode, body)
	}
	// Two values of the parameter: the second does not survive the hop.
	if res, body = ask(t, "GET", aURL+"/status/cluster/nodes/local?forward=b&forward=a"); res.StatusCode != 200 || !strings.Contains(body, `{"id":"b"`) {
		t.Errorf("two parameters: got %d %q", res.StatusCode, body)
	}
}

// TestForwardToSomebodyElse: an address may be another's by now.
func TestForwardToSomebodyElse(t *testing.T) {
	answer := func(h http.HandlerFunc) string {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		return strings.TrimPrefix(srv.URL, "http://")
	}
	tests := []struct {
		name, addr string
		status     int
		body       string
	}{
		{"nobody listens", strings.TrimPrefix(gone(), "http://"), 502, `node \"b\" is unreachable`},
		{"another server", answer(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "SECRET") }), 502, "unreachable"},
		{"another server's 404", answer(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "SECRET", 404) }), 502, "unreachable"},
		{"a redirect", answer(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(headerNode, "b")
			http.Redirect(w, r, "http://192.0.2.1/SECRET", http.StatusFound)
		}), 302, ""},
		{"another node", answer(testNode("c").Handler().ServeHTTP), 502, "unreachable"},
		{"no address", "nowhere", 502, "unreachable"},
		{"an address that is none", "a b\x7f", 502, "unreachable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			aURL := forwardCluster(t, tt.addr)
			h := aURL + "/status/upstream/endpoints?forward=b"
			req, _ := http.NewRequestWithContext(t.Context(), "GET", h, nil)
			transport := &http.Transport{DisableKeepAlives: true}
			res, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != tt.status || !strings.Contains(string(body), tt.body) || strings.Contains(string(body), "SECRET") && tt.status == 502 {
				t.Errorf("got %d %q", res.StatusCode, body)
			}
		})
	}
}

func testNode(id string) *Server {
	s := testServer()
	s.NodeID = id
	return s
}

// TestForwardPassesNoCredentials: what something in front of this port asked
// for is not for other nodes, nor is what could forge an address.
func TestForwardPassesNoCredentials(t *testing.T) {
	var seen http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		w.Header().Set(headerNode, "b")
		w.Header().Set("Set-Cookie", "a=b")
	}))
	defer srv.Close()
	aURL := forwardCluster(t, strings.TrimPrefix(srv.URL, "http://"))
	res, _ := ask(t, "GET", aURL+"/metrics?forward=b", "Authorization", "Bearer CANARY", "Cookie", "CANARY", "X-Forwarded-For", "127.0.0.1",
		"X-Piko-Authorization", "CANARY", "Accept", "text/plain")
	for name, values := range seen {
		switch name {
		case "Accept", "Accept-Encoding", "User-Agent", "Connection", headerForwardTo:
		default:
			t.Errorf("the other node was sent %s: %q", name, values)
		}
	}
	if seen.Get("Accept") != "text/plain" || res.Header.Get("Set-Cookie") != "" {
		t.Errorf("sent %v, got %v", seen, res.Header)
	}
}

// TestForwardTakesTurns: questions that nobody answers do not pile up.
func TestForwardTakesTurns(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(headerNode, "b")
		arrived <- struct{}{}
		<-release
	}))
	defer srv.Close()
	f := newForwarder(&Server{NodeID: "a", Nodes: func() []Node { return []Node{{ID: "b", AdminAddr: strings.TrimPrefix(srv.URL, "http://")}} }}, nil)
	done := make(chan int, maxForwards)
	for range maxForwards {
		go func() { done <- do(f, local("GET", "/status?forward=b")).Code }()
	}
	for range maxForwards {
		<-arrived
	}
	if rec := do(f, local("GET", "/status?forward=b")); rec.Code != 503 {
		t.Errorf("got %d with %d under way, want 503", rec.Code, maxForwards)
	}
	close(release)
	for range maxForwards {
		if code := <-done; code != 200 {
			t.Errorf("got %d", code)
		}
	}
}

// late is a transport over which no answer comes.
type late struct{}

func (late) RoundTrip(r *http.Request) (*http.Response, error) {
	if deadline, ok := r.Context().Deadline(); !ok || time.Until(deadline) > forwardTimeout {
		return nil, errors.New("the request has no deadline")
	}
	return nil, &net.OpError{Op: "read", Err: context.DeadlineExceeded}
}

func TestForwardTimeout(t *testing.T) {
	f := newForwarder(&Server{Nodes: func() []Node { return []Node{{ID: "b", AdminAddr: "192.0.2.1:1"}} }}, nil)
	f.transport = late{}
	rec := do(f, local("GET", "/status?forward=b"))
	if rec.Code != 504 || rec.Header().Get(fault.HeaderError) != string(fault.UpstreamTimeout) || !strings.Contains(rec.Body.String(), "did not answer in time") {
		t.Errorf("got %d %s", rec.Code, rec.Body)
	}
}

// TestForwardBreaksOff: half an answer must not look whole.
func TestForwardBreaksOff(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(headerNode, "b")
		io.WriteString(w, `{"one":1}`)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()
	aURL := forwardCluster(t, strings.TrimPrefix(srv.URL, "http://"))
	client := &Client{URL: aURL, Forward: "b"}
	res, err := client.client().Get(aURL + "/status?forward=b")
	if err == nil {
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	if err == nil {
		t.Error("the answer looks whole")
	}
}

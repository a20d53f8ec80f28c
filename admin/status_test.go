package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"piko/events"
	"piko/fault"
)

// testSource knows the endpoints with their tunnels, and loads of some.
func testSource(endpoints map[string]int, loads map[string]Load) *Source {
	return &Source{
		Self:      func() NodeOverview { return NodeOverview{ID: "one", State: StateActive} },
		Endpoints: func() iter.Seq2[string, int] { return maps.All(endpoints) },
		Size:      func() int { return len(endpoints) },
		Endpoint: func(name string) (Endpoint, bool) {
			_, ok := endpoints[name]
			return Endpoint{Endpoint: name, Nodes: []string{"one"}}, ok
		},
		Name: func(_, endpoint string) (string, error) {
			if strings.Contains(endpoint, " ") {
				return "", fault.InvalidEndpoint
			}
			return endpoint, nil
		},
		Loads:     func() map[string]Load { return maps.Clone(loads) },
		Traffic:   func(string) Traffic { return Traffic{} },
		Upstreams: func(string) iter.Seq[Upstream] { return func(func(Upstream) bool) {} },
	}
}

func TestEndpointsAreSearchedAndSorted(t *testing.T) {
	s := &Server{Source: testSource(
		map[string]int{"a": 1, "b": 3, "c": 2, "shop-1": 1, "shop-2": 1},
		map[string]Load{"a": {RequestsPerSecond: 5, P99: 0.1}, "c": {RequestsPerSecond: 9, ErrorsPerSecond: 1, P99: 0.5}, "gone": {RequestsPerSecond: 99}},
	)}
	h := s.Handler()
	for query, want := range map[string]string{
		"":                           "[a b c shop-1 shop-2] of 5",
		"sort=name&order=desc":       "[shop-2 shop-1 c b a] of 5",
		"sort=rps":                   "[c a b shop-1 shop-2] of 5",
		"sort=rps&order=asc":         "[b shop-1 shop-2 a c] of 5",
		"sort=errors&limit=1":        "[c] of 5",
		"sort=p99&limit=2":           "[c a] of 5",
		"sort=tunnels&limit=2":       "[b c] of 5",
		"search=SHOP":                "[shop-1 shop-2] of 2",
		"search=shop&offset=1":       "[shop-2] of 2",
		"offset=9":                   "[] of 5",
		"limit=0":                    "[] of 5",
		"search=none":                "[] of 0",
		"limit=1000&offset=00000001": "[b c shop-1 shop-2] of 5",
	} {
		rec := do(h, local("GET", "/status/endpoints?"+query))
		var list EndpointList
		if err := json.Unmarshal(rec.Body.Bytes(), &list); err != nil || list.Total != 5 || list.Partial == nil || list.Endpoints == nil {
			t.Errorf("%s: %d %s", query, rec.Code, rec.Body)
		}
		names := []string{}
		for _, e := range list.Endpoints {
			names = append(names, e.Endpoint)
		}
		if got := fmt.Sprint(names, " of ", list.Matched); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	for _, query := range []string{"limit=1001", "limit=-1", "limit=x", "offset=-1", "offset=99999999999999999999", "sort=x", "order=x"} {
		if rec := do(h, local("GET", "/status/endpoints?"+query)); rec.Code != 400 || !strings.Contains(rec.Body.String(), "use ") {
			t.Errorf("%s: %d %s", query, rec.Code, rec.Body)
		}
	}
}

// TestFirstKeepsTheLeast of many more than it has room for.
func TestFirstKeepsTheLeast(t *testing.T) {
	f := first[int]{n: 3, compare: func(a, b int) int { return a - b }}
	for i := range 10_000 {
		f.add((i*7919 + 13) % 10_000)
	}
	if got := f.sorted(); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("got %v", got)
	}
	if cap(f.list) > 5000 {
		t.Errorf("it has kept %d", cap(f.list))
	}
}

func TestMerge(t *testing.T) {
	at := time.Unix(1000, 0)
	point := func(seconds, requests, errors int, p50, p99 float64) Point {
		return Point{at.Add(time.Duration(seconds) * time.Second), requests, errors, p50, p99}
	}
	a := Traffic{
		Load:         Load{InFlight: 1, RequestsPerSecond: 30, ErrorsPerSecond: 1, P50: 1, P99: 2},
		Points:       []Point{point(0, 1, 0, 1, 1), point(5, 3, 1, 1, 1)},
		RecentErrors: []RecentError{{Time: at, Code: "old"}},
	}
	b := Traffic{
		Load:         Load{InFlight: 2, RequestsPerSecond: 10, P50: 5, P99: 9},
		Points:       []Point{point(5, 1, 0, 5, 2), point(10, 5, 0, 1, 1)},
		RecentErrors: []RecentError{{Time: at.Add(time.Second), Code: "new"}},
	}
	got := a.merge(b)
	if want := (Load{InFlight: 3, RequestsPerSecond: 40, ErrorsPerSecond: 1, P50: 2, P99: 9}); got.Load != want {
		t.Errorf("load %+v, want %+v", got.Load, want)
	}
	if want := []Point{point(0, 1, 0, 1, 1), point(5, 4, 1, 2, 2), point(10, 5, 0, 1, 1)}; !slices.Equal(got.Points, want) {
		t.Errorf("points %+v", got.Points)
	}
	if len(got.RecentErrors) != 2 || got.RecentErrors[0].Code != "new" {
		t.Errorf("errors %+v", got.RecentErrors)
	}
	if got := (Load{}).merge(Load{}); got != (Load{}) {
		t.Errorf("nothing and nothing: %+v", got)
	}
	many := Traffic{RecentErrors: make([]RecentError, 40)}
	if got := len(many.merge(many).RecentErrors); got != maxErrors {
		t.Errorf("%d errors", got)
	}
}

// TestActions: who may drain and disconnect.
func TestActions(t *testing.T) {
	var drained, disconnected atomic.Int32
	s := &Server{
		Drain:      func() Drain { drained.Add(1); return Drain{TunnelsLeft: 3} },
		Disconnect: func(id string) bool { disconnected.Add(1); return id == "one.1" },
	}
	h := s.Handler()
	guarded := &Server{Drain: s.Drain, Disconnect: s.Disconnect, Auth: func(r *http.Request) (string, error) {
		if r.Header.Get("Authorization") != "Bearer good" {
			return "", fault.MissingAuthorization
		}
		return "Authorization", nil
	}}
	far := func(r *http.Request) *http.Request { r.RemoteAddr = "192.0.2.1:1"; return r }
	with := func(r *http.Request, name, value string) *http.Request { r.Header.Set(name, value); return r }
	for _, tt := range []struct {
		why    string
		h      http.Handler
		r      *http.Request
		status int
		body   string
	}{
		{"a program on this machine", h, local("POST", "/status/drain"), 200, `"tunnels_left":3`},
		{"a program elsewhere", h, far(local("POST", "/status/drain")), 403, "loopback"},
		{"a proxy on this machine", h, with(local("POST", "/status/drain"), "X-Forwarded-For", "192.0.2.1"), 403, "loopback"},
		{"a page of another site", h, with(local("POST", "/status/drain"), "Sec-Fetch-Site", "cross-site"), 403, "other sites"},
		{"a page of another origin", h, with(local("POST", "/status/drain"), "Origin", "http://evil.example"), 403, "other sites"},
		{"by GET", h, local("GET", "/status/drain"), 405, "method-not-allowed"},
		{"no token", guarded.Handler(), local("POST", "/status/drain"), 401, "missing"},
		{"a token, from elsewhere", guarded.Handler(), with(far(local("POST", "/status/drain")), "Authorization", "Bearer good"), 200, "tunnels_left"},
		{"a token, and a page of another site", guarded.Handler(), with(with(local("POST", "/status/drain"), "Authorization", "Bearer good"), "Sec-Fetch-Site", "cross-site"), 403, "other sites"},
		{"a tunnel", h, local("POST", "/status/upstreams/one.1/disconnect"), 200, `{"id":"one.1"}`},
		{"a tunnel of nobody", h, local("POST", "/status/upstreams/one.2/disconnect"), 404, "no such tunnel"},
		{"a tunnel by GET", h, local("GET", "/status/upstreams/one.1/disconnect"), 405, ""},
		{"a tunnel, from elsewhere", h, far(local("POST", "/status/upstreams/one.1/disconnect")), 403, "loopback"},
		{"a path too long", h, local("POST", "/status/upstreams/one.1/disconnect/x"), 404, ""},
		{"a node that cannot", (&Server{}).Handler(), local("POST", "/status/drain"), 404, ""},
	} {
		if rec := do(tt.h, tt.r); rec.Code != tt.status || !strings.Contains(rec.Body.String(), tt.body) {
			t.Errorf("%s: got %d %s, want %d %q", tt.why, rec.Code, rec.Body, tt.status, tt.body)
		}
	}
	if d, c := drained.Load(), disconnected.Load(); d != 2 || c != 2 {
		t.Errorf("%d drains and %d disconnects, want 2 and 2", d, c)
	}
}

// TestActionsAreForwarded to the node that is meant, and streams to none.
func TestActionsAreForwarded(t *testing.T) {
	two := &Server{NodeID: "two", Disconnect: func(id string) bool { return id == "two.1" }}
	srv := httptest.NewServer(two.Handler())
	defer srv.Close()
	one := &Server{NodeID: "one", Events: events.NewLog(), Nodes: func() []Node {
		return []Node{{ID: "one", Status: StatusActive}, {ID: "two", Status: StatusActive, AdminAddr: strings.TrimPrefix(srv.URL, "http://")}}
	}}
	h := one.Handler()
	for _, tt := range []struct {
		method, target string
		status         int
	}{
		{"POST", "/status/upstreams/two.1/disconnect?forward=two", 200},
		{"POST", "/status/upstreams/two.2/disconnect?forward=two", 404},
		{"POST", "/status/upstreams/two.1/disconnect?forward=three", 404},
		{"POST", "/health?forward=two", 405},
		{"DELETE", "/status/upstreams/two.1/disconnect?forward=two", 405},
		{"GET", "/status/events?forward=two", 403},
		{"GET", "/status/live?forward=two", 403},
	} {
		if rec := do(h, local(tt.method, tt.target)); rec.Code != tt.status {
			t.Errorf("%s %s: got %d %s, want %d", tt.method, tt.target, rec.Code, rec.Body, tt.status)
		}
	}
}

// TestGatherBoundsTheTime of a node that does not answer, and says what is missing.
func TestGatherBoundsTheTime(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer silent.Close()
	defer close(release)
	rubbish := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(headerNode, "rubbish")
		fmt.Fprint(w, "<html>")
	}))
	defer rubbish.Close()
	old := httptest.NewServer(http.NotFoundHandler())
	defer old.Close()
	addr := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	s := &Server{NodeID: "one", Source: testSource(map[string]int{"e": 1}, nil), Nodes: func() []Node {
		return []Node{
			{ID: "silent", Status: StatusActive, AdminAddr: addr(silent)}, {ID: "rubbish", Status: StatusDraining, AdminAddr: addr(rubbish)},
			{ID: "old", Status: StatusActive, AdminAddr: addr(old)}, {ID: "dead", Status: StatusUnreachable}, {ID: "left", Status: StatusLeft}, {ID: "one", Status: StatusActive},
		}
	}}
	rec := do(s.Handler(), local("GET", "/status/overview?cluster=true"))
	var o Overview
	if err := json.Unmarshal(rec.Body.Bytes(), &o); err != nil || len(o.Nodes) != 5 {
		t.Fatalf("got %s, %v", rec.Body, err)
	}
	why := map[string]string{"silent": "did not answer in time", "rubbish": "read the answer", "old": "unreachable", "dead": "unreachable"}
	for _, p := range o.Partial {
		if want := why[p.Node]; want == "" || !strings.Contains(p.Error, want) {
			t.Errorf("%s: %s, want %s", p.Node, p.Error, want)
		}
		delete(why, p.Node)
	}
	if len(why) > 0 {
		t.Errorf("nothing is said of %v", why)
	}
}

// TestViewersAreBounded and share what they see.
func TestViewersAreBounded(t *testing.T) {
	var looks atomic.Int32
	source := testSource(nil, nil)
	source.Self = func() NodeOverview { looks.Add(1); return NodeOverview{ID: "one"} }
	s := &Server{Source: source, Events: events.NewLog()}
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	for _, path := range []string{"/status/live", "/status/events"} {
		ctx, cancel := context.WithCancel(t.Context())
		var bodies []*http.Response
		open := func() *http.Response {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			bodies = append(bodies, res)
			return res
		}
		for range maxViewers {
			res := open()
			if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || res.StatusCode != 200 {
				t.Fatalf("%s: %d %q, %v", path, res.StatusCode, line, err)
			}
		}
		if res := open(); res.StatusCode != 503 {
			t.Errorf("%s: one viewer more gets %d", path, res.StatusCode)
		}
		cancel()
		for _, res := range bodies {
			res.Body.Close()
		}
	}
	srv.Client().CloseIdleConnections()
	if got := looks.Load(); got > maxViewers/2 {
		t.Errorf("%d viewers made the node look %d times", maxViewers, got)
	}
}

// TestLiveLooksOnceASecond whoever asks, and another viewer does not wait for one
// that has gone.
func TestLiveLooksOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l live
		var looks atomic.Int32
		see := func(ctx context.Context) []byte {
			return l.see(ctx, "k", func() any { <-time.After(100 * time.Millisecond); return looks.Add(1) })
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		answers := make(chan []byte, 10)
		for range 10 {
			go func() { answers <- see(t.Context()) }()
		}
		synctest.Wait()
		if got := see(gone); got != nil {
			t.Errorf("one that has gone sees %s", got)
		}
		for range 10 {
			if got := <-answers; !bytes.Equal(got, []byte("1")) {
				t.Errorf("got %s", got)
			}
		}
		<-time.After(livePause)
		if got := see(t.Context()); !bytes.Equal(got, []byte("2")) {
			t.Errorf("a second later: %s", got)
		}
		<-time.After(time.Minute)
		l.see(t.Context(), "other", func() any { return nil })
		if len(l.pictures) != 1 {
			t.Errorf("%d pictures are kept", len(l.pictures))
		}
	})
}

// FuzzEndpointQuery: whatever is asked for, what is shown is within bounds.
func FuzzEndpointQuery(f *testing.F) {
	for _, q := range []string{"", "search=a&sort=rps&order=desc&limit=5&offset=1", "limit=1001", "offset=-1", "sort=", "search=%zz", "limit=&limit=7"} {
		f.Add(q)
	}
	h := (&Server{Source: testSource(map[string]int{"a": 1, "b": 2, "c": 3}, nil)}).Handler()
	f.Fuzz(func(t *testing.T, query string) {
		r := local("GET", "/status/endpoints")
		r.URL.RawQuery = query
		if r.URL.Query().Has(forwardParam) {
			return
		}
		rec := do(h, r)
		var list EndpointList
		switch err := json.Unmarshal(rec.Body.Bytes(), &list); {
		case rec.Code == 400 && strings.Contains(rec.Body.String(), "malformed-request"):
		case rec.Code != 200 || err != nil || len(list.Endpoints) > list.Matched || list.Matched > list.Total || list.Total != 3:
			t.Errorf("%q: %d %s", query, rec.Code, rec.Body)
		}
	})
}

// BenchmarkEndpoints100000 is a page of a list of 100,000 endpoints.
func BenchmarkEndpoints100000(b *testing.B) {
	endpoints, loads := make(map[string]int), make(map[string]Load)
	for i := range 100_000 {
		name := fmt.Sprintf("endpoint-%d", i)
		if endpoints[name] = 1 + i%3; i%100 == 0 {
			loads[name] = Load{RequestsPerSecond: float64(i % 977)}
		}
	}
	h := (&Server{Source: testSource(endpoints, loads)}).Handler()
	for _, query := range []string{"search=99&limit=100", "sort=rps&limit=100", "sort=name&limit=100&offset=500"} {
		b.Run(query, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if rec := do(h, local("GET", "/status/endpoints?"+query)); rec.Code != 200 {
					b.Fatal(rec.Body)
				}
			}
		})
	}
}

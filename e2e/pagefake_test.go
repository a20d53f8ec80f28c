//go:build e2e

package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/admin"
	adminpage "piko/admin/page"
	"piko/fault"
)

// evil is a text that would be an image, and then a script, if it ever became HTML.
const evil = `<img src=x onerror="window.hacked=1"><b>"&'`

// pageFake is the admin port of a cluster that does not exist, with the page before it: as
// many endpoints as wanted, errors of all kinds, nodes in all states.
type pageFake struct {
	*httptest.Server
	endpoints []admin.Endpoint // sorted by name; not changed
	began     time.Time

	token string      // "" asks for none
	mute  atomic.Bool // streams stay open and say nothing

	mu     sync.Mutex
	posts  []string                    // paths of what was posted
	asked  int                         // streams that were opened
	cut    chan struct{}               // closed to end the streams, and replaced
	sorted map[string][]admin.Endpoint // by ?sort= and ?order=
}

func startPageFake(t testing.TB, endpoints int, token string) *pageFake {
	t.Helper()
	f := &pageFake{began: time.Now(), token: token, cut: make(chan struct{}), sorted: map[string][]admin.Endpoint{}}
	for i := range endpoints {
		f.endpoints = append(f.endpoints, fakeEndpoint(i))
	}
	mux := http.NewServeMux()
	web := adminpage.Handler()
	mux.Handle("/ui/", web)
	mux.Handle("/{$}", web)
	mux.HandleFunc("GET /status/overview", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(f.overview()) })
	mux.HandleFunc("GET /status/endpoints", f.list)
	mux.HandleFunc("GET /status/endpoints/{endpoint}", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(f.detail(r.PathValue("endpoint")))
	})
	mux.HandleFunc("GET /status/live", f.live)
	mux.HandleFunc("POST /status/", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.posts = append(f.posts, r.URL.String())
		w.WriteHeader(http.StatusAccepted)
	})
	f.Server = httptest.NewServer(f.gate(mux))
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

// gate is what the page meets on a port with tokens.
func (f *pageFake) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/status/") && f.token != "" && r.Header.Get("Authorization") != "Bearer "+f.token {
			fault.Write(w, r, fault.InvalidToken)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// posted is what was posted so far.
func (f *pageFake) posted() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.posts, " ")
}

// streams is how many streams were opened so far.
func (f *pageFake) streams() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// hangUp ends all streams.
func (f *pageFake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.cut)
	f.cut = make(chan struct{})
}

func fakeEndpoint(i int) admin.Endpoint {
	e := admin.Endpoint{Endpoint: fmt.Sprintf("orders-%05d", i), Nodes: []string{"fra-1", "fra-2"}}
	e.Tunnels, e.InFlight = 1+i%4, i%7
	e.RequestsPerSecond = float64(i*7919%10007) / 40
	e.P50, e.P99 = 0.0021+float64(i%13)/1000, 0.018+float64(i%31)/100
	if i%5 == 0 {
		e.Tenant = "acme"
	}
	if i%17 == 0 {
		e.ErrorsPerSecond = float64(i%9) / 10
	}
	return e
}

func (f *pageFake) overview() admin.Overview {
	now := time.Now().UTC()
	load := func(tunnels int, rps, errors, p50, p99 float64) admin.Totals {
		return admin.Totals{Endpoints: len(f.endpoints), Load: admin.Load{Tunnels: tunnels, InFlight: tunnels / 9, RequestsPerSecond: rps + float64(now.Second()), ErrorsPerSecond: errors, P50: p50, P99: p99}}
	}
	o := admin.Overview{Time: now, NodeID: "fra-1", Partial: []admin.Partial{{Node: "ams-9", Error: "no answer within 2 s " + evil}}}
	o.Nodes = []admin.NodeOverview{
		{ID: "ams-9", State: "unreachable", AdminAddr: "10.2.0.9:8002"},
		{ID: "fra-1", State: "active", Version: "v1.0.0", StartedAt: f.began.Add(-53 * time.Hour), AdminAddr: "10.1.0.1:8002", Totals: load(1204, 1311.2, 0, 0.0021, 0.0382)},
		{ID: "fra-2", State: "active", Version: "v1.0.0-" + evil, StartedAt: f.began.Add(-53 * time.Hour), AdminAddr: "10.1.0.2:8002", Totals: load(1187, 1286.4, 0.31, 0.0024, 0.412)},
		{ID: "fra-3", State: "draining", Version: "v0.9.9", StartedAt: f.began.Add(-1200 * time.Hour), AdminAddr: "10.1.0.3:8002", Totals: load(311, 208.2, 0, 0.0022, 0.0391),
			Drain: &admin.Drain{StartedAt: now.Add(-time.Minute), TunnelsLeft: 311, RequestsLeft: 12, Deadline: new(now.Add(95 * time.Second))}},
	}
	o.Totals = load(2702, 2805.8, 0.31, 0.0022, 0.214)
	return o
}

// list is /status/endpoints.
func (f *pageFake) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	found := slices.DeleteFunc(slices.Clone(f.sort(q.Get("sort"), q.Get("order"))), func(e admin.Endpoint) bool { return !strings.Contains(e.Endpoint, q.Get("search")) })
	offset, _ := strconv.Atoi(q.Get("offset"))
	limit, _ := strconv.Atoi(q.Get("limit"))
	offset = min(offset, len(found))
	json.NewEncoder(w).Encode(admin.EndpointList{Total: len(f.endpoints), Matched: len(found), Endpoints: found[offset:min(offset+limit, len(found))], Partial: []admin.Partial{}})
}

// sort remembers what it has sorted: this is about the page's time, not the node's.
func (f *pageFake) sort(by, order string) []admin.Endpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	if list, ok := f.sorted[by+order]; ok {
		return list
	}
	list := slices.Clone(f.endpoints)
	slices.SortStableFunc(list, func(a, b admin.Endpoint) int {
		c := 0
		switch by {
		case "rps":
			c = cmp.Compare(a.RequestsPerSecond, b.RequestsPerSecond)
		case "errors":
			c = cmp.Compare(a.ErrorsPerSecond, b.ErrorsPerSecond)
		case "tunnels":
			c = cmp.Compare(a.Tunnels, b.Tunnels)
		case "p99":
			c = cmp.Compare(a.P99, b.P99)
		default:
			c = cmp.Compare(a.Endpoint, b.Endpoint)
		}
		if order == "desc" {
			c = -c
		}
		return c
	})
	f.sorted[by+order] = list
	return list
}

func (f *pageFake) detail(name string) admin.EndpointDetail {
	now := time.Now().UTC().Truncate(5 * time.Second)
	d := admin.EndpointDetail{Endpoint: fakeEndpoint(34), History: admin.History{Interval: 5}, Partial: []admin.Partial{}}
	d.Endpoint.Endpoint = name
	for i := range 180 {
		at := now.Add(time.Duration(i-179) * 5 * time.Second)
		p := admin.Point{Time: at, Requests: 300 + i*37%90 + i, P50: 0.002 + float64(i%11)/5000, P99: 0.02 + float64(i*7%23)/500}
		if i > 90 && i < 110 {
			p.Errors, p.P99 = 12+i%5, 0.41
		}
		if i > 30 && i < 36 {
			p.Requests, p.P50, p.P99 = 0, 0, 0
		}
		d.History.Points = append(d.History.Points, p)
	}
	for i, node := range []string{"fra-1", "fra-1", "fra-2", "fra-3"} {
		u := admin.Upstream{ID: fmt.Sprintf("%s/%d", node, i), Endpoint: name, Instance: "inst-" + strconv.Itoa(i), RemoteAddr: fmt.Sprintf("203.0.113.%d:49%d52", i+7, i), AgentVersion: "v1.0.0",
			Features: []string{"drain", "token"}, Node: node, Since: now.Add(-time.Duration(i*i*7+1) * time.Hour), InFlight: i, Requests: uint64(81231 * (i + 1)), BytesIn: uint64(9e8 * (i + 1)), BytesOut: uint64(4e6 * (i + 1)), Weight: 100}
		switch i {
		case 1:
			u.Errors, u.Weight = 412, 0
			u.LastError = &admin.UpstreamError{Time: now.Add(-42 * time.Second), Code: "upstream-unreachable", Detail: "dial tcp 127.0.0.1:3000: connect: connection refused"}
		case 2:
			u.AgentVersion = evil
			u.Errors, u.LastError = 1, &admin.UpstreamError{Time: now.Add(-26 * time.Hour), Detail: evil}
		case 3:
			u.Draining = true
		}
		d.Upstreams = append(d.Upstreams, u)
	}
	for i, e := range []admin.RecentError{
		{Code: "upstream-unreachable", Status: 502, Detail: "dial tcp 127.0.0.1:3000: connect: connection refused"},
		{Code: "upstream-timeout", Status: 504, Detail: "no response within 30s"},
		{Code: "", Status: 500, Detail: ""}, {Code: "", Status: 499, Detail: evil}, {Code: "from-the-future", Status: 599},
	} {
		e.Time, e.Node, e.Upstream = now.Add(-time.Duration(i*i*i)*time.Minute), "fra-2", "203.0.113.8:49152"
		d.RecentErrors = append(d.RecentErrors, e)
	}
	return d
}

// live sends an overview, and a detail if asked for, five times a second.
func (f *pageFake) live(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	f.mu.Lock()
	f.asked++
	cut := f.cut
	f.mu.Unlock()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	send := func(event string, v any) {
		data, _ := json.Marshal(v)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, data)
	}
	for {
		if !f.mute.Load() {
			send("overview", f.overview())
			if name := r.URL.Query().Get("endpoint"); name != "" {
				send("endpoint", f.detail(name))
			}
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-cut:
			return
		}
	}
}

package admin

import (
	"encoding/json"
	"iter"
	"maps"
	"strings"
	"testing"
	"time"
)

// testCluster is a node with three others, in no order.
func testCluster() *Server {
	expiry := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := testServer()
	s.NodeID = "b"
	s.Nodes = func() []Node {
		return []Node{
			{
				ID: "b", Epoch: "b-1", Status: StatusActive, ProxyAddr: "10.0.0.2:8000", AdminAddr: "10.0.0.2:8002", GossipAddr: "10.0.0.2:8003",
				Endpoints: 2, Upstreams: 3, Version: 7, Synced: true,
				Serves: maps.All(map[string]int{"two": 2, "one": 1}),
			},
			{ID: "d", Status: StatusLeft, Expiry: expiry},
			{ID: "a", Status: StatusDraining, ProxyAddr: "[2001:db8::1]:8000", AdminAddr: "[2001:db8::1]:8002", GossipAddr: "[2001:db8::1]:8003"},
			{ID: "c", Status: StatusUnreachable, Expiry: expiry},
		}
	}
	return s
}

// TestClusterRoutes has the bodies byte for byte: v0.9.0's tools read them.
func TestClusterRoutes(t *testing.T) {
	const none, soon = `"0001-01-01T00:00:00Z"`, `"2026-01-02T03:04:05Z"`
	tests := []struct {
		path   string
		status int
		body   string
	}{
		{"/status/cluster/nodes", 200, `[` +
			`{"id":"a","status":"draining","proxy_addr":"[2001:db8::1]:8000","admin_addr":"[2001:db8::1]:8002","endpoints":0,"upstreams":0},` +
			`{"id":"b","status":"active","proxy_addr":"10.0.0.2:8000","admin_addr":"10.0.0.2:8002","endpoints":2,"upstreams":3},` +
			`{"id":"c","status":"unreachable","proxy_addr":"","admin_addr":"","endpoints":0,"upstreams":0},` +
			`{"id":"d","status":"left","proxy_addr":"","admin_addr":"","endpoints":0,"upstreams":0}]`},
		{"/status/cluster/nodes/local", 200, `{"id":"b","status":"active","proxy_addr":"10.0.0.2:8000","admin_addr":"10.0.0.2:8002","endpoints":{"one":1,"two":2}}`},
		{"/status/cluster/nodes/b", 200, `{"id":"b","status":"active","proxy_addr":"10.0.0.2:8000","admin_addr":"10.0.0.2:8002","endpoints":{"one":1,"two":2}}`},
		{"/status/cluster/nodes/c", 200, `{"id":"c","status":"unreachable","proxy_addr":"","admin_addr":"","endpoints":{}}`},
		{"/status/cluster/nodes/e", 404, `{"error":"unknown node \"e\"","code":"not-found"}`},
		{"/status/cluster/nodes/", 404, `{"error":"not found","code":"not-found"}`},
		{"/status/cluster/nodes/b/x", 404, `{"error":"not found","code":"not-found"}`},
		{"/status/gossip/nodes", 200, `[` +
			`{"id":"a","addr":"[2001:db8::1]:8003","version":0,"left":false,"unreachable":false,"expiry":` + none + `},` +
			`{"id":"b","addr":"10.0.0.2:8003","version":7,"left":false,"unreachable":false,"expiry":` + none + `},` +
			`{"id":"c","addr":"","version":0,"left":false,"unreachable":true,"expiry":` + soon + `},` +
			`{"id":"d","addr":"","version":0,"left":true,"unreachable":false,"expiry":` + soon + `}]`},
		{"/status/gossip/nodes/b", 200, `{"id":"b","addr":"10.0.0.2:8003","version":7,"left":false,"unreachable":false,"expiry":` + none + `,"Entries":[` +
			`{"key":"_internal:epoch","value":"b-1","version":0,"internal":true,"deleted":false},` +
			`{"key":"_internal:synced","value":"true","version":0,"internal":true,"deleted":false},` +
			`{"key":"admin_addr","value":"10.0.0.2:8002","version":0,"internal":false,"deleted":false},` +
			`{"key":"proxy_addr","value":"10.0.0.2:8000","version":0,"internal":false,"deleted":false},` +
			`{"key":"endpoint:one","value":"1","version":7,"internal":false,"deleted":false},` +
			`{"key":"endpoint:two","value":"2","version":7,"internal":false,"deleted":false}]}`},
		{"/status/gossip/nodes/e", 404, `{"error":"unknown node \"e\"","code":"not-found"}`},
	}
	h := testCluster().Handler()
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			rec := do(h, local("GET", tt.path))
			if rec.Code != tt.status || rec.Body.String() != tt.body+"\n" {
				t.Errorf("got %d\n%swant %d\n%s", rec.Code, rec.Body, tt.status, tt.body)
			}
			if rec := do(h, local("POST", tt.path)); tt.status == 200 && rec.Code != 405 {
				t.Errorf("POST: got %d, want 405", rec.Code)
			}
		})
	}
}

// TestNodeOfNobody: a node without a cluster has lists that are empty, not null.
func TestNodeOfNobody(t *testing.T) {
	h := (&Server{}).Handler()
	for path, want := range map[string]string{
		"/status/cluster/nodes":       "[]\n",
		"/status/gossip/nodes":        "[]\n",
		"/status/cluster/nodes/local": `{"error":"unknown node \"\"","code":"not-found"}` + "\n",
	} {
		if rec := do(h, local("GET", path)); rec.Body.String() != want {
			t.Errorf("%s: %d %q, want %q", path, rec.Code, rec.Body, want)
		}
	}
}

// TestNodesAskForNoEndpoints: the list must not cost what a million endpoints do.
func TestNodesAskForNoEndpoints(t *testing.T) {
	s := &Server{NodeID: "a", Nodes: func() []Node {
		var serves iter.Seq2[string, int] = func(func(string, int) bool) { t.Error("the endpoints were counted out") }
		return []Node{{ID: "a", Serves: serves}, {ID: "b"}}
	}}
	for _, path := range []string{"/status/cluster/nodes", "/status/gossip/nodes", "/status/cluster/nodes/b"} {
		if rec := do(s.Handler(), local("GET", path)); rec.Code != 200 {
			t.Errorf("%s: %d", path, rec.Code)
		}
	}
}

// FuzzNodeID: an id comes from the network and goes into an error text.
func FuzzNodeID(f *testing.F) {
	for _, id := range []string{"b", "local", "\x00", "a/b", "\u2028\x1b[31m", strings.Repeat("é", 2000)} {
		f.Add(id)
	}
	s := testCluster()
	f.Fuzz(func(t *testing.T, id string) {
		rec := do(s.Handler(), local("GET", "/status/cluster/nodes/"+pathEscape(id)))
		var v struct{ ID, Error string }
		if rec.Code == 301 || rec.Code == 307 {
			return // a path that is not clean
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil || (v.ID == "") == (v.Error == "") || rec.Body.Len() > 4096 {
			t.Errorf("%q: %d %.100q, %v", id, rec.Code, rec.Body, err)
		}
	})
}

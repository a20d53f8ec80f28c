package main

import (
	"encoding/json"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"piko/admin"
	"piko/fault"
)

// statusNodes is the cluster of the tests, as node-1 knows it; node-2 is at addr.
func statusNodes(addr string) []admin.Node {
	return []admin.Node{
		{
			ID: "node-2", Status: admin.StatusDraining, ProxyAddr: "10.0.0.2:8000", AdminAddr: addr, GossipAddr: "10.0.0.2:8003",
			Endpoints: 3, Upstreams: 6, Version: 7, Synced: true, Epoch: "e2",
			Serves: maps.All(map[string]int{"b": 2, "a": 1, "true": 3}),
		},
		{ID: "node-1", Status: admin.StatusActive, ProxyAddr: "10.0.0.1:8000", AdminAddr: "10.0.0.1:8002", GossipAddr: "10.0.0.1:8003"},
		{ID: "node-3", Status: admin.StatusUnreachable, Expiry: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
	}
}

// startStatus serves the admin ports of node-1, at the URL, and of node-2.
func startStatus(t *testing.T) string {
	t.Helper()
	two := &admin.Server{
		NodeID:    "node-2",
		Endpoints: func() iter.Seq2[string, int] { return maps.All(map[string]int{"b": 2, "a": 1, "true": 3}) },
		Nodes:     func() []admin.Node { return statusNodes("") },
	}
	twoSrv := httptest.NewServer(two.Handler())
	t.Cleanup(twoSrv.Close)
	one := &admin.Server{NodeID: "node-1", Nodes: func() []admin.Node { return statusNodes(strings.TrimPrefix(twoSrv.URL, "http://")) }}
	oneSrv := httptest.NewServer(one.Handler())
	t.Cleanup(oneSrv.Close)
	return oneSrv.URL
}

// TestStatusFormats has what is printed; {two} stands for node-2's admin port.
func TestStatusFormats(t *testing.T) {
	tests := []struct{ args, want string }{
		{"upstream endpoints", "{}\n"},
		{"upstream endpoints --forward node-2", "a: 1\nb: 2\n\"true\": 3\n"},
		{"upstream endpoints --forward node-2 -o json", "{\n  \"a\": 1,\n  \"b\": 2,\n  \"true\": 3\n}\n"},
		{"upstream endpoints --forward node-2 -o table", "ENDPOINT  UPSTREAMS\na         1\nb         2\ntrue      3\n"},
		{"cluster nodes --status draining", "nodes:\n- id: node-2\n  status: draining\n  proxy_addr: 10.0.0.2:8000\n  admin_addr: {two}\n  endpoints: 3\n  upstreams: 6\n"},
		{"cluster nodes --status left", "nodes: []\n"},
		{"cluster nodes --status left -o json", "{\n  \"nodes\": []\n}\n"},
		{"cluster nodes --forward node-2 -o table", "NODE    STATUS       PROXY          ADMIN          ENDPOINTS  UPSTREAMS\n" +
			"node-1  active       10.0.0.1:8000  10.0.0.1:8002  0          0\n" +
			"node-2  draining     10.0.0.2:8000  -              3          6\n" +
			"node-3  unreachable  -              -              0          0\n"},
		{"cluster node local", "id: node-1\nstatus: active\nproxy_addr: 10.0.0.1:8000\nadmin_addr: 10.0.0.1:8002\nendpoints: {}\n"},
		{"cluster node local --forward node-2", "id: node-2\nstatus: draining\nproxy_addr: 10.0.0.2:8000\nadmin_addr: \"\"\nendpoints:\n  a: 1\n  b: 2\n  \"true\": 3\n"},
		{"cluster node node-3 -o json", "{\n  \"id\": \"node-3\",\n  \"status\": \"unreachable\",\n  \"proxy_addr\": \"\",\n  \"admin_addr\": \"\",\n  \"endpoints\": {}\n}\n"},
		{"cluster node node-2 --forward node-2 -o table", "NODE    STATUS    PROXY          ADMIN\nnode-2  draining  10.0.0.2:8000  -\n\nENDPOINT  UPSTREAMS\na         1\nb         2\ntrue      3\n"},
		{"gossip nodes -o table", "NODE    ADDR           VERSION  LEFT  UNREACHABLE  EXPIRY\n" +
			"node-1  10.0.0.1:8003  0        no    no           -\n" +
			"node-2  10.0.0.2:8003  7        no    no           -\n" +
			"node-3  -              0        no    yes          2026-01-02T03:04:05Z\n"},
		{"gossip node node-3", "id: node-3\naddr: \"\"\nversion: 0\nleft: false\nunreachable: true\nexpiry: 2026-01-02T03:04:05Z\nentries:\n" +
			"- key: _internal:epoch\n  value: \"\"\n  version: 0\n  internal: true\n  deleted: false\n" +
			"- key: _internal:synced\n  value: \"false\"\n  version: 0\n  internal: true\n  deleted: false\n" +
			"- key: admin_addr\n  value: \"\"\n  version: 0\n  internal: false\n  deleted: false\n" +
			"- key: proxy_addr\n  value: \"\"\n  version: 0\n  internal: false\n  deleted: false\n"},
		{"gossip node local --forward node-2 -o table", "NODE    ADDR           VERSION  LEFT  UNREACHABLE  EXPIRY\nnode-2  10.0.0.2:8003  7        no    no           -\n\n" +
			"KEY               VALUE          VERSION  INTERNAL\n" +
			"_internal:epoch   e2             0        yes\n" +
			"_internal:synced  true           0        yes\n" +
			"admin_addr        -              0        no\n" +
			"proxy_addr        10.0.0.2:8000  0        no\n" +
			"endpoint:a        1              7        no\n" +
			"endpoint:b        2              7        no\n" +
			"endpoint:true     3              7        no\n"},
	}
	url := startStatus(t)
	addr := statusAddr(t, url)
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			args := append([]string{"server", "status", "--server.url", url}, strings.Fields(tt.args)...)
			status, stdout, stderr := runPiko(t, args...)
			if want := strings.ReplaceAll(tt.want, "{two}", addr); status != exitOK || stdout != want {
				t.Errorf("exit status %d, stderr %q, stdout\n%swant\n%s", status, stderr, stdout, want)
			}
		})
	}
}

// statusAddr is node-2's admin address, as node-1 says it.
func statusAddr(t *testing.T, url string) string {
	t.Helper()
	n, err := (&admin.Client{URL: url}).Node(t.Context(), "node-2")
	if err != nil {
		t.Fatal(err)
	}
	return n.AdminAddr
}

// TestStatusFormatsAgree: YAML and JSON of every command say the same.
func TestStatusFormatsAgree(t *testing.T) {
	url := startStatus(t)
	for _, args := range []string{"upstream endpoints", "cluster nodes", "cluster node node-2", "gossip nodes", "gossip node node-2"} {
		answer := map[string]string{}
		for _, format := range []string{"yaml", "json"} {
			status, stdout, stderr := runPiko(t, append(strings.Fields("server status --server.url "+url+" -o "+format), strings.Fields(args)...)...)
			if status != exitOK {
				t.Fatalf("%s: %s", args, stderr)
			}
			var v any
			if err := yaml.Unmarshal([]byte(stdout), &v); err != nil { // JSON is YAML
				t.Fatal(err)
			}
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			answer[format] = string(text)
		}
		if answer["yaml"] != answer["json"] {
			t.Errorf("%s: YAML says\n%s\nJSON\n%s", args, answer["yaml"], answer["json"])
		}
	}
}

func TestStatusErrors(t *testing.T) {
	t.Parallel()
	url := startStatus(t)
	proxyPort := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fault.Write(w, r, fault.MissingEndpoint) }))
	defer proxyPort.Close()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }))
	defer page.Close()
	tests := []struct {
		args   string
		status int
		want   []string // in stderr
	}{
		{"cluster node node-9 --server.url " + url, exitFailure, []string{"no such node", "/nodes/node-9", "piko server status cluster nodes lists them"}},
		{"gossip node node-9 --server.url " + url, exitFailure, []string{"no such node"}},
		{"gossip nodes --forward node-9 --server.url " + url, exitFailure, []string{"ask node node-9 through http://", "no such node"}},
		{"gossip nodes --forward node-3 --server.url " + url, exitFailure, []string{"ask node node-3 through http://", `node "node-3" is unreachable`, "502"}},
		{"cluster nodes --server.url " + proxyPort.URL, exitFailure, []string{"not the admin port", "the admin port is :8002 by default"}},
		{"cluster nodes --server.url " + page.URL, exitFailure, []string{"not the admin port"}},
		{"cluster nodes --server.url http://127.0.0.1:1", exitFailure, []string{"is the server running"}},
		{"cluster nodes --server.url http://me:CANARY@127.0.0.1:1", exitFailure, []string{"is the server running"}},
		{"cluster nodes --status gone", exitUsage, []string{"--status", "all", "unreachable", "Try: piko server status cluster nodes --help"}},
		{"cluster nodes --forward a/b", exitUsage, []string{"--forward", "letters, digits"}},
		{"cluster node", exitUsage, []string{"<node>", "Try: piko server status cluster node --help"}},
		{"cluster node a/b", exitUsage, []string{"letters, digits"}},
		{"cluster node .. --server.url " + url, exitFailure, []string{"no such node"}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			status, stdout, stderr := runPiko(t, append([]string{"server", "status"}, strings.Fields(tt.args)...)...)
			if status != tt.status || stdout != "" {
				t.Errorf("exit status %d, stdout %q", status, stdout)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr lacks %q:\n%s", want, stderr)
				}
			}
			if strings.Contains(stderr, "CANARY") {
				t.Errorf("a password is shown: %s", stderr)
			}
		})
	}
}

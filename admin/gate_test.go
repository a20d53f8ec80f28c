package admin

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"piko/fault"
)

// wantToken is an Auth that asks for the word "good".
func wantToken(r *http.Request) (string, error) {
	switch r.Header.Get("Authorization") {
	case "Bearer good":
		return "Authorization", nil
	case "":
		return "", fault.MissingAuthorization
	}
	return "", fault.InvalidToken
}

// TestOnlyProbesAreOpen has every route of a port that asks for tokens.
func TestOnlyProbesAreOpen(t *testing.T) {
	s := testServer()
	s.Auth = wantToken
	h := s.Handler()
	for path, want := range map[string]int{
		"/health": 200, "/ready": 200, "/health?verbose": 200,
		"/metrics": 401, "/status/upstream/endpoints": 401, "/status/cluster/nodes": 401, "/status/cluster/nodes/local": 401,
		"/status/gossip/nodes": 401, "/status/gossip/nodes/local": 401, "/debug/pprof/": 401, "/debug/pprof/heap": 401,
		"/debug/pprof/symbol": 401, "/": 401, "/other": 401, "//metrics": 401, "/health/": 401, "/health/../metrics": 401,
		"/ready/x": 401, "/%68ealth/..": 401, "/metrics?forward=b": 401, "/health?forward=b": 401, "/ready?forward=b": 401,
	} {
		r := local("GET", path)
		rec := do(h, r)
		if rec.Code != want {
			t.Errorf("%s: %d, want %d", path, rec.Code, want)
		}
		if want == 401 && !strings.HasPrefix(rec.Header().Get("Www-Authenticate"), "Bearer ") {
			t.Errorf("%s: WWW-Authenticate is %q", path, rec.Header().Get("Www-Authenticate"))
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		if rec := do(h, local(method, "/health")); rec.Code != 401 {
			t.Errorf("%s /health: %d", method, rec.Code)
		}
	}
	r := local("GET", "/metrics")
	r.Header.Set("Authorization", "Bearer bad")
	if rec := do(h, r); rec.Code != 401 {
		t.Errorf("a bad token: %d", rec.Code)
	}
}

// TestTokenOpensEverything is from afar, profiles included.
func TestTokenOpensEverything(t *testing.T) {
	s := testServer()
	s.Auth = wantToken
	h := s.Handler()
	for _, path := range []string{"/status/upstream/endpoints", "/status/cluster/nodes", "/debug/pprof/heap", "/debug/pprof/symbol"} {
		r := httptest.NewRequest("GET", "http://node.example.com"+path, nil)
		r.Header.Set("Authorization", "Bearer good")
		if rec := do(h, r); rec.Code != 200 {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
	}
	r := httptest.NewRequest("POST", "http://node.example.com/debug/pprof/symbol", nil)
	r.Header.Set("Authorization", "Bearer good")
	if rec := do(h, r); rec.Code != 200 {
		t.Errorf("POST: %d %s", rec.Code, rec.Body)
	}
}

// TestPagesOfOthersAreKeptOut is about requests that a browser makes for a page
// that somebody else wrote.
func TestPagesOfOthersAreKeptOut(t *testing.T) {
	tests := []struct {
		name, method, path, remote, host string
		header                           []string
		tls                              bool
		want                             int
	}{
		{"a form of another site", "POST", "/debug/pprof/symbol", "127.0.0.1:5", "localhost:8002", []string{"Origin", "https://attacker.example"}, false, 403},
		{"a form of another site, as a new browser says it", "POST", "/debug/pprof/symbol", "127.0.0.1:5", "localhost:8002", []string{"Sec-Fetch-Site", "cross-site"}, false, 403},
		{"a form of a file", "POST", "/debug/pprof/symbol", "127.0.0.1:5", "localhost:8002", []string{"Origin", "null"}, false, 403},
		{"a program", "POST", "/debug/pprof/symbol", "127.0.0.1:5", "localhost:8002", nil, false, 200},
		{"a page of this port", "POST", "/debug/pprof/symbol", "127.0.0.1:5", "localhost:8002", []string{"Origin", "http://localhost:8002", "Sec-Fetch-Site", "same-origin"}, false, 200},
		{"a program elsewhere", "POST", "/debug/pprof/symbol", "192.0.2.1:5", "node-1:8002", nil, false, 403},
		{"a name that was made to lead here", "GET", "/status/cluster/nodes", "127.0.0.1:5", "attacker.example:8002", nil, false, 403},
		{"such a name, at IPv6", "GET", "/metrics", "[::1]:5", "attacker.example:8002", nil, false, 403},
		{"such a name, with what proxies send", "GET", "/status/cluster/nodes", "127.0.0.1:5", "attacker.example", []string{"X-Forwarded-For", "10.0.0.1"}, false, 403},
		{"such a name with a dot behind", "GET", "/status/cluster/nodes", "127.0.0.1:5", "attacker.example.:8002", nil, false, 403},
		{"such a name that looks like ours", "GET", "/status/cluster/nodes", "127.0.0.1:5", "localhost.attacker.example", nil, false, 403},
		{"such a name asks for health only", "GET", "/health", "127.0.0.1:5", "attacker.example:8002", nil, false, 200},
		{"such a name with TLS", "GET", "/status/cluster/nodes", "127.0.0.1:5", "node.example.com:8002", nil, true, 200},
		{"localhost", "GET", "/status/cluster/nodes", "127.0.0.1:5", "localhost:8002", nil, false, 200},
		{"an address", "GET", "/status/cluster/nodes", "127.0.0.1:5", "10.0.0.5:8002", nil, false, 200},
		{"an IPv6 address", "GET", "/status/cluster/nodes", "[::1]:5", "[::1]:8002", nil, false, 200},
		{"the machine's own name", "GET", "/status/cluster/nodes", "127.0.0.1:5", "node-1:8002", nil, false, 200},
		{"a name from afar", "GET", "/status/cluster/nodes", "192.0.2.1:5", "piko.example.com:8002", nil, false, 200},
	}
	s := testServer()
	s.Gatherer = nil
	h := s.Handler()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, tt.path, nil)
			r.RemoteAddr, r.Host = tt.remote, tt.host
			for i := 0; i < len(tt.header); i += 2 {
				r.Header.Set(tt.header[i], tt.header[i+1])
			}
			if tt.tls {
				r.TLS = &tls.ConnectionState{}
			}
			if rec := do(h, r); rec.Code != tt.want {
				t.Errorf("%d %s, want %d", rec.Code, rec.Body, tt.want)
			}
		})
	}
}

// TestTokenGoesToMembersAlone asks node b through node a: the token that a
// consumed goes on, to the address of a node that the cluster knows, and only
// where the cluster can know that.
func TestTokenGoesToMembersAlone(t *testing.T) {
	var got []string
	b := testCluster()
	b.Auth = func(r *http.Request) (string, error) {
		got = append(got, r.Header.Get("Authorization")+"|"+r.Header.Get("Cookie")+"|"+r.Header.Get("X-Piko-Authorization"))
		return wantToken(r)
	}
	bSrv := httptest.NewServer(b.Handler())
	defer bSrv.Close()
	for _, tt := range []struct {
		name       string
		auth, pass bool
		to         string
		want       int
		sent       string // "" if b is not to hear of it
	}{
		{"with a secret", true, true, "b", 200, "Bearer good||"},
		{"without a secret", true, false, "b", 403, ""},
		{"to nobody", true, true, "c", 404, ""},
		{"to an address", true, true, "127.0.0.1:8002", 404, ""},
		{"to a URL", true, true, "http://127.0.0.1:8002", 404, ""},
		{"of a port that asks for none", false, true, "b", 401, "||"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got = nil
			a := testServer()
			a.NodeID, a.PassToken = "a", tt.pass
			if tt.auth {
				a.Auth = wantToken
			}
			a.Nodes = func() []Node {
				return []Node{{ID: "a", Status: StatusActive}, {ID: "b", Status: StatusActive, AdminAddr: strings.TrimPrefix(bSrv.URL, "http://")}}
			}
			aSrv := httptest.NewServer(a.Handler())
			defer aSrv.Close()
			res, body := ask(t, "GET", aSrv.URL+"/status/cluster/nodes?forward="+pathEscape(tt.to), "Authorization", "Bearer good", "Cookie", "secret=1", "X-Piko-Authorization", "")
			if res.StatusCode != tt.want {
				t.Errorf("%d %s, want %d", res.StatusCode, body, tt.want)
			}
			if sent := strings.Join(got, ";"); sent != tt.sent {
				t.Errorf("the other node got %q, want %q", sent, tt.sent)
			}
		})
	}
}

func TestClientSendsItsToken(t *testing.T) {
	s := testServer()
	s.Auth = wantToken
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	if _, err := (&Client{URL: srv.URL, Token: "good"}).Endpoints(t.Context()); err != nil {
		t.Error(err)
	}
	_, err := (&Client{URL: srv.URL, Token: "secret-token"}).Endpoints(t.Context())
	if err == nil || !strings.Contains(err.Error(), "--server.token-file") || strings.Contains(err.Error(), "secret-token") {
		t.Errorf("got %v", err)
	}
}

package admin

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"piko/fault"
)

// gone returns the URL of a port that nobody listens on.
func gone() string {
	srv := httptest.NewServer(nil)
	defer srv.Close()
	return srv.URL
}

func TestClientEndpoints(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("/prefix/", http.StripPrefix("/prefix", testServer().Handler()))
	mux.Handle("/", testServer().Handler())
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for _, suffix := range []string{"", "/", "/prefix", "/prefix/"} {
		got, err := (&Client{URL: srv.URL + suffix}).Endpoints(t.Context())
		if want := map[string]int{"one": 1, "two": 2}; err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: got %v, %v", suffix, got, err)
		}
	}
}

func TestClientErrors(t *testing.T) {
	answer := func(status int, body string) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			w.Write([]byte(body))
		}))
		t.Cleanup(srv.Close)
		return srv.URL
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fault.Write(w, r, fault.MissingEndpoint) }))
	defer proxy.Close()
	plain := answer(200, "{}")
	tests := []struct {
		name   string
		url    string
		is     error
		saying []string
	}{
		{"nobody listens", gone(), nil, []string{"connection refused", "is the server running"}},
		{"TLS where there is none", strings.Replace(plain, "http://", "https://", 1), http.ErrSchemeMismatch, []string{"use http://"}},
		{"the proxy port", proxy.URL, fault.MissingEndpoint, []string{"400", "missing endpoint id", "admin port is :8002"}},
		{"somebody's 404", answer(404, "404 page not found"), ErrNotAdmin, []string{"404", "admin port is :8002"}},
		{"a token is asked for", answer(401, `{"error":"missing authorization"}`), fault.MissingAuthorization, []string{"401", "token"}},
		{"a failing server", answer(500, ""), nil, []string{"500", "see the server's log"}},
		{"a page", answer(200, "<html>"), ErrNotAdmin, []string{"not the admin port"}},
		{"JSON of another shape", answer(200, `{"a":"b"}`), ErrNotAdmin, []string{"not the admin port"}},
		{"an answer that is cut off", answer(200, `{"a":`), ErrNotAdmin, []string{"not the admin port"}},
		{"no URL", "localhost:8002", nil, []string{`bad URL "localhost:8002"`, "http://localhost:8002"}},
		{"no host", "http://", nil, []string{"bad URL"}},
		{"odd bytes", "http://a\x7f", nil, []string{"bad URL"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := (&Client{URL: tt.url}).Endpoints(t.Context())
			if err == nil || got != nil {
				t.Fatalf("got %v, %v", got, err)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
			for _, want := range append(tt.saying, "get endpoints: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

func TestClientDoesNotShowThePassword(t *testing.T) {
	url := strings.Replace(gone(), "http://", "http://user:CANARY@", 1)
	if _, err := (&Client{URL: url}).Endpoints(t.Context()); err == nil || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("got %v", err)
	}
}

func TestClientStopsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&Client{URL: srv.URL, HTTPClient: srv.Client()}).Endpoints(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestClientOfACluster(t *testing.T) {
	aURL := forwardCluster(t, "")
	here, there := &Client{URL: aURL}, &Client{URL: aURL + "/?keep=1", Forward: "b"}
	if nodes, err := here.Nodes(t.Context()); err != nil || len(nodes) != 2 || nodes[1].ID != "b" {
		t.Errorf("nodes: %v, %v", nodes, err)
	}
	if n, err := here.Node(t.Context(), "local"); err != nil || n.ID != "a" {
		t.Errorf("local node: %v, %v", n, err)
	}
	if n, err := there.Node(t.Context(), "local"); err != nil || n.ID != "b" || n.Endpoints["two"] != 2 {
		t.Errorf("local node of the other: %v, %v", n, err)
	}
	if nodes, err := there.GossipNodes(t.Context()); err != nil || len(nodes) != 4 || !nodes[3].Left || !nodes[2].Unreachable {
		t.Errorf("gossip nodes: %v, %v", nodes, err)
	}
	if n, err := there.GossipNode(t.Context(), "b"); err != nil || n.Version != 7 || len(n.Entries) != 6 || n.Entries[5].Key != "endpoint:two" {
		t.Errorf("gossip node: %v, %v", n, err)
	}
	if got, err := there.Endpoints(t.Context()); err != nil || got["one"] != 1 {
		t.Errorf("endpoints: %v, %v", got, err)
	}
}

func TestClientKnowsAnUnknownNode(t *testing.T) {
	aURL := forwardCluster(t, strings.TrimPrefix(gone(), "http://"))
	empty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })) // as v0.9.0
	defer empty.Close()
	tests := []struct {
		name   string
		client Client
		id     string
		is     error
		saying string
	}{
		{"no such node", Client{URL: aURL}, "c", ErrUnknownNode, "status cluster nodes lists them"},
		{"an id with a slash", Client{URL: aURL}, "a/b", ErrUnknownNode, ""},
		{"an id that leads elsewhere", Client{URL: aURL}, "..", ErrUnknownNode, ""},
		{"no id", Client{URL: aURL}, "", ErrUnknownNode, ""},
		{"no node to forward to", Client{URL: aURL, Forward: "c"}, "a", ErrUnknownNode, ""},
		{"a node that is gone", Client{URL: aURL, Forward: "b"}, "a", fault.UpstreamUnreachable, "admin.advertise-addr"},
		{"v0.9.0's no such node", Client{URL: empty.URL}, "c", ErrUnknownNode, ""},
		{"v0.9.0's no node to forward to", Client{URL: empty.URL, Forward: "c"}, "local", ErrUnknownNode, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.client.Node(t.Context(), tt.id)
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.saying) {
				t.Errorf("got %v", err)
			}
			if _, err = tt.client.GossipNode(t.Context(), tt.id); !errors.Is(err, tt.is) {
				t.Errorf("gossip: got %v", err)
			}
		})
	}
	if _, err := (&Client{URL: empty.URL}).Nodes(t.Context()); !errors.Is(err, ErrNotAdmin) {
		t.Errorf("a route that is not there is %v", err)
	}
}

package admin

import (
	"strings"
	"testing"
)

const browserAccept = "text/html,application/xhtml+xml,*/*;q=0.8"

// TestPageNeedsNoToken: the page is the form that asks for one. What it shows
// stays behind the gate.
func TestPageNeedsNoToken(t *testing.T) {
	s := testServer()
	s.Auth = wantToken
	h := s.Handler()
	for _, tt := range []struct {
		method, path, accept string
		want                 int
	}{
		{"GET", "/", browserAccept, 200},
		{"HEAD", "/", browserAccept, 200},
		{"GET", "/", "*/*", 401},
		{"GET", "/ui/main.js", "*/*", 200},
		{"GET", "/ui/other.js", "*/*", 404},
		{"GET", "/ui/../metrics", "*/*", 401},
		{"GET", "/ui/%2e%2e/metrics", "*/*", 401},
		{"POST", "/ui/main.js", "*/*", 401},
		{"POST", "/", browserAccept, 401},
		{"GET", "/?forward=b", browserAccept, 401},
		{"GET", "/ui/main.js?forward=b", "*/*", 401},
		{"GET", "/status/cluster/nodes", browserAccept, 401},
		{"GET", "/metrics", browserAccept, 401},
	} {
		r := local(tt.method, tt.path)
		r.Header.Set("Accept", tt.accept)
		rec := do(h, r)
		if rec.Code != tt.want {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, rec.Code, tt.want)
		}
		if strings.Contains(rec.Body.String(), "piko_test_total") {
			t.Errorf("%s %s: metrics without a token", tt.method, tt.path)
		}
	}
}

// TestPageIsForBrowsers: programs get at "/" what they always got.
func TestPageIsForBrowsers(t *testing.T) {
	h := testServer().Handler()
	for accept, want := range map[string]int{browserAccept: 200, "text/html": 200, "*/*": 404, "": 404, "application/json": 404} {
		r := local("GET", "/")
		r.Header.Set("Accept", accept)
		rec := do(h, r)
		if rec.Code != want || !strings.Contains(strings.Join(rec.Header().Values("Vary"), ","), "Accept") {
			t.Errorf("Accept %q: %d, Vary %q, want %d", accept, rec.Code, rec.Header().Values("Vary"), want)
		}
	}
	if rec := do(h, local("POST", "/ui/main.js")); rec.Code != 405 || rec.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d", rec.Code)
	}
}

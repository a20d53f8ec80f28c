package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"piko/fault"
)

func TestReloadRoute(t *testing.T) {
	asked := 0
	s := &Server{NodeID: "n", Reload: func(context.Context) (*Reloaded, error) {
		if asked++; asked > 1 {
			return nil, &fault.Error{Code: fault.InvalidConfig, Detail: "the reason"}
		}
		return &Reloaded{Applied: []string{"log.level: was info, now debug"}, NeedsRestart: []string{}, Hash: "7"}, nil
	}}
	const local, far = "127.0.0.1:1", "10.0.0.1:1"
	for _, tt := range []struct {
		name, method, from, site string
		handler                  http.Handler
		want                     int
		text                     string
	}{
		{"GET", "GET", local, "", s.Handler(), 405, "method-not-allowed"},
		{"from afar", "POST", far, "", s.Handler(), 403, "forbidden"},
		{"by a page", "POST", local, "cross-site", s.Handler(), 403, "forbidden"},
		{"from here", "POST", local, "", s.Handler(), 200, `{"applied":["log.level: was info, now debug"],"needs_restart":[],"hash":"7"}`},
		{"with a mistake", "POST", local, "", s.Handler(), 422, "the reason"},
		{"of a node that has none", "POST", local, "", (&Server{}).Handler(), 404, "not-found"},
		{"through a gate from afar", "POST", far, "", Gate(ReloadHandler(s.Reload)), 403, "forbidden"},
		{"through a gate", "POST", local, "", Gate(ReloadHandler(s.Reload)), 422, "the reason"},
	} {
		r := httptest.NewRequest(tt.method, "http://localhost"+reloadPath, nil)
		r.RemoteAddr = tt.from
		if tt.site != "" {
			r.Header.Set("Sec-Fetch-Site", tt.site)
		}
		w := httptest.NewRecorder()
		tt.handler.ServeHTTP(w, r)
		if w.Code != tt.want || !strings.Contains(w.Body.String(), tt.text) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, w.Code, w.Body, tt.want, tt.text)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: no JSON: %s", tt.name, w.Body)
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times, want 3", asked)
	}
}

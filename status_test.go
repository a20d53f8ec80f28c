package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestStatusFormats(t *testing.T) {
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/status/upstream/endpoints" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"b":2,"a":1,"true":3}`))
	}))
	defer admin.Close()
	for format, want := range map[string]string{
		"yaml":  "a: 1\nb: 2\n\"true\": 3\n",
		"json":  "{\n  \"a\": 1,\n  \"b\": 2,\n  \"true\": 3\n}\n",
		"table": "ENDPOINT  UPSTREAMS\na         1\nb         2\ntrue      3\n",
	} {
		status, stdout, stderr := runPiko(t, "server", "status", "upstream", "endpoints", "--server.url", admin.URL, "-o", format)
		if status != exitOK || stdout != want {
			t.Errorf("%s: exit status %d, stderr %q, stdout\n%swant\n%s", format, status, stderr, stdout, want)
		}
	}
}

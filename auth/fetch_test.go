package auth

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fetch gets a key set from a handler, once.
func fetchFrom(t *testing.T, h http.HandlerFunc, cfg JWKS) (*loaded, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	return newFetcher(cfg, must(url.Parse(srv.URL+"/keys"))).load(t.Context(), nil)
}

// TestBadAnswersAreNoKeySet is about servers that are broken, or not ours.
func TestBadAnswersAreNoKeySet(t *testing.T) {
	good := jwks(rsaJWK("a", testKeys().rsa))
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"status 500": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); _, _ = io.WriteString(w, good) }, "status 500"},
		"status 304": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, "status 304"},
		"a page":     {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "not a key set"},
		"nothing":    {func(http.ResponseWriter, *http.Request) {}, "not a key set"},
		"a connection that breaks off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			_, _ = io.WriteString(w, good)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "read the key set"},
		"a redirect without end": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) }, "more than 3 redirects"},
		"a redirect to a file": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		}, "unsupported protocol scheme"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := fetchFrom(t, tt.handler, JWKS{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestEndlessKeySetIsCutOff has a server that would send for ever; what is read
// of it is bounded.
func TestEndlessKeySetIsCutOff(t *testing.T) {
	sent := make(chan int, 1)
	_, err := fetchFrom(t, func(w http.ResponseWriter, _ *http.Request) {
		n := 0
		chunk := []byte(strings.Repeat(" ", 64<<10))
		for n < 1<<30 {
			m, err := w.Write(chunk)
			n += m
			if err != nil {
				break
			}
		}
		sent <- n
	}, JWKS{})
	if !errors.Is(err, errKeySetSize) {
		t.Errorf("got %v", err)
	}
	if n := <-sent; n > 64<<20 { // what the buffers of two sockets hold is far less
		t.Errorf("%d bytes were taken", n)
	}
}

func TestSilentServerTimesOut(t *testing.T) {
	done := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
	defer srv.Close()
	defer close(done)
	_, err := newFetcher(JWKS{Timeout: 20 * time.Millisecond}, must(url.Parse(srv.URL))).load(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "Timeout") && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestRedirectNeverLeavesTLS(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		ok       bool
	}{
		{"https://a/", "https://b/", true},
		{"https://a/", "http://a/", false},
		{"http://a/", "https://a/", true},
		{"http://a/", "http://b/", true},
	} {
		err := checkRedirect(&http.Request{URL: must(url.Parse(tt.to))}, []*http.Request{{URL: must(url.Parse(tt.from))}})
		if (err == nil) != tt.ok {
			t.Errorf("from %s to %s: %v", tt.from, tt.to, err)
		}
	}
}

func TestRefreshOfAnAnswer(t *testing.T) {
	for _, tt := range []struct {
		cacheControl string
		ttl, want    time.Duration
	}{
		{"", 0, time.Hour},
		{"public, max-age=600", 0, 10 * time.Minute},
		{"max-age=0", 0, 5 * time.Minute},
		{"max-age=86400", 0, time.Hour},
		{"max-age=-5", 0, time.Hour},
		{"max-age=99999999999999999999", 0, time.Hour},
		{`max-age="900"`, 0, 15 * time.Minute},
		{"max-age=600", time.Minute, time.Minute},
		{"max-age=600", time.Nanosecond, 10 * time.Second},
		{"max-age=600", 48 * time.Hour, 48 * time.Hour},
	} {
		l, err := fetchFrom(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", tt.cacheControl)
			_, _ = io.WriteString(w, jwks())
		}, JWKS{CacheTTL: tt.ttl})
		if err != nil || l.refresh != tt.want {
			t.Errorf("%q with a TTL of %v: %v, %v", tt.cacheControl, tt.ttl, l.refresh, err)
		}
	}
}

// TestKeySetFileIsReadAgain changes the file in the ways that operators and
// Kubernetes do.
func TestKeySetFileIsReadAgain(t *testing.T) {
	k := testKeys()
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.json")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name string) { // as a secret's volume is changed
		t.Helper()
		if err := errors.Join(os.Symlink(name, path+".new"), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	write("first", jwks(rsaJWK("a", k.rsa)))
	link("first")
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier(t, Config{JWKS: JWKS{Endpoint: "file://" + path}})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = v.Run(ctx) }()
		defer func() { stop(); <-ended }()
		good := func(kid, step string) {
			t.Helper()
			pass(2 * filePoll)
			if _, err := v.Verify(token(t, kid)); err != nil {
				t.Errorf("%s: %v", step, err)
			}
		}
		good("a", "at first")
		write("second", jwks(rsaJWK("b", k.rsa)))
		link("second")
		good("b", "when the link leads elsewhere")
		wantRefused(t, v, token(t, "a"), "auth-unavailable", reasonUnknownKey)
		pass(2 * filePoll)
		wantRefused(t, v, token(t, "a"), "invalid-token", reasonUnknownKey)
		write("second", "half wr")
		good("b", "while it is half written")
		write("second", jwks(rsaJWK("c", k.rsa)))
		good("c", "when it is whole")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		good("c", "when it is gone")
		write("third", jwks(rsaJWK("d", k.rsa)))
		link("third")
		good("d", "when it is there again")
	})
}

func TestKeySetWithoutTLSIsWarnedOf(t *testing.T) {
	for endpoint, want := range map[string]bool{
		"http://idp.example/keys": true, "http://user:secret@10.0.0.5/keys": true,
		"https://idp.example/keys": false, "http://localhost:1/keys": false, "http://127.0.0.1/keys": false, "http://[::1]/keys": false,
	} {
		var log strings.Builder
		if _, err := NewVerifier(Config{JWKS: JWKS{Endpoint: endpoint}}, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "without TLS"); got != want || strings.Contains(log.String(), "secret") {
			t.Errorf("%s: %q", endpoint, log.String())
		}
	}
}

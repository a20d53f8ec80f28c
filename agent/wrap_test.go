package agent

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// wrapped notes what passes through Config.Wrap.
type wrapped struct {
	http.ResponseWriter
	mu     sync.Mutex
	failed error // guarded by mu
}

func (w *wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *wrapped) Failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = err
}

func (w *wrapped) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// wrapAgent runs an agent with a Wrap that hands out each request's wrapped.
func wrapAgent(t *testing.T, addr string) (a *testAgent, next func() http.Handler, seen <-chan *wrapped) {
	requests := make(chan *wrapped, 16)
	var inner http.Handler
	cfg := &Config{Wrap: func(endpoint, service string, next http.Handler) http.Handler {
		if endpoint != "my-endpoint" || service != addr {
			t.Errorf("wrap endpoint %q, service %q", endpoint, service)
		}
		inner = next
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			x := &wrapped{ResponseWriter: w}
			defer func() { requests <- x }()
			next.ServeHTTP(x, r)
		})
	}}
	a = startAgent(t, addr, func(o *agentOptions) { o.config = cfg })
	return a, func() http.Handler { return inner }, requests
}

func TestWrapSeesRequestsAndTheirFailures(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		io.Copy(w, r.Body)
	})
	a, _, seen := wrapAgent(t, service.URL)
	if got := a.mustGet("/"); got != "" {
		t.Errorf("answer %q", got)
	}
	if err := (<-seen).failure(); err != nil {
		t.Errorf("a request that went well has failed: %v", err)
	}
	if _, _, err := a.get("/broken"); err == nil {
		t.Error("an answer that was broken off was taken for whole")
	}
	if err := (<-seen).failure(); err == nil {
		t.Error("nobody was told that the answer was broken off")
	}
	service.Close()
	if status, _, err := a.get("/"); status != http.StatusBadGateway {
		t.Errorf("status %d, error %v without a service", status, err)
	}
	if _, dial := errors.AsType[*dialError]((<-seen).failure()); !dial {
		t.Error("nobody was told that the service was not reached")
	}
}

func TestRequestsThatNoClientSentAreForwarded(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		io.WriteString(w, r.Method+" "+r.RequestURI+" "+r.Host+" "+string(body))
	})
	_, next, _ := wrapAgent(t, service.URL)
	w := httptest.NewRecorder()
	next().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "PUT", "http://e.example.com/a?b", strings.NewReader("body")))
	if got := w.Body.String(); w.Code != http.StatusOK || got != "PUT http://e.example.com/a?b e.example.com body" && got != "PUT /a?b e.example.com body" {
		t.Errorf("status %d, %q", w.Code, got)
	}
}

package inspect

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually polls until check says nil, and fails with its last error.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never became true: %v", err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("never became true: %v", err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

var errNotYet = errors.New("not yet")

// inspected is an inspector in front of a service, and its page.
type inspected struct {
	*Inspector
	t    testing.TB
	next http.Handler // Wrap's
}

// start makes an inspector whose service is a func.
func start(t testing.TB, cfg Config, service http.HandlerFunc) *inspected {
	t.Helper()
	i := &inspected{Inspector: New(cfg), t: t}
	i.next = i.Wrap("my-endpoint", "3000", service)
	t.Cleanup(i.Close)
	return i
}

// send hands a request to the wrapped handler, as the agent's server does.
func (i *inspected) send(method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	for n := 0; n < len(header); n += 2 {
		r.Header.Add(header[n], header[n+1])
	}
	w := httptest.NewRecorder()
	i.next.ServeHTTP(w, r)
	return w
}

// call asks the page's handler.
func (i *inspected) call(method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "localhost:4040"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for n := 0; n < len(header); n += 2 {
		if header[n] == "Host" {
			r.Host = header[n+1]
		}
		r.Header.Set(header[n], header[n+1])
	}
	w := httptest.NewRecorder()
	i.Handler().ServeHTTP(w, r)
	return w
}

// get reads JSON from the page's handler.
func (i *inspected) get(target string, v any) {
	i.t.Helper()
	w := i.call("GET", target, "")
	if w.Code != http.StatusOK {
		i.t.Fatalf("GET %s: status %d: %s", target, w.Code, w.Body)
	}
	d := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	if err := d.Decode(v); err != nil {
		i.t.Fatalf("GET %s: %v: %s", target, err, w.Body)
	}
}

// list is the exchanges in the list.
func (i *inspected) list() []summary {
	i.t.Helper()
	var u update
	i.get("/api/exchanges", &u)
	return u.Changed
}

// one is the detail of the exchange with an id.
func (i *inspected) one(target string) detail {
	i.t.Helper()
	var d detail
	i.get(target, &d)
	return d
}

// echo answers with what it was sent.
func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	_, _ = io.Copy(w, r.Body)
}

// value finds a header in a list of them.
func value(headers [][2]string, name string) string {
	for _, h := range headers {
		if h[0] == name {
			return h[1]
		}
	}
	return ""
}

package inspect

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestExchangeIsShown(t *testing.T) {
	i := start(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, `{"short":true}`)
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Late", "2")
	})
	w := i.send("POST", "/hook?a=b", "name=value", "Content-Type", "application/x-www-form-urlencoded", "X-Forwarded-For", "192.0.2.1")
	if w.Code != http.StatusTeapot || w.Body.String() != `{"short":true}` {
		t.Errorf("the client got %d %q", w.Code, w.Body)
	}
	list := i.list()
	if len(list) != 1 {
		t.Fatalf("%d in the list", len(list))
	}
	s := list[0]
	if s.Method != "POST" || s.Path != "/hook?a=b" || s.Status != http.StatusTeapot || !s.Done || s.Failure != "" || s.Client != "192.0.2.1" ||
		s.RequestBytes != 10 || s.ResponseBytes != 14 || s.Endpoint != "my-endpoint" || s.Service != "3000" || s.Duration <= 0 || s.Kind != kindHTTP {
		t.Errorf("summary %+v", s)
	}
	d := i.one("/api/exchanges/1")
	if d.Request.Body.Text != "name=value" || d.Response.Body.Text != `{"short":true}` || d.Response.Body.Media != "application/json" || d.Replay != "" {
		t.Errorf("detail %+v", d)
	}
	if value(d.Trailers, "X-Sum") != "1" || value(d.Trailers, "X-Late") != "2" || value(d.Response.Headers, "Content-Type") == "" {
		t.Errorf("trailers %v, headers %v", d.Trailers, d.Response.Headers)
	}
}

func TestFailuresAreMarked(t *testing.T) {
	i := start(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/told":
			w.(interface{ Failed(error) }).Failed(errors.New("connect to service: refused"))
			w.WriteHeader(http.StatusBadGateway)
		case "/cut":
			io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		}
	})
	i.send("GET", "/told", "")
	func() {
		defer func() {
			if v := recover(); v != http.ErrAbortHandler {
				t.Errorf("the panic became %v", v)
			}
		}()
		i.send("GET", "/cut", "")
	}()
	list := i.list()
	if s := list[0]; s.Failure != "connect to service: refused" || s.Status != http.StatusBadGateway || !s.Done {
		t.Errorf("%+v", s)
	}
	if s := list[1]; s.Failure == "" || s.Status != http.StatusOK || !s.Done || s.ResponseBytes != 4 {
		t.Errorf("%+v", s)
	}
}

func TestLongBodiesPassWholeAndAreKeptInPart(t *testing.T) {
	i := start(t, Config{MaxBody: 1000}, echo)
	body := strings.Repeat("0123456789", 1000)
	if w := i.send("POST", "/", body); w.Body.String() != body {
		t.Errorf("the client got %d bytes", w.Body.Len())
	}
	d := i.one("/api/exchanges/1")
	for _, b := range []bodyView{d.Request.Body, d.Response.Body} {
		if b.Size != 10000 || b.Kept != 1000 || b.Text != body[:1000] {
			t.Errorf("size %d, kept %d", b.Size, b.Kept)
		}
	}
	if d.Replay == "" {
		t.Error("a part of a body would be sent again as the whole")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	const maxBytes = 200 << 10
	i := start(t, Config{MaxBytes: maxBytes, MaxBody: 20 << 10}, echo)
	for n := range 200 {
		i.send("POST", fmt.Sprintf("/%d", n), strings.Repeat("x", 1+n*300))
		i.checkTotal(maxBytes)
	}
	list := i.list()
	if len(list) < 2 || list[len(list)-1].Path != "/199" {
		t.Errorf("%d are left", len(list))
	}
	if i.call("GET", "/api/exchanges/1", "").Code != http.StatusNotFound {
		t.Error("the first is still there")
	}
	var u update
	i.get("/api/exchanges", &u)
	if u.First != list[0].ID {
		t.Errorf("first %d, the list begins with %d", u.First, list[0].ID)
	}
	if w := i.call("DELETE", "/api/exchanges", ""); w.Code != http.StatusNoContent || len(i.list()) != 0 || i.store.total != 0 {
		t.Errorf("clear: status %d, %d left, %d bytes", w.Code, len(i.list()), i.store.total)
	}
}

func TestNumberOfExchangesIsBounded(t *testing.T) {
	s := newStore(DefaultMaxBytes, DefaultMaxBody)
	for range maxExchanges + 10 {
		s.add(&exchange{})
	}
	if len(s.list) != maxExchanges || s.list[0].id != 11 || s.total != maxExchanges*exchangeCost {
		t.Errorf("%d exchanges from %d on, %d bytes", len(s.list), s.list[0].id, s.total)
	}
}

// checkTotal compares the bytes that the store believes in with those that there
// are, and with the bound.
func (i *inspected) checkTotal(bound int) {
	i.t.Helper()
	s := i.store
	s.mu.Lock()
	defer s.mu.Unlock()
	total, bodies := 0, 0
	for _, x := range s.list {
		total += x.cost
		bodies += cap(x.request.data) + cap(x.response.data)
		for _, m := range x.messages {
			bodies += cap(m.data)
		}
	}
	if total != s.total || bodies > total {
		i.t.Fatalf("total is %d, the sum %d, the bodies alone have %d", s.total, total, bodies)
	}
	if total > bound && len(s.list) > 1 {
		i.t.Fatalf("%d bytes, bound %d", total, bound)
	}
}

func TestWhatIsForgottenStillPasses(t *testing.T) {
	release := make(chan struct{})
	i := start(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first ")
		<-release
		io.WriteString(w, "second")
	})
	done := make(chan *httptest.ResponseRecorder)
	go func() { done <- i.send("GET", "/", "") }()
	eventually(t, func() error {
		if list := i.list(); len(list) != 1 || list[0].ResponseBytes == 0 {
			return errNotYet
		}
		return nil
	})
	if s := i.list()[0]; s.Done || s.Status != http.StatusOK {
		t.Errorf("under way: %+v", s)
	}
	i.call("DELETE", "/api/exchanges", "")
	close(release)
	if w := <-done; w.Body.String() != "first second" {
		t.Errorf("the client got %q", w.Body)
	}
	if len(i.list()) != 0 || i.store.total != 0 {
		t.Errorf("%d bytes are left", i.store.total)
	}
}

func TestCompressedBodiesAreShownDecoded(t *testing.T) {
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	io.WriteString(g, `{"password":"hunter2","x":1}`)
	g.Close()
	i := start(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/br" {
			w.Header().Set("Content-Encoding", "br")
		} else {
			w.Header().Set("Content-Encoding", "gzip")
		}
		w.Write(z.Bytes())
	})
	if w := i.send("GET", "/", ""); !bytes.Equal(w.Body.Bytes(), z.Bytes()) {
		t.Error("the client got other bytes")
	}
	i.send("GET", "/br", "")
	if b := i.one("/api/exchanges/1").Response.Body; b.Text != `{"password":"[redacted]","x":1}` || b.Decoded != "gzip" || b.Size != int64(z.Len()) {
		t.Errorf("%+v", b)
	}
	if b := i.one("/api/exchanges/2").Response.Body; b.Undecoded != "br" || b.Base64 == "" {
		t.Errorf("%+v", b)
	}
}

func TestDecodedBodiesAreBounded(t *testing.T) {
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	g.Write(make([]byte, maxDecoded+1000))
	g.Close()
	if out, _, ok := decode(z.Bytes(), "gzip"); !ok || len(out) != maxDecoded {
		t.Errorf("%d bytes", len(out))
	}
	if out, _, ok := decode(z.Bytes()[:z.Len()/2], "gzip"); !ok || len(out) == 0 {
		t.Errorf("of a part: %d bytes", len(out))
	}
}

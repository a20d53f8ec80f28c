package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// service2 is a net/http service that speaks HTTP/2 without TLS; it returns a pool for it.
func service2(t testing.TB, h http.HandlerFunc, configure ...func(*http.Server)) *HTTP2Pool {
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.DisableGeneralOptionsHandler = true
	for _, c := range configure {
		c(s.Config)
	}
	s.Start()
	p := newPool2(t, s.Listener.Addr().String())
	t.Cleanup(s.Close)
	return p
}

func newPool2(t testing.TB, addr string) *HTTP2Pool {
	var d net.Dialer
	p := &HTTP2Pool{Dial: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }}
	t.Cleanup(func() {
		p.Close()
		for _, c := range p.list() {
			c.cc.Close()
		}
	})
	return p
}

// wantQuiet waits until no connection of the pool has an exchange.
func wantQuiet(t *testing.T, p *HTTP2Pool) {
	t.Helper()
	eventually(t, func() error {
		for _, c := range p.list() {
			if n := c.cc.InFlight(); n > 0 {
				return fmt.Errorf("%d exchanges are left", n)
			}
		}
		return nil
	})
}

// read makes an exchange that has to succeed, and returns the response with its body read.
func read(t testing.TB, rt http.RoundTripper, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: read body: %v", req.Method, req.URL, err)
	}
	return res, string(b)
}

func TestHTTP2RoundTrip(t *testing.T) {
	var mu sync.Mutex
	peers := map[string]bool{}
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		peers[r.RemoteAddr] = true
		mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %d %s", r.Proto, r.Method, r.Host, r.RequestURI, r.ContentLength, body)
	})
	for i := range 20 {
		res, body := read(t, p, post(t, fmt.Sprint("/", i), strings.NewReader("hello")))
		want := fmt.Sprintf("HTTP/2.0 POST service.test /%d 5 hello", i)
		if body != want || res.StatusCode != 200 || res.ProtoMajor != 2 {
			t.Fatalf("got %d %q, want 200 %q", res.StatusCode, body, want)
		}
	}
	wantQuiet(t, p)
	if len(peers) != 1 {
		t.Errorf("20 requests, one after the other, took %d connections", len(peers))
	}
}

// What the service sees is what the request says, and nothing of ours.
func TestHTTP2RequestIsSentAsItIs(t *testing.T) {
	got := make(chan *http.Request, 1)
	p := service2(t, func(w http.ResponseWriter, r *http.Request) { got <- r })
	for _, tt := range []struct {
		name, method, target, host string
		header, want               http.Header
	}{
		{"bytes of the target", "GET", `/a/../%2F?a=1;b=2&c=%zz\x`, "my.example.com:80", http.Header{"X-A": {"1", ""}}, http.Header{"X-A": {"1", ""}}},
		{"two slashes", "GET", "//a//b?c", "e.example.com", nil, nil},
		{"asterisk", "OPTIONS", "*", "e.example.com", nil, nil},
		{"user agent", "GET", "/", "e.x", http.Header{"User-Agent": {"me"}}, http.Header{"User-Agent": {"me"}}},
		{"fields of a connection", "GET", "/", "e.x",
			http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Te": {"gzip"}, "Keep-Alive": {"5"}, "X-A": {"1"}},
			http.Header{"X-A": {"1"}}},
		{"te of trailers", "GET", "/", "e.x", http.Header{"Te": {"trailers"}, "User-Agent": {"me"}}, http.Header{"Te": {"trailers"}, "User-Agent": {"me"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := get(t, "/")
			req.Method, req.URL.Opaque, req.Host, req.Header = tt.method, tt.target, tt.host, tt.header
			before := fmt.Sprint(req.Header)
			read(t, p, req)
			r := <-got
			if r.RequestURI != tt.target || r.Host != tt.host || r.Method != tt.method || header(r.Header) != header(tt.want) {
				t.Errorf("the service got %s %s %s %v", r.Method, r.RequestURI, r.Host, r.Header)
			}
			if after := fmt.Sprint(req.Header); after != before {
				t.Errorf("the caller's header is %s now", after)
			}
		})
	}
}

func TestHTTP2UnsendableRequests(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) { t.Error("it was sent") })
	for name, spoil := range map[string]func(*http.Request){
		"method":       func(r *http.Request) { r.Method = "a b" },
		"CONNECT":      func(r *http.Request) { r.Method = "CONNECT" },
		"target":       func(r *http.Request) { r.URL.Opaque = "/a b" },
		"other target": func(r *http.Request) { r.URL.Opaque = "http://x/" },
		"host":         func(r *http.Request) { r.Host = "a b" },
		"name":         func(r *http.Request) { r.Header = http.Header{"a b": {"1"}} },
		"value":        func(r *http.Request) { r.Header = http.Header{"A": {"1\n2"}} },
	} {
		t.Run(name, func(t *testing.T) {
			body := &closeCounter{Reader: strings.NewReader("x")}
			req := post(t, "/", body)
			spoil(req)
			_, err := p.RoundTrip(req)
			if _, ok := errors.AsType[*ClientError](err); !ok {
				t.Errorf("got %v, want a ClientError", err)
			}
			if body.closed == 0 {
				t.Error("the body was not closed")
			}
		})
	}
	wantQuiet(t, p)
}

func TestHTTP2ResponseKinds(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(304)
		case "/empty":
		case "/length":
			io.WriteString(w, "hello")
		case "/head":
			w.Header().Set("Content-Length", "5")
		case "/unknown":
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			io.WriteString(w, "hello")
		case "/trailersonly":
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "5")
		}
	})
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
		length       int64
		none         bool
	}{
		{"GET", "/204", 204, "", 0, true},
		{"GET", "/304", 304, "", 5, true},
		{"GET", "/empty", 200, "", 0, true},
		{"GET", "/length", 200, "hello", 5, false},
		{"HEAD", "/head", 200, "", 5, true},
		{"GET", "/unknown", 200, "hello", -1, false},
		{"POST", "/trailersonly", 200, "", 0, true},
	} {
		t.Run(tt.path[1:], func(t *testing.T) {
			req := get(t, tt.path)
			req.Method = tt.method
			res, err := p.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if res.StatusCode != tt.status || string(body) != tt.body || res.ContentLength != tt.length || err != nil {
				t.Errorf("got %d, length %d, %q, %v", res.StatusCode, res.ContentLength, body, err)
			}
			if none := res.Body == http.NoBody; none != tt.none {
				t.Errorf("the body is http.NoBody: %v", none)
			}
			if res.Request != req {
				t.Error("the response is to another request")
			}
		})
	}
	wantQuiet(t, p)
}

// Trailers pass both ways, announced or not.
func TestHTTP2Trailers(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Known")
		io.Copy(w, r.Body)
		w.Header().Set("X-Known", "1")
		w.Header().Set(http.TrailerPrefix+"X-Sudden", r.Trailer.Get("X-Request"))
		w.Header().Set(http.TrailerPrefix+"X-Piko-Endpoint", "no")
	})
	for announce, late := range map[bool]string{true: "late", false: ""} { // net/http's server takes no others
		req := post(t, "/", nil)
		if announce {
			req.Trailer = http.Header{"X-Request": nil}
		}
		req.Body = &atEOF{ReadCloser: io.NopCloser(strings.NewReader("hello")), f: func() { req.Trailer = http.Header{"X-Request": {"late"}, "Host": {"evil"}} }}
		req.ContentLength = -1
		res, body := read(t, p, req)
		want := header(http.Header{"X-Known": {"1"}, "X-Sudden": {late}})
		if got := header(res.Trailer); body != "hello" || got != want {
			t.Errorf("announced %v: got %q with %s, want %s", announce, body, got, want)
		}
	}
}

package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// newService runs an HTTP service until the test ends.
func startService(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func TestForwardsRequestsUnchanged(t *testing.T) {
	type seen struct {
		method, target, host, body string
		header                     http.Header
	}
	got := make(chan seen, 1)
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- seen{r.Method, r.RequestURI, r.Host, string(body), r.Header}
		w.Header().Set("X-Answer", "42")
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "short and stout")
	})
	for _, tt := range []struct {
		name, addr, method, target, body, want string
	}{
		{"plain path", "", "GET", "/a/b", "", "/a/b"},
		{"raw query with bytes that url.Values would change", "", "GET", "/?a=1;b=%zz&c", "", "/?a=1;b=%zz&c"},
		{"encoded slash", "", "GET", "/a%2fb//c", "", "/a%2fb//c"},
		{"body", "", "POST", "/", "hello", "/"},
		{"any method", "", "PROPFIND", "/dav", "", "/dav"},
		{"path prefix of the service", "/api/v1/", "GET", "/users?x=1", "", "/api/v1/users?x=1"},
		{"query of the service", "/api?key=k", "GET", "/users?x=1", "", "/api/users?key=k&x=1"},
		{"query of the service alone", "?key=k", "GET", "/users", "", "/users?key=k"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := startAgent(t, service.URL+tt.addr)
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://my-endpoint.example.com", strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			req.URL.Opaque = tt.target
			req.Header = http.Header{
				"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"public.example.com"},
				"X-Request-Id": {"abc"}, "X-Piko-Endpoint": {"my-endpoint"}, "X-Two": {"1", "2"},
				"User-Agent": {"test"}, "Connection": {"X-Hop"}, "X-Hop": {"drop me"},
			}
			res, err := a.do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			answer, err := io.ReadAll(res.Body)
			if err != nil || string(answer) != "short and stout" || res.StatusCode != http.StatusTeapot || res.Header.Get("X-Answer") != "42" {
				t.Errorf("answer is %d %q with %v, error %v", res.StatusCode, answer, res.Header, err)
			}
			s := <-got
			if s.method != tt.method || s.target != tt.want || s.body != tt.body {
				t.Errorf("service got %s %s with %q, want %s %s with %q", s.method, s.target, s.body, tt.method, tt.want, tt.body)
			}
			if s.host != "my-endpoint.example.com" {
				t.Errorf("service got Host %q, want the client's", s.host)
			}
			for name, want := range req.Header {
				if name == "Connection" || name == "X-Hop" {
					want = nil
				}
				if fmt.Sprint(s.header[name]) != fmt.Sprint(want) {
					t.Errorf("service got %s %q, want %q", name, s.header[name], want)
				}
			}
			if enc := s.header["Accept-Encoding"]; enc != nil {
				t.Errorf("service got Accept-Encoding %q, which nobody sent", enc)
			}
		})
	}
}

func TestServiceConnectionsAreReused(t *testing.T) {
	var dialled atomic.Int64
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "ok")
	}))
	service.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			dialled.Add(1)
		}
	}
	service.Start()
	defer service.Close()
	a := startAgent(t, service.URL)

	for range 20 {
		a.mustGet("/")
	}
	if n := dialled.Load(); n != 1 {
		t.Errorf("20 requests in sequence took %d connections to the service, want 1", n)
	}
	for range 5 { // a v0.9.0 node closes each stream behind its request
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://my-endpoint.example.com/", nil)
		req.Close = true
		res, err := a.do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if n := dialled.Load(); n != 1 {
		t.Errorf("requests that end the node's connection took %d connections to the service, want 1", n)
	}
	const clients, each = 64, 20
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				if status, body, err := a.get("/"); status != 200 || body != "ok" || err != nil {
					t.Errorf("GET: status %d, body %q, error %v", status, body, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := dialled.Load(); n > clients {
		t.Errorf("%d requests of %d clients took %d connections to the service, want at most one a client", clients*each, clients, n)
	}
}

func TestServiceThatClosedItsIdleConnectionsCostsNoRequest(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	a := startAgent(t, service.URL)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		a.mustGet("/")
		service.CloseClientConnections()
		req, _ := http.NewRequestWithContext(t.Context(), method, "http://my-endpoint.example.com/", strings.NewReader("body"))
		res, err := a.do(req)
		if err != nil {
			t.Fatalf("%s after the service closed its connections: %v", method, err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s after the service closed its connections: status %d, want 200", method, res.StatusCode)
		}
	}
}

// deadConn is a connection that breaks when it is used a second time, and
// shows nothing of it before.
type deadConn struct {
	net.Conn
	broken atomic.Bool
}

func (c *deadConn) Write(p []byte) (int, error) {
	if c.broken.Load() {
		c.Conn.Close() // reading fails as well, as it does when TCP breaks
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

func TestRequestThatNeverLeftIsSentOverAnotherConnection(t *testing.T) {
	var requests atomic.Int64
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		io.Copy(w, r.Body)
	})
	var mu sync.Mutex
	var dialled []*deadConn // guarded by mu
	var failDial atomic.Bool
	access := new(logBuffer)
	a := startAgent(t, service.URL, func(o *agentOptions) {
		o.access = access
		o.adjust = func(l *listener) {
			l.upstream.http1.Dial = func(ctx context.Context) (net.Conn, error) {
				if failDial.Load() {
					return nil, &dialError{syscall.ECONNREFUSED}
				}
				conn, err := l.service.dial(ctx)
				if err != nil {
					return nil, err
				}
				mu.Lock()
				defer mu.Unlock()
				dialled = append(dialled, &deadConn{Conn: conn})
				return dialled[len(dialled)-1], nil
			}
		}
	})
	post := func(body string) (int, string) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://my-endpoint.example.com/", strings.NewReader(body))
		res, err := a.do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		answer, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(answer)
	}
	for _, body := range []string{"first", "second"} {
		if status, answer := post(body); status != 200 || answer != body {
			t.Errorf("POST of %q: status %d, body %q", body, status, answer)
		}
		mu.Lock()
		dialled[len(dialled)-1].broken.Store(true)
		mu.Unlock()
	}
	mu.Lock()
	if requests.Load() != 2 || len(dialled) != 2 {
		t.Errorf("service got %d requests over %d connections, want 2 over 2", requests.Load(), len(dialled))
	}
	mu.Unlock()
	eventually(t, func() error {
		if log := access.String(); !strings.Contains(log, `"retries":1`) {
			return fmt.Errorf("access log does not count the attempt: %s", log)
		}
		return nil
	})
	failDial.Store(true)
	if status, answer := post("third"); status != 502 {
		t.Errorf("POST when no new connection is to be had: status %d, body %q, want 502", status, answer)
	}
	if status, answer := post(strings.Repeat("x", 2*keepBody)); status != 502 {
		t.Errorf("POST of a long body over a dead connection: status %d, body of %d bytes, want 502", status, len(answer))
	}
}

func TestHTTPSService(t *testing.T) {
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.TLS.ServerName+" "+r.Proto)
	}))
	service.EnableHTTP2 = true
	service.Config.ErrorLog = discardLog()
	service.StartTLS()
	defer service.Close()
	roots := x509.NewCertPool()
	roots.AddCert(service.Certificate())
	for _, tt := range []struct {
		name string
		tls  *tls.Config
		want string // "" is a 502
	}{
		{"own authority and server name", &tls.Config{RootCAs: roots, ServerName: "example.com"}, "example.com HTTP/1.1"},
		{"own authority, name of the address", &tls.Config{RootCAs: roots}, " HTTP/1.1"},
		{"not verified", &tls.Config{InsecureSkipVerify: true}, " HTTP/1.1"},
		{"never HTTP/2", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}, " HTTP/1.1"},
		{"unknown authority", nil, ""},
		{"wrong name", &tls.Config{RootCAs: roots, ServerName: "other.test"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := startAgent(t, service.URL, func(o *agentOptions) { o.listener.TLS = tt.tls })
			status, body, err := a.get("/")
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				wantFault(t, status, body, 502, "upstream-unreachable")
			} else if status != 200 || body != tt.want {
				t.Errorf("status %d, body %q, want 200 %q", status, body, tt.want)
			}
		})
	}
}

func TestHTTPSServiceGetsTheClientCertificate(t *testing.T) {
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%d certificates", len(r.TLS.PeerCertificates))
	}))
	service.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	service.StartTLS()
	defer service.Close()
	a := startAgent(t, service.URL, func(o *agentOptions) {
		o.listener.TLS = &tls.Config{InsecureSkipVerify: true, Certificates: service.TLS.Certificates}
	})
	if body := a.mustGet("/"); body != "1 certificates" {
		t.Errorf("service saw %s, want 1", body)
	}
}

func TestSlowServiceIsNotCut(t *testing.T) {
	answer := make(chan struct{})
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first ")
		http.NewResponseController(w).Flush()
		<-answer
		io.WriteString(w, "second")
	})
	a := startAgent(t, service.URL)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://my-endpoint.example.com/", nil)
	res, err := a.do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 6)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first " {
		t.Fatalf("read %q, error %v: want the first part before the second exists", first, err)
	}
	close(answer)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "second" {
		t.Errorf("read %q, error %v", rest, err)
	}
}

func TestClientThatGoesAwayCancelsTheService(t *testing.T) {
	arrived, cancelled := make(chan struct{}), make(chan struct{})
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(cancelled)
	})
	a := startAgent(t, service.URL)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://my-endpoint.example.com/", nil)
		_, err := a.do(req)
		failed <- err
	}()
	<-arrived
	cancel()
	if err := <-failed; err == nil {
		t.Error("a cancelled request worked")
	}
	<-cancelled
	eventually(t, func() error {
		if n := a.active.Load(); n != 0 {
			return fmt.Errorf("%d requests are active", n)
		}
		return nil
	})
	if strings.Contains(a.log.String(), "service unreachable") {
		t.Errorf("the client's leaving was logged as the service's fault:\n%s", a.log)
	}
}

func TestBodiesArriveWhole(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.Copy(w, r.Body)
	})
	a := startAgent(t, service.URL)
	body := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	for _, tt := range []struct {
		name string
		body io.Reader
	}{
		{"with a length", bytes.NewReader(body)},
		{"chunked", struct{ io.Reader }{bytes.NewReader(body)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://my-endpoint.example.com/", tt.body)
			res, err := a.do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, body) {
				t.Errorf("echo of %d bytes has %d, error %v", len(body), len(got), err)
			}
		})
	}
}

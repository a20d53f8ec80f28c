package agent

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// serveHTTP2 starts a service that speaks HTTP/2 in cleartext and, if it is told
// so, HTTP/1.1, and returns its address.
func serveHTTP2(t testing.TB, ln net.Listener, http1 bool, h http.HandlerFunc) string {
	t.Helper()
	if ln == nil {
		ln = listenLocal(t, "127.0.0.1:0")
	}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols), ErrorLog: discardLog()}
	srv.Protocols.SetUnencryptedHTTP2(true)
	srv.Protocols.SetHTTP1(http1)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
	return ln.Addr().String()
}

func listenLocal(t testing.TB, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// sayProto answers with the protocol and the length of the body.
func sayProto(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	fmt.Fprintf(w, "%s %s %d %v", r.Method, r.Proto, n, err)
}

// post sends a body, of known length or not.
func (a *testAgent) post(length int, known bool) string {
	a.t.Helper()
	var body io.Reader = strings.NewReader(strings.Repeat("x", length))
	if !known {
		body = io.MultiReader(body)
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+a.node.ln.Addr().String()+"/", body)
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream") // needs no HTTP/2
	res, err := a.do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, all)
}

// A service that speaks only HTTP/2 gets every request as such, whichever is the
// first, and each of them once.
func TestServiceWithoutHTTP1(t *testing.T) {
	for name, first := range map[string]func(a *testAgent) string{
		"GET":                    func(a *testAgent) string { return "200 " + a.mustGet("/") },
		"short POST":             func(a *testAgent) string { return a.post(10, true) },
		"long POST":              func(a *testAgent) string { return a.post(100*keepBody, true) },
		"POST of unknown length": func(a *testAgent) string { return a.post(100*keepBody, false) },
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			a := startAgent(t, serveHTTP2(t, nil, false, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				sayProto(w, r)
			}))
			got := []string{first(a), a.post(7, true), "200 " + a.mustGet("/")}
			for i, want := range []string{" HTTP/2.0 ", "200 POST HTTP/2.0 7 <nil>", "200 GET HTTP/2.0 0 <nil>"} {
				if !strings.HasPrefix(got[i], "200 ") || !strings.Contains(got[i], want) {
					t.Errorf("request %d: %q, want %q", i, got[i], want)
				}
			}
			if n := requests.Load(); n != 3 {
				t.Errorf("the service got %d requests, want 3", n)
			}
		})
	}
}

// With TLS it is no other: Go's servers let clients in that offer HTTP/1.1 only.
func TestTLSServiceWithoutHTTP1(t *testing.T) {
	service := httptest.NewUnstartedServer(http.HandlerFunc(sayProto))
	service.EnableHTTP2 = true
	service.Config.Protocols = new(http.Protocols)
	service.Config.Protocols.SetHTTP2(true)
	service.Config.ErrorLog = discardLog()
	service.StartTLS()
	t.Cleanup(service.Close)
	a := startAgent(t, service.URL, func(o *agentOptions) {
		o.listener.TLS = &tls.Config{InsecureSkipVerify: true}
	})
	if got := a.post(7, true); got != "200 POST HTTP/2.0 7 <nil>" {
		t.Error(got)
	}
}

// A service that speaks both gets HTTP/1.1 when that will do.
func TestServiceWithBoth(t *testing.T) {
	a := startAgent(t, serveHTTP2(t, nil, true, sayProto))
	if got := a.post(100*keepBody, false); got != fmt.Sprintf("200 POST HTTP/1.1 %d <nil>", 100*keepBody) {
		t.Error(got)
	}
	if got := a.mustGet("/"); got != "GET HTTP/1.1 0 <nil>" {
		t.Error(got)
	}
}

// A request that a service broke off is not sent again only because the service
// knows HTTP/2, too.
func TestServiceWithBothThatBreaks(t *testing.T) {
	var requests atomic.Int64
	a := startAgent(t, serveHTTP2(t, nil, true, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		panic(http.ErrAbortHandler)
	}))
	for range 3 {
		if got := a.post(10, true); !strings.HasPrefix(got, "502 ") {
			t.Error(got)
		}
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("the service got %d requests, want 3", n)
	}
}

// hangingUp is a listener that takes connections and hangs up on them while it
// is down, as what stands before a service does.
type hangingUp struct {
	net.Listener
	down atomic.Bool
}

func (l *hangingUp) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || !l.down.Load() {
			return c, err
		}
		c.Close()
	}
}

// That a service hangs up on everything does not say that it has no HTTP/1.1.
func TestServiceWithBothThatGoesDown(t *testing.T) {
	ln := &hangingUp{Listener: listenLocal(t, "127.0.0.1:0")}
	var requests atomic.Int64
	a := startAgent(t, serveHTTP2(t, ln, true, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") == "application/grpc" {
			sayProtocol(w, r)
			return
		}
		requests.Add(1)
		ln.down.Store(true)
		panic(http.ErrAbortHandler)
	}))
	if _, body := a.send(true); body != "HTTP/2.0" { // which is known from then on
		t.Fatalf("got %q", body)
	}
	if got := a.post(10, true); !strings.HasPrefix(got, "502 ") {
		t.Error(got)
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("the service got %d requests, want 1", n)
	}
}

// A service that speaks HTTP/2 and restarts gets it again soon.
func TestServiceWithHTTP2Restarts(t *testing.T) {
	ln := &hangingUp{Listener: listenLocal(t, "127.0.0.1:0")}
	a := startAgent(t, serveHTTP2(t, ln, false, sayProtocol))
	if _, body := a.send(true); body != "HTTP/2.0" {
		t.Fatalf("got %q", body)
	}
	ln.down.Store(true)
	eventually(t, func() error {
		a.upstream.http2.CloseIdle()
		if _, body := a.send(true); body == "HTTP/2.0" {
			return fmt.Errorf("got %q", body)
		}
		return nil
	})
	ln.down.Store(false)
	eventually(t, func() error {
		if _, body := a.send(true); body != "HTTP/2.0" {
			return fmt.Errorf("got %q", body)
		}
		return nil
	})
}

// A service may be replaced by one that speaks another protocol: at most one
// request finds that out.
func TestServiceIsReplaced(t *testing.T) {
	ln := listenLocal(t, "127.0.0.1:0")
	addr := ln.Addr().String()
	a := startAgent(t, addr)
	for i, proto := range []string{"HTTP/1.1", "HTTP/2.0", "HTTP/1.1"} {
		t.Run(fmt.Sprint(i, " ", proto), func(t *testing.T) {
			if i > 0 {
				ln = listenLocal(t, addr)
			}
			handler := http.HandlerFunc(sayProto)
			srv := &http.Server{Handler: handler, Protocols: new(http.Protocols), ErrorLog: discardLog()}
			srv.Protocols.SetHTTP1(proto == "HTTP/1.1")
			srv.Protocols.SetUnencryptedHTTP2(proto != "HTTP/1.1")
			served := make(chan error, 1)
			go func() { served <- srv.Serve(ln) }()
			defer func() {
				srv.Close()
				<-served
			}()
			a.get("/")
			if got := a.mustGet("/"); got != "GET "+proto+" 0 <nil>" {
				t.Error(got)
			}
		})
	}
}

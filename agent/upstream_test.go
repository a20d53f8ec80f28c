package agent

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// kindOfService is how a service of a test can be spoken to.
type kindOfService struct {
	name         string
	http1, http2 bool
	tls          bool
}

var (
	cleartextOld  = kindOfService{"cleartext, HTTP/1.1", true, false, false}
	cleartextNew  = kindOfService{"cleartext, HTTP/2", false, true, false}
	cleartextBoth = kindOfService{"cleartext, both", true, true, false}
	tlsOld        = kindOfService{"TLS, HTTP/1.1", true, false, true}
	tlsNew        = kindOfService{"TLS, HTTP/2", false, true, true}
	tlsBoth       = kindOfService{"TLS, both", true, true, true}
)

// startKind runs a service of the kind, which answers with the protocol, and
// returns its host:port and how many connections it has got so far.
func startKind(t testing.TB, k kindOfService, h http.HandlerFunc) (addr string, conns *atomic.Int32) {
	t.Helper()
	conns = new(atomic.Int32)
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = discardLog()
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(k.http1)
	s.Config.Protocols.SetHTTP2(k.http2 && k.tls)
	s.Config.Protocols.SetUnencryptedHTTP2(k.http2 && !k.tls)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	if k.tls {
		s.EnableHTTP2 = k.http2
		s.TLS = &tls.Config{NextProtos: nextProtos(k)}
		if !k.http1 {
			s.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				if slices.Contains(hello.SupportedProtos, "h2") {
					return nil, nil
				}
				strict := s.TLS.Clone() // Go's would let it in
				strict.NextProtos = []string{"none"}
				return strict, nil
			}
		}
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), conns
}

func nextProtos(k kindOfService) (list []string) {
	if k.http2 {
		list = append(list, "h2")
	}
	if k.http1 {
		list = append(list, "http/1.1")
	}
	return list
}

func sayProtocol(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	io.WriteString(w, r.Proto)
}

// send makes a request as the node does: an ordinary one, or one that needs
// HTTP/2. It returns status and body.
func (a *testAgent) send(needs bool) (int, string) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), http.MethodPost, "http://my-endpoint.example.com/a/b", strings.NewReader("hello"))
	if err != nil {
		a.t.Fatal(err)
	}
	if needs {
		req.Header.Set("Content-Type", "application/grpc")
		req.ContentLength = -1
	}
	res, err := a.do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	if status := res.Header.Get("Grpc-Status"); status != "" {
		return res.StatusCode, "grpc-status " + status
	}
	return res.StatusCode, string(body)
}

// TestUpstreamProtocol is the table of what is spoken to whom.
func TestUpstreamProtocol(t *testing.T) {
	const one, two, none = "HTTP/1.1", "HTTP/2.0", ""
	for _, tt := range []struct {
		service          kindOfService
		scheme, protocol string
		ordinary, needs  string
	}{
		{cleartextOld, "", "", one, one},
		{cleartextOld, "http://", UpstreamAuto, one, one},
		{cleartextOld, "http://", UpstreamHTTP1, one, one},
		{cleartextOld, "http://", UpstreamHTTP2, none, none},
		{cleartextOld, "h2c://", "", none, none},
		{cleartextNew, "", "", two, two},
		{cleartextNew, "http://", UpstreamHTTP1, none, none},
		{cleartextNew, "", UpstreamHTTP2, two, two},
		{cleartextNew, "h2c://", "", two, two},
		{cleartextNew, "grpc://", "", two, two},
		{cleartextBoth, "", "", one, two},
		{cleartextBoth, "", UpstreamHTTP1, one, one},
		{cleartextBoth, "", UpstreamHTTP2, two, two},
		{cleartextBoth, "h2c://", UpstreamAuto, two, two},
		{tlsOld, "https://", "", one, one},
		{tlsOld, "https://", UpstreamHTTP2, none, none},
		{tlsNew, "https://", "", two, two},
		{tlsNew, "https://", UpstreamHTTP1, none, none},
		{tlsNew, "https://", UpstreamHTTP2, two, two},
		{tlsNew, "grpcs://", "", two, two},
		{tlsBoth, "https://", "", one, two},
		{tlsBoth, "https://", UpstreamHTTP1, one, one},
		{tlsBoth, "grpcs://", "", two, two},
	} {
		t.Run(fmt.Sprintf("%s, %s %s", tt.service.name, tt.scheme, tt.protocol), func(t *testing.T) {
			addr, _ := startKind(t, tt.service, sayProtocol)
			a := startAgent(t, tt.scheme+addr, func(o *agentOptions) {
				o.listener.UpstreamProtocol = tt.protocol
				o.listener.TLS = &tls.Config{InsecureSkipVerify: true}
			})
			for range 2 {
				for needs, want := range map[bool]string{false: tt.ordinary, true: tt.needs} {
					status, body := a.send(needs)
					if ok := status == 200 && body == want; want != none && !ok {
						t.Errorf("needs HTTP/2: %v: got %d %q, want %s", needs, status, body, want)
					} else if want == none && status == 200 && body != "grpc-status 14" {
						t.Errorf("needs HTTP/2: %v: got %d %q, want a failure", needs, status, body)
					}
				}
			}
		})
	}
}

func TestUpstreamProtocolErrors(t *testing.T) {
	for _, tt := range []struct{ addr, protocol, want string }{
		{"h2c://a:1", UpstreamHTTP1, "means HTTP/2"},
		{"grpcs://a:1", UpstreamHTTP1, "means HTTP/2"},
		{"3000", "spdy", "unknown upstream protocol"},
		{"ftp://a", "", "is none of http, https, h2c, grpc, grpcs"},
	} {
		_, err := newService(&Listener{Endpoint: "e", Addr: tt.addr, UpstreamProtocol: tt.protocol})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: got %v", tt.addr, tt.protocol, err)
		}
	}
	if s, err := newService(&Listener{Endpoint: "e", Addr: "grpcs://a/x"}); err != nil || s.dialTo != "a:443" || s.scheme != "https" {
		t.Errorf("grpcs without a port: %+v, %v", s, err)
	}
}

// TestServiceIsAskedOnce: whether it speaks HTTP/2 costs one connection, which
// is used if it does.
func TestServiceIsAskedOnce(t *testing.T) {
	for _, k := range []kindOfService{cleartextOld, cleartextBoth, tlsOld, tlsBoth} {
		t.Run(k.name, func(t *testing.T) {
			addr, conns := startKind(t, k, sayProtocol)
			scheme := "http://"
			if k.tls {
				scheme = "https://"
			}
			a := startAgent(t, scheme+addr, func(o *agentOptions) { o.listener.TLS = &tls.Config{InsecureSkipVerify: true} })
			for range 5 {
				a.send(true)
			}
			// To ask at each would take five more than the requests need, of which HTTP/1.1
			// may open another while the one before is still being put back.
			most := int32(1)
			if !k.http2 {
				most = 5
			}
			if n := conns.Load(); n > most {
				t.Errorf("%d connections for 5 requests, want at most %d", n, most)
			}
		})
	}
}

// TestUnreachableServiceGivesNoVerdict: a service that is started later gets
// HTTP/2 at once.
func TestUnreachableServiceGivesNoVerdict(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	a := startAgent(t, ln.Addr().String())
	if _, body := a.send(true); body != "grpc-status 14" {
		t.Errorf("got %q from no service", body)
	}
	ln, err = net.Listen("tcp", ln.Addr().String())
	if err != nil {
		t.Skip("the service's port was taken meanwhile")
	}
	srv := &http.Server{Handler: http.HandlerFunc(sayProtocol), Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(ln)
	defer srv.Close()
	if _, body := a.send(true); body != "HTTP/2.0" {
		t.Errorf("got %q", body)
	}
}

// TestServiceLosesHTTP2: what is known of a service does not outlive it.
func TestServiceLosesHTTP2(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve := func(ln net.Listener, http2 bool) *http.Server {
		srv := &http.Server{Handler: http.HandlerFunc(sayProtocol), Protocols: new(http.Protocols), ErrorLog: discardLog()}
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(http2)
		go srv.Serve(ln)
		return srv
	}
	first := serve(ln, true)
	a := startAgent(t, ln.Addr().String())
	if _, body := a.send(true); body != "HTTP/2.0" {
		t.Errorf("got %q from the first service", body)
	}
	first.Close()
	ln, err = net.Listen("tcp", ln.Addr().String())
	if err != nil {
		t.Skip("the service's port was taken meanwhile")
	}
	defer serve(ln, false).Close()
	eventually(t, func() error { // the end of the first one's connection may be on its way
		if _, body := a.send(true); body != "HTTP/1.1" {
			return fmt.Errorf("got %q from the second service", body)
		}
		return nil
	})
}

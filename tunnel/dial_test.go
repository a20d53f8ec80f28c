package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"piko/fault"
)

// dialEcho dials url with d and checks that a byte goes there and back.
func dialEcho(t *testing.T, d *Dialer, accepted <-chan *carrier) {
	t.Helper()
	c, _, err := d.dialWebSocket(t.Context(), "/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close(0, "")
	server := <-accepted
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(server, server)
	}()
	echoes(t, c)
	c.close(closeNormal, "")
	<-done
}

func TestDialSendsWhatNodesWantToKnow(t *testing.T) {
	got := make(chan *http.Request, 1)
	url := rawServer(t, func(nc net.Conn, r *http.Request) {
		got <- r
		io.WriteString(nc, strings.Replace(switching(r), "\r\n\r\n",
			"\r\nX-Piko-Node-Id: node-7\r\nx-piko-cluster-size: 3\r\nx-piko-features: control, never-offered\r\n\r\n", 1))
	})
	d := &Dialer{
		URL:      url + "/some/prefix/",
		Token:    func(context.Context) (string, error) { return "secret\n", nil },
		TenantID: "acme", Instance: "i-1", Protocol: "tcp",
	}
	s, err := d.Dial(t.Context(), "My:End@point")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := <-got
	if want := "/some/prefix/piko/v1/upstream/My:End@point"; r.RequestURI != want {
		t.Errorf("request for %s, want %s", r.RequestURI, want)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer secret", HeaderTenantID: "acme", HeaderInstance: "i-1", HeaderProtocol: "tcp",
		HeaderFeatures: "control", "Origin": "", "Sec-WebSocket-Extensions": "", "Sec-WebSocket-Protocol": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if err := CheckHandshake(r); err != nil {
		t.Errorf("our own handshake: %v", err)
	}
	if p := s.Peer(); p.NodeID != "node-7" || p.ClusterSize != 3 || len(p.Features) != 1 || p.Features[0] != FeatureControl {
		t.Errorf("the peer is %+v", p)
	}
}

func TestReadPeer(t *testing.T) {
	for _, c := range []struct {
		name   string
		header http.Header
		want   string
	}{
		{"v0.9.0", http.Header{}, "{ 0   []}"},
		{"rubbish", http.Header{"X-Piko-Node-Id": {"a b"}, "X-Piko-Cluster-Size": {"-3"}}, "{ 0   []}"},
		{"size too large", http.Header{"X-Piko-Cluster-Size": {"99999999999"}}, "{ 0   []}"},
		{"ours", http.Header{"X-Piko-Node-Id": {"n"}, "X-Piko-Cluster-Size": {"5"}, "X-Piko-Features": {"h2,control"}}, "{n 5   [control]}"},
	} {
		if got := fmt.Sprint(readPeer(c.header)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestDialKeepsThePathPrefix(t *testing.T) {
	paths := make(chan string, 1)
	server := rawServer(t, func(nc net.Conn, r *http.Request) {
		paths <- r.RequestURI
		io.WriteString(nc, switching(r))
	})
	for prefix, want := range map[string]string{
		"":            "/ws",
		"/":           "/ws",
		"/a/b":        "/a/b/ws",
		"/a/b///":     "/a/b/ws",
		"/a%2Fb/c%20": "/a%2Fb/c%20/ws",
		"//a":         "//a/ws",
	} {
		c := dialCarrier(t, strings.Replace(server, "http:", "ws:", 1)+prefix)
		if got := <-paths; got != want {
			t.Errorf("with the prefix %q: %q, want %q", prefix, got, want)
		}
		c.close(0, "")
	}
}

func TestDialRefusesBadSettings(t *testing.T) {
	for _, c := range []struct{ name, url, proxy, want string }{
		{"no url", "", "", "server url is missing"},
		{"no scheme", "piko.example.com:8001", "", "scheme"},
		{"host only", "localhost", "", "scheme"},
		{"ftp", "ftp://piko.example.com", "", `scheme "ftp"`},
		{"no host", "https:///path", "", "no host"},
		{"port only", "http://:8001", "", "no host"},
		{"query", "https://piko.example.com/?a=b", "", "query"},
		{"fragment", "https://piko.example.com/#a", "", "fragment"},
		{"credentials", "https://user:hunter2@piko.example.com/", "", "use a token"},
		{"bad escape", "https://piko.example.com/%zz", "", "invalid URL escape"},
		{"bad port", "https://piko.example.com:port/", "", "invalid port"},
		{"proxy without scheme", "http://127.0.0.1:1", "proxy.example.com:3128", "proxy url has no host"},
		{"proxy without host", "http://127.0.0.1:1", "http://", "proxy url has no host"},
		{"proxy of another kind", "http://127.0.0.1:1", "ftp://user:hunter2@proxy", `scheme "ftp"`},
		{"proxy not parseable", "http://127.0.0.1:1", "http://user:hunter2@pro xy", "parse proxy url"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := (&Dialer{URL: c.url, ProxyURL: c.proxy}).Dial(t.Context(), "e")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Dial: %v, want an error with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Dial: %v shows the password", err)
			}
		})
	}
	if _, err := (&Dialer{URL: "http://127.0.0.1:1"}).Dial(t.Context(), "a/b"); !errors.Is(err, fault.InvalidEndpoint) {
		t.Errorf("Dial of a bad endpoint: %v", err)
	}
	failing := errors.New("no such file")
	d := &Dialer{URL: "http://127.0.0.1:1", Token: func(context.Context) (string, error) { return "", failing }}
	if _, err := d.Dial(t.Context(), "e"); !errors.Is(err, failing) {
		t.Errorf("Dial without a token: %v", err)
	}
}

func TestDialReportsRefusals(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		want         fault.Refused
		text         string
	}{
		{"our JSON", "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nx-piko-error: expired-token\r\n\r\n" + `{"error":"expired token","code":"expired-token"}`,
			fault.Refused{Status: 401, Code: fault.ExpiredToken}, "expired token"},
		{"our JSON with Retry-After", "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\r\n" + `{"error":"draining","code":"draining"}`,
			fault.Refused{Status: 503, Code: fault.Draining, RetryAfter: 7 * time.Second}, "draining"},
		{"a load balancer's page", "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n\r\n<html><title>502 Bad Gateway</title>",
			fault.Refused{Status: 502}, "502 Bad Gateway"},
		{"a redirect", "HTTP/1.1 301 Moved Permanently\r\nLocation: https://elsewhere.example.com/\r\nContent-Length: 0\r\n\r\n",
			fault.Refused{Status: 301}, "301"},
		{"a web server's 200", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>Welcome to nginx!</title>",
			fault.Refused{Status: 200}, "Welcome to nginx!"},
		{"after 103", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
			fault.Refused{Status: 404}, "404"},
		{"a page without end", "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\n" + strings.Repeat("x", 1<<20),
			fault.Refused{Status: 404}, "xxx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := rawServer(t, func(nc net.Conn, r *http.Request) {
				io.WriteString(nc, c.answer)
				nc.Close()
			})
			_, err := (&Dialer{URL: url}).Dial(t.Context(), "e")
			refused, ok := errors.AsType[*fault.Refused](err)
			if !ok || refused.Status != c.want.Status || refused.Code != c.want.Code || refused.RetryAfter != c.want.RetryAfter {
				t.Fatalf("Dial: %v (%+v), want %+v", err, refused, c.want)
			}
			if !strings.Contains(err.Error(), c.text) || len(err.Error()) > 600 {
				t.Errorf("Dial: %v, want it to say %q", err, c.text)
			}
		})
	}
}

func TestDialRefusesBadAnswers(t *testing.T) {
	answer := func(lines string) string { return "HTTP/1.1 101 Switching Protocols\r\n" + lines + "\r\n" }
	for _, c := range []struct{ name, answer, want string }{
		{"nothing", "", "unexpected EOF"},
		{"rubbish", "SSH-2.0-OpenSSH_9.2\r\n\r\n", "malformed HTTP"},
		{"101 for something else", answer("Upgrade: h2c\r\nConnection: Upgrade\r\n"), "not for a websocket"},
		{"101 without Connection", answer("Upgrade: websocket\r\n"), "not for a websocket"},
		{"101 without key", answer("Upgrade: websocket\r\nConnection: Upgrade\r\n"), "Sec-WebSocket-Accept"},
		{"101 with another's key", answer("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "Sec-WebSocket-Accept"},
		{"101 with compression", "EXT", "not offered"},
		{"1xx for ever", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000), "1xx"},
		{"a header without end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("x: "+strings.Repeat("y", 1000)+"\r\n", 1000), "64 KiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := rawServer(t, func(nc net.Conn, r *http.Request) {
				if c.answer == "EXT" {
					c.answer = strings.Replace(switching(r), "\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", 1)
				}
				io.WriteString(nc, c.answer)
				nc.(*net.TCPConn).CloseWrite()
			})
			_, err := (&Dialer{URL: url}).Dial(t.Context(), "e")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Dial: %v, want an error with %q", err, c.want)
			}
			if _, ok := errors.AsType[*fault.Refused](err); ok {
				t.Errorf("Dial: %v counts as a refusal", err)
			}
		})
	}
}

func TestDialIsBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, scheme := range []string{"http", "https"} {
		for _, proxy := range []string{"", "http", "https", "socks5"} {
			d := &Dialer{URL: scheme + "://" + ln.Addr().String(), Timeout: 20 * time.Millisecond}
			if proxy != "" {
				d.ProxyURL = proxy + "://" + ln.Addr().String()
			}
			if _, err := d.Dial(t.Context(), "e"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s through proxy %q: %v, want its time-out", scheme, proxy, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			d.Timeout = time.Minute
			time.AfterFunc(20*time.Millisecond, cancel)
			if _, err := d.Dial(ctx, "e"); !errors.Is(err, context.Canceled) {
				t.Errorf("%s through proxy %q: %v, want to be cancelled", scheme, proxy, err)
			}
		}
	}
	ln.Close()
	if _, err := (&Dialer{URL: "http://" + ln.Addr().String()}).Dial(t.Context(), "e"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("to a closed port: %v", err)
	}
}

// A session outlives the context that its dial was bounded by.
func TestDialContextEndsWithTheDial(t *testing.T) {
	url, accepted := carrierServer(t, Reply{})
	ctx, cancel := context.WithCancel(t.Context())
	c, _, err := (&Dialer{URL: url}).dialWebSocket(ctx, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close(0, "")
	cancel()
	server := <-accepted
	server.Write([]byte("x"))
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("Read after the context's end: %d, %v", n, err)
	}
}

// tlsCarrierServer is carrierServer with TLS, and the pool that trusts it.
func tlsCarrierServer(t *testing.T, protos ...string) (srv *httptest.Server, accepted <-chan *carrier, roots *x509.CertPool, hellos <-chan []string) {
	t.Helper()
	ch, offered := make(chan *carrier, 16), make(chan []string, 16)
	srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := acceptHandshake(w, r, Reply{}); err == nil {
			t.Cleanup(func() { c.close(0, "") })
			ch <- c
		}
	}))
	srv.TLS = &tls.Config{NextProtos: protos, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		offered <- h.SupportedProtos
		return nil, nil
	}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots = x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return srv, ch, roots, offered
}

func TestDialTLS(t *testing.T) {
	srv, accepted, roots, hellos := tlsCarrierServer(t, "h2", "http/1.1")
	config := &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}}
	dialEcho(t, &Dialer{URL: strings.Replace(srv.URL, "https:", "wss:", 1), TLS: config}, accepted)
	if offered := <-hellos; len(offered) != 1 || offered[0] != "http/1.1" {
		t.Errorf("offered %q, want http/1.1 only: else a server may choose HTTP/2", offered)
	}
	if config.ServerName != "" || config.NextProtos[0] != "h2" {
		t.Error("the caller's configuration was changed")
	}
	for name, config := range map[string]*tls.Config{
		"unknown authority": nil,
		"other name":        {RootCAs: roots, ServerName: "other.test"},
	} {
		_, err := (&Dialer{URL: srv.URL, TLS: config}).Dial(t.Context(), "e")
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
			t.Errorf("%s: %v, want what is wrong with the certificate", name, err)
		}
	}
}

func TestCloseIsBoundedOverTLS(t *testing.T) {
	srv, accepted, roots, _ := tlsCarrierServer(t)
	c, _, err := (&Dialer{URL: srv.URL, TLS: &tls.Config{RootCAs: roots}}).dialWebSocket(t.Context(), "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	<-accepted // and read nothing
	stuck := make(chan error, 1)
	go func() {
		for b := make([]byte, headroom+1<<20); ; {
			if err := c.writeMessage(b); err != nil {
				stuck <- err
				return
			}
		}
	}()
	eventually(t, func() error {
		if len(c.wlock) == 0 {
			return errors.New("nobody writes")
		}
		return nil
	})
	start := time.Now()
	c.close(closeGoingAway, "")
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("close took %v", d)
	}
	if err := <-stuck; err == nil {
		t.Error("the write went on")
	}
}

// forwardProxy is a proxy for CONNECT. It takes the credentials user:pass if
// auth is set, and reports where it was asked to connect to.
func forwardProxy(t *testing.T, auth bool) (http.Handler, <-chan string) {
	asked := make(chan string, 16)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, ok := parseProxyAuth(r); auth && (!ok || user != "user" || pass != "p@ss") {
			w.Header().Set("Proxy-Authenticate", "Basic")
			http.Error(w, `{"error":"login first","code":"expired-token"}`, http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			http.Error(w, "CONNECT only", http.StatusBadRequest)
			return
		}
		asked <- r.RequestURI
		out, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		in, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() {
			io.Copy(out, in)
			out.Close()
		}()
		io.Copy(in, out)
		in.Close()
	}), asked
}

func parseProxyAuth(r *http.Request) (user, pass string, ok bool) {
	return (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
}

func TestDialThroughHTTPProxy(t *testing.T) {
	plain, plainAccepted := carrierServer(t, Reply{})
	secure, secureAccepted, roots, _ := tlsCarrierServer(t)
	for _, auth := range []bool{false, true} {
		handler, asked := forwardProxy(t, auth)
		srv := httptest.NewServer(handler)
		defer srv.Close()
		via := srv.URL
		if auth {
			via = strings.Replace(via, "http://", "http://user:p%40ss@", 1)
		}
		dialEcho(t, &Dialer{URL: plain, ProxyURL: via}, plainAccepted)
		if got := <-asked; "http://"+got != plain {
			t.Errorf("the proxy was asked for %q, want %q", got, plain)
		}
		dialEcho(t, &Dialer{URL: secure.URL, ProxyURL: via, TLS: &tls.Config{RootCAs: roots}}, secureAccepted)
		if got := <-asked; "https://"+got != secure.URL {
			t.Errorf("the proxy was asked for %q, want %q", got, secure.URL)
		}
	}
}

func TestDialThroughHTTPProxyThatRefuses(t *testing.T) {
	handler, _ := forwardProxy(t, true)
	srv := httptest.NewServer(handler)
	defer srv.Close()
	_, err := (&Dialer{URL: "http://127.0.0.1:1", ProxyURL: strings.Replace(srv.URL, "http://", "http://user:wrong@", 1)}).Dial(t.Context(), "e")
	refused, ok := errors.AsType[*fault.Refused](err)
	if !ok || refused.Status != http.StatusProxyAuthRequired || refused.Code != "" {
		t.Errorf("Dial: %v (%+v), want the proxy's 407 without a code of ours", err, refused)
	}
	if !strings.Contains(err.Error(), "through proxy") || !strings.Contains(err.Error(), "login first") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("Dial: %v, want it to name the proxy and its words, and not the password", err)
	}
	_, err = (&Dialer{URL: "http://127.0.0.1:1", ProxyURL: strings.Replace(srv.URL, "http://", "http://user:p%40ss@", 1)}).Dial(t.Context(), "e")
	if refused, ok := errors.AsType[*fault.Refused](err); !ok || refused.Status != http.StatusBadGateway {
		t.Errorf("Dial to a server that is down: %v, want the proxy's 502", err)
	}
}

func TestDialThroughHTTPSProxyNeedsItsCertificate(t *testing.T) {
	handler, _ := forwardProxy(t, false)
	srv := httptest.NewUnstartedServer(handler)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	_, err := (&Dialer{URL: "http://127.0.0.1:1", ProxyURL: srv.URL}).Dial(t.Context(), "e")
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("Dial: %v, want the proxy's certificate to be refused", err)
	}
}

func TestDialFollowsTheEnvironmentsProxy(t *testing.T) {
	handler, asked := forwardProxy(t, false)
	srv := httptest.NewServer(handler)
	defer srv.Close()
	t.Setenv("HTTPS_PROXY", srv.URL)
	t.Setenv("HTTP_PROXY", srv.URL)
	for _, server := range []string{"http://piko.invalid:8001", "wss://piko.invalid"} {
		if _, err := (&Dialer{URL: server}).Dial(t.Context(), "e"); err == nil {
			t.Error("piko.invalid exists")
		}
	}
	if a, b := <-asked, <-asked; a != "piko.invalid:8001" || b != "piko.invalid:443" {
		t.Errorf("the proxy was asked for %q and %q", a, b)
	}
	t.Setenv("NO_PROXY", "piko.invalid")
	if _, err := (&Dialer{URL: "https://piko.invalid"}).Dial(t.Context(), "e"); err == nil || strings.Contains(err.Error(), "proxy") {
		t.Errorf("with NO_PROXY: %v", err)
	}
	t.Setenv("NO_PROXY", "")
	t.Setenv("HTTPS_PROXY", "http://user:hunter2@pro xy")
	if _, err := (&Dialer{URL: "https://piko.invalid"}).Dial(t.Context(), "e"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("with a broken HTTPS_PROXY: %v", err)
	}
}

// socksProxy speaks just enough SOCKS5 (RFC 1928, RFC 1929) for one client.
func socksProxy(t *testing.T) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		in, err := ln.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		b := make([]byte, 300)
		read := func(n int) []byte { io.ReadFull(in, b[:n]); return b[:n] }
		read(int(read(2)[1]))
		in.Write([]byte{5, 2}) // user and password, please
		user := string(read(int(read(2)[1])))
		pass := string(read(int(read(1)[0])))
		if user != "user" || pass != "pass" {
			in.Write([]byte{1, 1})
			return
		}
		in.Write([]byte{1, 0})
		head := read(4) // CONNECT to an IPv4 address
		if head[1] != 1 || head[3] != 1 {
			return
		}
		to := read(6)
		out, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: to[:4], Port: int(to[4])<<8 | int(to[5])})
		if err != nil {
			return
		}
		defer out.Close()
		in.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		go io.Copy(out, in)
		io.Copy(in, out)
	}()
	return ln.Addr().String()
}

func TestDialThroughSOCKSProxy(t *testing.T) {
	server, accepted := carrierServer(t, Reply{})
	dialEcho(t, &Dialer{URL: server, ProxyURL: "socks5://user:pass@" + socksProxy(t)}, accepted)
	_, err := (&Dialer{URL: server, ProxyURL: "socks5h://user:wrong@" + socksProxy(t)}).Dial(t.Context(), "e")
	if err == nil || !strings.Contains(err.Error(), "through proxy") {
		t.Errorf("Dial with a wrong password: %v", err)
	}
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]string{
		"http://h":         "h:80",
		"https://h":        "h:443",
		"https://[::1]":    "[::1]:443",
		"http://h:8001":    "h:8001",
		"socks5://h":       "h:1080",
		"https://[::1]:81": "[::1]:81",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := hostPort(u); got != want {
			t.Errorf("hostPort(%s) = %s, want %s", in, got, want)
		}
	}
}

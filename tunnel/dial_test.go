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
		TenantID: "acme", Instance: "i-1", Protocol: "tcp", Nodes: []string{"node-1", "node-2"}, Unhealthy: true,
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
		HeaderFeatures: "control", HeaderNodes: "node-1, node-2", HeaderWeight: "0", "Origin": "", "Sec-WebSocket-Extensions": "", "Sec-WebSocket-Protocol": "",
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

func TestDialNamesNoNodesIfThereAreNone(t *testing.T) {
	got := make(chan *http.Request, 1)
	url := rawServer(t, func(nc net.Conn, r *http.Request) {
		got <- r
		io.WriteString(nc, switching(r))
	})
	s, err := (&Dialer{URL: url, Nodes: []string{"no token"}}).Dial(t.Context(), "e")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if r := <-got; r.Header.Values(HeaderNodes) != nil {
		t.Errorf("sent %s: %q", HeaderNodes, r.Header.Values(HeaderNodes))
	}
}

func TestReadPeer(t *testing.T) {
	for _, c := range []struct {
		name   string
		header http.Header
		want   string
	}{
		{"v0.9.0", http.Header{}, " 0 []"},
		{"rubbish", http.Header{"X-Piko-Node-Id": {"a b"}, "X-Piko-Cluster-Size": {"-3"}}, " 0 []"},
		{"size too large", http.Header{"X-Piko-Cluster-Size": {"99999999999"}}, " 0 []"},
		{"ours", http.Header{"X-Piko-Node-Id": {"n"}, "X-Piko-Cluster-Size": {"5"}, "X-Piko-Features": {"h2,control"}}, "n 5 [control]"},
	} {
		p := readPeer(c.header, []string{FeatureControl})
		if got := fmt.Sprintf("%s %d %v", p.NodeID, p.ClusterSize, p.Features); got != c.want {
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

// crypto/tls waits up to 5 s to say goodbye to a peer that reads nothing.
func TestCloseOverTLSSaysGoodbyeOnlyToThoseWhoRead(t *testing.T) {
	srv, accepted, roots, _ := tlsCarrierServer(t)
	c, _, err := (&Dialer{URL: srv.URL, TLS: &tls.Config{RootCAs: roots}}).dialWebSocket(t.Context(), "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	server := <-accepted
	near := &goodbyeConn{Conn: c.nc.(*tls.Conn).NetConn()}
	silent := newCarrier(tlsOver{c.nc.(*tls.Conn), near}, nil, true)
	silent.close(0, "")
	if !near.closed {
		t.Error("the connection under TLS was not closed first")
	}
	server.close(0, "")
}

// tlsOver is a TLS connection over another one than it says.
type tlsOver struct {
	*tls.Conn
	under *goodbyeConn
}

func (c tlsOver) NetConn() net.Conn { return c.under }

type goodbyeConn struct {
	net.Conn
	closed bool
}

func (c *goodbyeConn) Close() error { c.closed = true; return c.Conn.Close() }

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

// TestDialToAnotherPort: who mistakes a port of a node for another is told.
func TestDialToAnotherPort(t *testing.T) {
	for _, code := range []fault.Code{fault.MissingEndpoint, fault.NotFound, fault.NoUpstream} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fault.Write(w, r, code) }))
		_, err := (&Dialer{URL: srv.URL}).Dial(t.Context(), "e")
		srv.Close()
		if !errors.Is(err, code) || !strings.Contains(err.Error(), "upstream port of a server?") {
			t.Errorf("%s: %v", code, err)
		}
	}
}

package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"piko/fault"
)

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

func TestDialThroughAProxyThatTalksTooEarly(t *testing.T) {
	via := rawServer(t, func(nc net.Conn, _ *http.Request) {
		io.WriteString(nc, "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n")
	})
	_, err := (&Dialer{URL: "http://piko.invalid", ProxyURL: via}).Dial(t.Context(), "e")
	if err == nil || !strings.Contains(err.Error(), "before it was spoken to") {
		t.Errorf("Dial: %v, want it to refuse an answer from before its question", err)
	}
}

func TestDialThroughHTTPSProxy(t *testing.T) {
	server, accepted := carrierServer(t, Reply{})
	handler, asked := forwardProxy(t, false)
	srv := httptest.NewUnstartedServer(handler)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	_, err := (&Dialer{URL: server, ProxyURL: srv.URL}).Dial(t.Context(), "e")
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("Dial: %v, want the proxy's certificate to be refused", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	// The name is the server's, and must not be looked for at the proxy.
	dialEcho(t, &Dialer{URL: server, ProxyURL: srv.URL, TLS: &tls.Config{RootCAs: roots, ServerName: "other.test"}}, accepted)
	if got := <-asked; "http://"+got != server {
		t.Errorf("the proxy was asked for %q, want %q", got, server)
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

package main

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"piko/certs/certstest"
)

// withACME has the proxy port of a node get certificates of an authority that is
// not there, beside those that it has.
func withACME(t *testing.T, c *testTLS) (change func(*serverConfig), cache string) {
	t.Helper()
	cache = t.TempDir()
	return func(cfg *serverConfig) {
		cfg.Proxy.TLS.serverTLSConfig = c.port()
		cfg.Proxy.Domain = []domain{"example.test"}
		cfg.Proxy.TLS.ACME = acmeConfig{
			Enabled: true, AcceptTerms: true, CacheDir: cache, HTTPAddr: "127.0.0.1:0", PerWeek: 5,
			DirectoryURL: "https://127.0.0.1:1/directory",
		}
	}, cache
}

// The authority's handshake for a challenge asks for no certificate. Whoever
// makes one like it gets nothing but the handshake.
func TestNobodyGetsInByAChallenge(t *testing.T) {
	t.Parallel()
	c := newTestTLS(t)
	change, cache := withACME(t, c)
	n := startNode(t, change)
	startAgent(t, n, "my-endpoint", testService(t).URL)
	const name = "my-endpoint.example.test"
	pair := c.ca.Issue([]string{name})
	der, err := x509.MarshalECPrivateKey(pair.TLS().PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	token := append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), pair.Cert...)
	if err := os.WriteFile(filepath.Join(cache, name+"+token"), token, 0o600); err != nil {
		t.Fatal(err)
	}
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{"acme-tls/1"}}}
	conn, err := d.DialContext(t.Context(), "tcp", n.ProxyAddr().String())
	if err != nil {
		t.Fatalf("the challenge is not answered: %v", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+name+"\r\n\r\n")
	if got, _ := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("a client without a certificate got an answer: %q", got)
	}
	if strings.Contains(n.log.String(), `"msg":"request"`) {
		t.Error("its request was forwarded")
	}
}

func TestThePortForChallengesServesNothingElse(t *testing.T) {
	t.Parallel()
	c := newTestTLS(t)
	change, _ := withACME(t, c)
	n := startNode(t, change)
	startAgent(t, n, "my-endpoint", testService(t).URL)
	client := newClient(t)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	url := "http://" + n.challenges.ln.Addr().String()
	for _, tt := range []struct {
		host, path string
		status     int
		location   string
	}{
		{"my-endpoint.example.test", "/a?b=c", http.StatusFound, "https://my-endpoint.example.test/a?b=c"},
		{"my-endpoint.example.test:80", "/", http.StatusFound, "https://my-endpoint.example.test/"},
		{"none.example.test", "/", http.StatusNotFound, ""},
		{"evil.test", "/", http.StatusNotFound, ""},
		{"my-endpoint.example.test.evil.test", "/", http.StatusNotFound, ""},
		{"my-endpoint.example.test", "/.well-known/acme-challenge/none", http.StatusFound, "https://my-endpoint.example.test/.well-known/acme-challenge/none"},
	} {
		status, body, header := get(t, client, url+tt.path, "Host", tt.host, "x-piko-endpoint", "my-endpoint")
		if status != tt.status || header.Get("Location") != tt.location {
			t.Errorf("%s%s: got %d, %q, %q", tt.host, tt.path, status, header.Get("Location"), body)
		}
	}
}

func TestMistakesInACME(t *testing.T) {
	file := certstest.WriteFile(t, "file", nil)
	right := []string{"--proxy.tls.acme.enabled", "--proxy.tls.acme.accept-terms", "--proxy.tls.acme.cache-dir", t.TempDir(), "--proxy.domain", "example.test"}
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"nothing else", []string{"--proxy.tls.acme.enabled"}, exitUsage, "--proxy.tls.acme.accept-terms: missing"},
		{"no directory", []string{"--proxy.tls.acme.enabled", "--proxy.tls.acme.accept-terms"}, exitUsage, "--proxy.tls.acme.cache-dir: missing"},
		{"no domain", []string{"--proxy.tls.acme.enabled", "--proxy.tls.acme.accept-terms", "--proxy.tls.acme.cache-dir", "x"}, exitUsage, "--proxy.tls.acme.domain: missing"},
		{"wildcard", append(right, "--proxy.tls.acme.domain", "*.example.test"), exitUsage, "not a domain"},
		{"directory that is a file", append(right, "--proxy.tls.acme.cache-dir", file), exitFailure, "--proxy.tls.acme.cache-dir"},
		{"authorities that are not there", append(right, "--proxy.tls.acme.root-cas", "/nowhere"), exitUsage, "--proxy.tls.acme.root-cas: open /nowhere"},
		{"negative", append(right, "--proxy.tls.acme.per-week=-1"), exitUsage, "--proxy.tls.acme.per-week"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, _, stderr := runPiko(t, append(append([]string{"server"}, anyPorts...), tt.args...)...)
			if status != tt.status || !strings.Contains(stderr, tt.want) {
				t.Errorf("status %d, %s", status, stderr)
			}
		})
	}
}

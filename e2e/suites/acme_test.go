package suites

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"piko/certs/certstest"
)

// pebble is an authority that speaks ACME, with names that all lead to this machine.
type pebble struct {
	*process
	directory  string // URL
	management string
	ca         *certstest.CA // of the URLs themselves
}

// startPebble has challenges go to these addresses.
func startPebble(t testing.TB, tlsAddr, httpAddr string) *pebble {
	t.Helper()
	p := &pebble{ca: certstest.NewCA(t, "pebble")}
	listen, management, dns := freeAddr(t), freeAddr(t), freeAddr(t)
	cert, key := p.ca.Issue([]string{"127.0.0.1"}).Files()
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": management, "certificate": cert, "privateKey": key,
		"httpPort": portOf(t, httpAddr), "tlsPort": portOf(t, tlsAddr), "keyAlgorithm": "ecdsa",
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "the only one", "validityPeriod": 7776000}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, "pebble-dns", pebbleDNSBinary, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dnsserver", dns,
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", freeAddr(t))
	p.process = start(t, "pebble", "/usr/bin/env", "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", "PEBBLE_AUTHZREUSE=0",
		pebbleBinary, "-strict", "-config", certstest.WriteFile(t, "pebble.json", config), "-dnsserver", dns)
	p.directory, p.management = "https://"+listen+"/dir", "https://"+management
	eventually(t, 20*time.Second, "pebble and its names answer", func() error {
		nc, err := net.DialTimeout("tcp", dns, time.Second)
		if err != nil {
			return err
		}
		nc.Close()
		_, err = p.get(t, p.directory)
		return err
	})
	return p
}

func portOf(t testing.TB, addr string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (p *pebble) get(t testing.TB, url string) ([]byte, error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.ca.Pool()}, DisableKeepAlives: true}
	res, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

// roots are whom clients trust.
func (p *pebble) roots(t testing.TB) *x509.CertPool {
	t.Helper()
	text, err := p.get(t, p.management+"/roots/0")
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatalf("get pebble's root: %.80q, %v", text, err)
	}
	return pool
}

// args have a node get certificates of pebble.
func (p *pebble) args(cache string) []string {
	return []string{
		"--proxy.domain", domain, "--proxy.tls.acme.enabled", "--proxy.tls.acme.accept-terms", "--proxy.tls.acme.cache-dir", cache,
		"--proxy.tls.acme.directory-url", p.directory, "--proxy.tls.acme.root-cas", p.ca.File(), "--proxy.tls.acme.domain", "www." + domain,
	}
}

// askTLS makes a request to a host at an address, and checks its certificate.
func askTLS(addr, host string, config *tls.Config) (body string, err error) {
	config = config.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport, Timeout: 15 * time.Second}).Get("https://" + host + "/")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return fmt.Sprintf("%d %s", res.StatusCode, text), err
}

// helloService is a service that greets.
func helloService(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// closedAddr is one at which nobody answers.
const closedAddr = "127.0.0.1:1"

func TestCertificatesOfPebble(t *testing.T) {
	t.Parallel()
	clients := certstest.NewCA(t, "clients")
	mine := clients.Issue([]string{"me"})
	for _, tt := range []struct {
		name string
		http bool
		args []string
	}{
		// The challenge gets through although clients have to show a certificate.
		{"TLS-ALPN-01", false, []string{"--proxy.tls.client-cas", clients.File()}},
		{"HTTP-01", true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "node", tt.args)
			tlsAddr, httpAddr := n.proxy, closedAddr
			if tt.http {
				tlsAddr, httpAddr = closedAddr, freeAddr(t)
				n.args = append(n.args, "--proxy.tls.acme.http-addr", httpAddr)
			}
			authority := startPebble(t, tlsAddr, httpAddr)
			n.args = append(n.args, authority.args(t.TempDir())...)
			n.start(t)
			n.waitReady(t)
			(&path{entry: n, owner: n}).agent(t, "hello", helloService(t))
			config := &tls.Config{RootCAs: authority.roots(t), Certificates: []tls.Certificate{mine.TLS()}}

			eventually(t, time.Minute, "the endpoint has a certificate", func() error { return wants(n.proxy, "hello", config, "200 hello") })
			eventually(t, time.Minute, "the configured name has a certificate", func() error { return wants(n.proxy, "www", config, "502") })
			if err := wants(n.proxy, "nobody", config, ""); err == nil {
				t.Error("an endpoint that is not there has a certificate")
			}
			if tt.args != nil {
				stranger := &tls.Config{RootCAs: config.RootCAs}
				if err := wants(n.proxy, "hello", stranger, ""); err == nil {
					t.Error("a client without a certificate got in")
				}
			}
			// The next start needs no authority.
			authority.cmd.Process.Kill()
			n.cmd.Process.Kill()
			<-n.exited
			n.start(t)
			n.waitReady(t)
			eventually(t, time.Minute, "the certificate is there after a restart", func() error { return wants(n.proxy, "hello", config, "200 hello") })
			if text, err := os.ReadFile(n.output); err != nil || strings.Contains(string(text), "certificate issued") {
				t.Errorf("a certificate was asked for again: %v", err)
			}
		})
	}
}

// The authority may reach another node than the one that asks: what they share is the directory.
func TestNodesAnswerEachOthersChallenges(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	owner, entry := newNode(t, "owner", nil), newNode(t, "entry", nil)
	authority := startPebble(t, owner.proxy, closedAddr)
	owner.args = append(append(owner.args, "--cluster.join", entry.gossip), authority.args(cache)...)
	entry.args = append(append(entry.args, "--cluster.join", owner.gossip), authority.args(cache)...)
	for _, n := range []*node{owner, entry} {
		n.start(t)
	}
	for _, n := range []*node{owner, entry} {
		n.waitReady(t)
	}
	(&path{entry: entry, owner: owner}).agent(t, "hello", helloService(t))
	config := &tls.Config{RootCAs: authority.roots(t)}
	for _, n := range []*node{entry, owner} { // the first asks, and the second has it from the directory
		eventually(t, time.Minute, n.id+" has a certificate", func() error { return wants(n.proxy, "hello", config, "200 hello") })
	}
	if _, err := os.Stat(filepath.Join(cache, hostOf("hello"))); err != nil {
		t.Error(err)
	}
}

// wants makes a request for an endpoint whose answer begins with want.
func wants(addr, endpoint string, config *tls.Config, want string) error {
	got, err := askTLS(addr, hostOf(endpoint), config)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(got, want) {
		return errors.New("got " + got)
	}
	return nil
}

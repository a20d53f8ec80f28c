package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// withTLS returns a change that makes the proxy port speak TLS, and whom
// clients have to trust.
func withTLS(t *testing.T) (change func(*serverConfig), trust *tls.Config) {
	t.Helper()
	cert, key := newCertificate(t)
	var files serverTLSConfig
	files.Cert.list, files.Key.list = []string{writeFile(t, "cert.pem", cert)}, []string{writeFile(t, "key.pem", key)}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(cert))
	return func(cfg *serverConfig) { cfg.Proxy.TLS.serverTLSConfig = files }, &tls.Config{RootCAs: pool, ServerName: "node.test"}
}

// newHTTP2Client speaks HTTP/2 only: with prior knowledge, or over TLS.
func newHTTP2Client(t *testing.T, trust *tls.Config) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: trust.Clone()}
	transport.Protocols.SetUnencryptedHTTP2(trust == nil)
	transport.Protocols.SetHTTP2(trust != nil)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func newTLSClient(t *testing.T, trust *tls.Config) *http.Client {
	t.Helper()
	c := newClient(t)
	c.Transport.(*http.Transport).TLSClientConfig = trust.Clone()
	return c
}

func TestHTTP1AndHTTP2ShareThePort(t *testing.T) {
	t.Parallel()
	change, trust := withTLS(t)
	for _, tt := range []struct {
		name, scheme, want string
		change             func(*serverConfig)
		client             *http.Client
	}{
		{"HTTP/1.1", "http", "HTTP/1.1", nil, newClient(t)},
		{"HTTP/2 with prior knowledge", "http", "HTTP/2.0", nil, newHTTP2Client(t, nil)},
		{"HTTP/1.1 over TLS", "https", "HTTP/1.1", change, newTLSClient(t, trust)},
		{"HTTP/2 over TLS", "https", "HTTP/2.0", change, newHTTP2Client(t, trust)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := startNode(t, tt.change)
			defer tt.client.CloseIdleConnections() // or the node gives them time when it stops
			startAgent(t, n, "my-endpoint", testService(t).URL)
			for range 3 { // also on a connection that is there
				status, body, _ := get(t, tt.client, tt.scheme+"://"+n.ProxyAddr().String()+"/a?b=c", "x-piko-endpoint", "my-endpoint")
				if status != http.StatusOK || body != "GET /a?b=c my-endpoint " {
					t.Fatalf("got %d %q", status, body)
				}
			}
			eventually(t, func() error {
				if want := `"proto":"` + tt.want + `"`; strings.Count(n.log.String(), want) != 3 {
					return fmt.Errorf("the access log does not say %s thrice", want)
				}
				return nil
			})
		})
	}
}

func TestPortWithTLSTellsClientsWithoutIt(t *testing.T) {
	t.Parallel()
	change, _ := withTLS(t)
	n := startNode(t, change)
	url := "http://" + n.ProxyAddr().String()
	for name, c := range map[string]*http.Client{"HTTP/1.1": newClient(t), "HTTP/2": newHTTP2Client(t, nil)} {
		for _, path := range []string{"/", "/_piko/v1/tcp/my-endpoint"} {
			status, body, _ := get(t, c, url+path, "x-piko-endpoint", "my-endpoint")
			if status != http.StatusBadRequest || !strings.Contains(body, "this port speaks TLS") {
				t.Errorf("%s %s: got %d %q", name, path, status, body)
			}
		}
	}
}

// Other nodes come to the same port without TLS: what they bring is encrypted
// in a way of their own.
func TestNodesReachEachOtherOnPortsWithTLS(t *testing.T) {
	t.Parallel()
	change, trust := withTLS(t)
	nodes := startCluster(t, 2, change)
	startAgent(t, nodes[0], "my-endpoint", testService(t).URL)
	for _, c := range []*http.Client{newTLSClient(t, trust), newHTTP2Client(t, trust)} {
		eventually(t, func() error {
			status, body, _ := get(t, c, "https://"+nodes[1].ProxyAddr().String()+"/", "x-piko-endpoint", "my-endpoint")
			if status != http.StatusOK {
				return fmt.Errorf("got %d %q", status, body)
			}
			return nil
		})
	}
}

// A connection that says nothing holds up neither others nor the node's end.
func TestSilentConnectionsToAPortWithTLS(t *testing.T) {
	t.Parallel()
	change, trust := withTLS(t)
	n := startNode(t, func(cfg *serverConfig) {
		change(cfg)
		cfg.Proxy.HTTP.ReadHeaderTimeout = 100 * time.Millisecond
	})
	silent, err := net.Dial("tcp", n.ProxyAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if status, _, _ := get(t, newTLSClient(t, trust), "https://"+n.ProxyAddr().String()+"/"); status != http.StatusBadRequest {
		t.Errorf("got %d, want 400: no endpoint is named", status)
	}
	silent.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := silent.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the silent connection ended with %v, want an end", err)
	}
	last, err := net.Dial("tcp", n.ProxyAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
}

// Clients that multiplex get a GOAWAY when the node stops: whatever they have
// sent is answered, or they know that nobody has seen it.
func TestDrainLosesNoRequestOfHTTP2Clients(t *testing.T) {
	t.Parallel()
	change, trust := withTLS(t)
	for _, tt := range []struct {
		name, scheme string
		change       func(*serverConfig)
		trust        *tls.Config
	}{{"h2c", "http", nil, nil}, {"h2", "https", change, trust}} {
		t.Run(tt.name, func(t *testing.T) {
			n := startNode(t, tt.change)
			startAgent(t, n, "my-endpoint", testService(t).URL)
			var served, refused atomic.Int64
			var clients sync.WaitGroup
			for range 4 {
				c := newHTTP2Client(t, tt.trust)
				for range 4 {
					clients.Go(func() { askUntilRefused(t, c, tt.scheme+"://"+n.ProxyAddr().String(), &served, &refused) })
				}
			}
			eventually(t, func() error {
				if served.Load() < 300 {
					return fmt.Errorf("%d requests served", served.Load())
				}
				return nil
			})
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
			clients.Wait()
			if refused.Load() != 16 || !strings.Contains(n.log.String(), `"requests_cut":0`) {
				t.Errorf("%d of 16 workers went elsewhere", refused.Load())
			}
		})
	}
}

// askUntilRefused sends requests until the node takes no connections any more.
func askUntilRefused(t *testing.T, c *http.Client, url string, served, refused *atomic.Int64) {
	for i := 0; ; i++ {
		status, err := post(t.Context(), c, url, fmt.Sprint(i))
		switch {
		case err == nil && status == http.StatusOK:
			served.Add(1)
		case errors.As(err, new(*net.OpError)) && strings.Contains(err.Error(), "connection refused"):
			refused.Add(1)
			return // clients go to another node
		default:
			t.Errorf("lost a request: status %d, error %v", status, err)
			return
		}
	}
}

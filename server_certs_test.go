package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"piko/agent"
	"piko/certs/certstest"
	"piko/client"
)

// testTLS is a cluster's certificates: one authority for what ports show, one
// for clients, one for nodes.
type testTLS struct {
	t                    *testing.T
	ca, clients, cluster *certstest.CA
}

func newTestTLS(t *testing.T) *testTLS {
	t.Helper()
	return &testTLS{t, certstest.NewCA(t, "ca"), certstest.NewCA(t, "clients"), certstest.NewCA(t, "cluster")}
}

const loopback = "127.0.0.1"

// port is the section of a port that asks clients for certificates.
func (c *testTLS) port() (section serverTLSConfig) {
	cert, key := c.ca.Issue([]string{loopback}).Files()
	section.Cert.list, section.Key.list, section.ClientCAs = []string{cert}, []string{key}, c.clients.File()
	return section
}

// client is a section of something that dials these ports.
func (c *testTLS) client() (section clientTLSConfig) {
	section.Cert, section.Key = c.clients.Issue([]string{"client"}).Files()
	section.RootCAs = c.ca.File()
	return section
}

// everywhere has all ports of a node speak TLS.
func (c *testTLS) everywhere(cfg *serverConfig) {
	cfg.Proxy.TLS.serverTLSConfig = c.port()
	cfg.Upstream.TLS.serverTLSConfig = c.port()
	cfg.Admin.TLS.serverTLSConfig = c.port()
	cfg.Admin.TLS.Client = c.client()
	cert, key := c.cluster.Issue([]string{loopback}).Files()
	cfg.Cluster.TLS = clusterTLS{Cert: cert, Key: key, CAs: c.cluster.File()}
}

// config is what a client has whose certificate the ports know.
func (c *testTLS) config(shown ...certstest.Pair) *tls.Config {
	config := &tls.Config{RootCAs: c.ca.Pool()}
	for _, p := range shown {
		config.Certificates = append(config.Certificates, p.TLS())
	}
	return config
}

// startTLSAgent runs an agent that dials with config until the test's end.
func startTLSAgent(t *testing.T, n *testNode, endpoint, addr string, section clientTLSConfig) {
	t.Helper()
	loaded, err := section.load("--connect.tls.")
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(agent.Config{Listeners: []agent.Listener{{Endpoint: endpoint, Addr: addr}}},
		&client.Client{URL: "https://" + n.UpstreamAddr().String(), GetTLS: tlsSource(loaded)}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent failed: %v", err)
		}
	})
	eventually(t, func() error {
		if _, upstreams := n.table.Totals(); upstreams == 0 {
			return fmt.Errorf("the agent for %s is not connected", endpoint)
		}
		return nil
	})
}

func TestEveryPortAndLegWithTLS(t *testing.T) {
	t.Parallel()
	c := newTestTLS(t)
	nodes := startCluster(t, 2, c.everywhere)
	startTLSAgent(t, nodes[0], "my-endpoint", testService(t).URL, c.client())
	mine := c.config(c.clients.Issue([]string{"me"}))
	for _, client := range []*http.Client{newTLSClient(t, mine), newHTTP2Client(t, mine)} {
		for _, n := range nodes { // the second through the first
			eventually(t, func() error {
				status, body, _ := get(t, client, "https://"+n.ProxyAddr().String()+"/", "x-piko-endpoint", "my-endpoint")
				if status != http.StatusOK {
					return fmt.Errorf("got %d %s", status, body)
				}
				return nil
			})
		}
	}
	admin := "https://" + nodes[0].AdminAddr().String()
	status, body, _ := get(t, newTLSClient(t, mine), admin+"/status/cluster/nodes/local?forward="+nodes[1].id)
	if status != http.StatusOK || !strings.Contains(body, `"id":"`+nodes[1].id+`"`) {
		t.Errorf("a question that is passed on: got %d %s", status, body)
	}
	if _, body, _ = get(t, newTLSClient(t, mine), admin+"/metrics"); strings.Count(body, "piko_tls_certificate_expiry_timestamp_seconds{") != 5 {
		t.Errorf("the metrics do not say when five certificates expire:\n%s", body)
	}
}

func TestStrangersGetPastNoPortWithTLS(t *testing.T) {
	t.Parallel()
	c := newTestTLS(t)
	n := startNode(t, c.everywhere)
	others := certstest.NewCA(t, "clients")
	for name, addr := range map[string]net.Addr{"proxy": n.ProxyAddr(), "upstream": n.UpstreamAddr(), "admin": n.AdminAddr()} {
		for what, config := range map[string]*tls.Config{
			"without a certificate":                    c.config(),
			"with one of another authority":            c.config(others.Issue([]string{"me"})),
			"with one of the cluster's authority":      c.config(c.cluster.Issue([]string{"me"})),
			"with one of the servers' authority":       c.config(c.ca.Issue([]string{"me"})),
			"with one that is for servers":             c.config(c.clients.Issue([]string{"me"}, certstest.ForServers)),
			"with TLS 1.1, though with the right one ": {RootCAs: c.ca.Pool(), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, Certificates: c.config(c.clients.Issue([]string{"me"})).Certificates},
		} {
			if len(config.Certificates) > 0 { // Go shows only those that the server says that it takes
				shown := config.Certificates[0]
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shown, nil }
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr.String()+"/health", nil)
			if err != nil {
				t.Fatal(err)
			}
			if res, err := newTLSClient(t, config).Do(req); err == nil {
				res.Body.Close()
				t.Errorf("%s: a client %s got an answer, %d", name, what, res.StatusCode)
			}
		}
		status, body, _ := get(t, newClient(t), "http://"+addr.String()+"/health")
		if status != http.StatusBadRequest || !strings.Contains(body, "this port speaks TLS") {
			t.Errorf("%s: without TLS: got %d %q", name, status, body)
		}
	}
}

// Agents speak WebSocket, which is HTTP/1.1: a client or load balancer that
// prefers HTTP/2 must not get it there.
func TestTheUpstreamPortAgreesToHTTP1Alone(t *testing.T) {
	t.Parallel()
	c := newTestTLS(t)
	n := startNode(t, c.everywhere)
	for _, tt := range []struct {
		name string
		addr net.Addr
		want string
	}{{"proxy", n.ProxyAddr(), "h2"}, {"upstream", n.UpstreamAddr(), "http/1.1"}, {"admin", n.AdminAddr(), "h2"}} {
		config := c.config(c.clients.Issue([]string{"me"}))
		config.NextProtos = []string{"h2", "http/1.1"}
		d := tls.Dialer{Config: config}
		conn, err := d.DialContext(t.Context(), "tcp", tt.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != tt.want {
			t.Errorf("%s: agreed on %q, want %q", tt.name, got, tt.want)
		}
		conn.Close()
	}
}

// One file that is wrong leaves everything as it was, also what other ports
// have of new files.
func TestReloadOfANodeIsAllOrNothing(t *testing.T) {
	t.Parallel()
	c := newTestTLS(t)
	n := startNode(t, c.everywhere)
	shown := func(addr net.Addr) string {
		t.Helper()
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, Certificates: c.config(c.clients.Issue([]string{"me"})).Certificates}}
		conn, err := d.DialContext(t.Context(), "tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := []string{shown(n.ProxyAddr()), shown(n.UpstreamAddr()), shown(n.AdminAddr())}
	now := func() []string { return []string{shown(n.ProxyAddr()), shown(n.UpstreamAddr()), shown(n.AdminAddr())} }
	for _, port := range []*serverTLSConfig{&n.cfg.Proxy.TLS.serverTLSConfig, &n.cfg.Upstream.TLS.serverTLSConfig, &n.cfg.Admin.TLS.serverTLSConfig} {
		c.ca.Issue([]string{loopback}).Write(port.Cert.list[0], port.Key.list[0])
	}
	good := c.client().Key // another's
	next := n.cfg
	next.Admin.TLS.Client.Key = good
	if _, _, err := n.prepare(next); err == nil || !strings.Contains(err.Error(), "--admin.tls.client.cert and key") {
		t.Errorf("another's key was taken: %v", err)
	}
	if got := now(); !slices.Equal(got, before) {
		t.Error("something of a reload with a mistake is in force")
	}
	commit, applied, err := n.prepare(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(applied)
	if want := []string{"admin.tls.cert", "proxy.tls.cert", "upstream.tls.cert"}; !slices.Equal(applied, want) {
		t.Errorf("applied %q, want %q", applied, want)
	}
	if got := now(); !slices.Equal(got, before) {
		t.Error("something is in force before commit")
	}
	commit()
	for i, serial := range now() {
		if serial == before[i] {
			t.Errorf("port %d shows the old certificate", i)
		}
	}
}

func TestWhetherAPortSpeaksTLSNeedsARestart(t *testing.T) {
	t.Parallel()
	c := newTestTLS(t)
	n := startNode(t, nil)
	next := n.cfg
	c.everywhere(&next)
	commit, applied, err := n.prepare(next)
	if err != nil || len(applied) > 0 {
		t.Fatalf("applied %q, %v", applied, err)
	}
	commit()
	if status, _, _ := get(t, newClient(t), "http://"+n.AdminAddr().String()+"/health"); status != http.StatusOK {
		t.Errorf("got %d", status)
	}
}

// The keys of v0.9.0, as they stand in its files.
func TestTLSSectionsOfV090(t *testing.T) {
	t.Parallel()
	c := newTestTLS(t)
	section, dial := c.port(), c.client()
	var text strings.Builder
	for _, port := range []string{"proxy", "upstream", "admin"} {
		text.WriteString(fmt.Sprintf(`%s:
  tls:
    cert: %s
    key: %s
    client_cas: %s
    client: {cert: %s, key: %s, root_cas: %s, insecure_skip_verify: true, server_name: node}
`, port, section.Cert.list[0], section.Key.list[0], section.ClientCAs, dial.Cert, dial.Key, dial.RootCAs))
	}
	p := newTestProcess(t)
	status := startRun(t, p, append([]string{"server", "--config.path", writeFile(t, "server.yaml", text.String())}, anyPorts...)...)
	eventually(t, func() error { return logged(p, "node ready") })
	p.sigs <- interrupt
	if got := <-status; got != exitOK {
		t.Errorf("exit status %d", got)
	}
	if got := strings.Count(p.err.String(), "are of v0.9.0 and have no effect"); got != 1 {
		t.Errorf("%d warnings about what has no effect, want 1:\n%s", got, p.err.String())
	}
	if status, out, stderr := runPiko(t, "config", "check", "server", "--config.path", writeFile(t, "server.yaml", text.String())); status != exitOK {
		t.Errorf("config check: %d %s%s", status, out, stderr)
	}
	broken := strings.Replace(text.String(), section.Key.list[0], dial.Key, 1)
	if status, _, stderr := runPiko(t, "config", "check", "server", "--config.path", writeFile(t, "server.yaml", broken)); status != exitUsage || !strings.Contains(stderr, "--proxy.tls.cert and key") {
		t.Errorf("config check of another's key: %d %s", status, stderr)
	}
}

func TestStatusCommandWithTLS(t *testing.T) {
	t.Parallel()
	c := newTestTLS(t)
	n := startNode(t, c.everywhere)
	url, dial := "https://"+n.AdminAddr().String(), c.client()
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"all", []string{"--server.tls.root-cas", dial.RootCAs, "--server.tls.cert", dial.Cert, "--server.tls.key", dial.Key}, exitOK, n.id},
		{"another name", []string{"--server.tls.root-cas", dial.RootCAs, "--server.tls.cert", dial.Cert, "--server.tls.key", dial.Key, "--server.tls.server-name", "other.test"}, exitFailure, "--server.tls.server-name"},
		{"no authority", []string{"--server.tls.cert", dial.Cert, "--server.tls.key", dial.Key}, exitFailure, "--server.tls.root-cas"},
		{"no certificate", []string{"--server.tls.root-cas", dial.RootCAs}, exitFailure, "--server.tls.cert"},
		{"certificate without key", []string{"--server.tls.cert", dial.Cert}, exitUsage, "--server.tls.key: missing"},
		{"file that is not there", []string{"--server.tls.root-cas", "/nowhere"}, exitUsage, "--server.tls.root-cas: open /nowhere"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, stdout, stderr := runPiko(t, append([]string{"server", "status", "cluster", "nodes", "--server.url", url}, tt.args...)...)
			if status != tt.status || !strings.Contains(stdout+stderr, tt.want) {
				t.Errorf("status %d, %s%s", status, stdout, stderr)
			}
		})
	}
}

func TestBenchOfPortsWithTLS(t *testing.T) {
	t.Parallel()
	c := newTestTLS(t)
	n := startNode(t, c.everywhere)
	dial := c.client()
	for _, kind := range []string{"http", "grpc", "tcp"} {
		args := []string{"bench", kind, "--requests", "20", "--clients", "2", "--endpoints", "1", "--upstreams", "1",
			"--connect.proxy-url", "https://" + n.ProxyAddr().String(), "--connect.upstream-url", "https://" + n.UpstreamAddr().String()}
		status, stdout, stderr := runPiko(t, append(args, "--connect.tls.root-cas", dial.RootCAs, "--connect.tls.cert", dial.Cert, "--connect.tls.key", dial.Key)...)
		if status != exitOK || !strings.Contains(stdout, "20") {
			t.Errorf("%s: status %d, %s%s", kind, status, stdout, stderr)
		}
	}
	for kind, args := range map[string][]string{
		"idle":    {"--tunnels", "2", "--hold", "0s"},
		"connect": {"--listeners", "2"},
		"cluster": {"--endpoints", "2", "--pause", "0s", "--connect.proxy-url", "https://" + n.ProxyAddr().String()},
	} {
		args = append([]string{"bench", kind, "--connect.upstream-url", "https://" + n.UpstreamAddr().String(), "--connect.tls.root-cas", dial.RootCAs}, args...)
		if status, stdout, stderr := runPiko(t, append(args, "--connect.tls.cert", dial.Cert, "--connect.tls.key", dial.Key)...); status != exitOK {
			t.Errorf("%s: status %d, %s%s", kind, status, stdout, stderr)
		}
		if status, _, stderr := runPiko(t, append(args, "--connect.timeout", "1s")...); status == exitOK || !strings.Contains(stderr, "certificate") {
			t.Errorf("%s without a certificate: status %d, %s", kind, status, stderr)
		}
	}
}

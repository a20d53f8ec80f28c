//go:build e2e

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/certs/certstest"
)

// secretDir is a directory as Kubernetes mounts a secret: its files are links through ..data,
// which is replaced when they change, all at once.
type secretDir struct {
	t       testing.TB
	dir     string
	version int
}

func newSecretDir(t testing.TB) *secretDir { return &secretDir{t: t, dir: t.TempDir()} }

func (s *secretDir) path(name string) string { return filepath.Join(s.dir, name) }

// write replaces all files.
func (s *secretDir) write(files map[string][]byte) {
	s.t.Helper()
	s.version++
	version := fmt.Sprintf("..version-%d", s.version)
	errs := []error{os.Mkdir(s.path(version), 0o700)}
	for name, text := range files {
		errs = append(errs, os.WriteFile(filepath.Join(s.dir, version, name), text, 0o600))
		if s.version == 1 {
			errs = append(errs, os.Symlink(filepath.Join("..data", name), s.path(name)))
		}
	}
	errs = append(errs, os.Symlink(version, s.path("..new")), os.Rename(s.path("..new"), s.path("..data")))
	if err := errors.Join(errs...); err != nil {
		s.t.Fatal(err)
	}
}

// rotation is everything that has to change: four authorities, and who has what of them.
type rotation struct {
	t      testing.TB
	before authorities
	after  authorities
	dirs   map[string]*secretDir // by the name of a process
}

// authorities are those of one time.
type authorities struct{ ports, clients, nodes *certstest.CA }

func newAuthorities(t testing.TB) authorities {
	return authorities{certstest.NewCA(t, "ports"), certstest.NewCA(t, "clients"), certstest.NewCA(t, "nodes")}
}

// write gives every process certificates of one time, and has it trust the authorities of some.
func (r *rotation) write(shown authorities, trusted ...authorities) {
	r.t.Helper()
	bundles := map[string][]byte{}
	for _, a := range trusted {
		bundles["ports-ca.pem"] = append(bundles["ports-ca.pem"], a.ports.PEM...)
		bundles["clients-ca.pem"] = append(bundles["clients-ca.pem"], a.clients.PEM...)
		bundles["nodes-ca.pem"] = append(bundles["nodes-ca.pem"], a.nodes.PEM...)
	}
	for name, dir := range r.dirs {
		port, client, node := shown.ports.Issue([]string{"127.0.0.1"}), shown.clients.Issue([]string{name}), shown.nodes.Issue([]string{"127.0.0.1"})
		files := map[string][]byte{
			"port.crt": port.Cert, "port.key": port.Key, "client.crt": client.Cert, "client.key": client.Key, "node.crt": node.Cert, "node.key": node.Key,
		}
		maps.Copy(files, bundles)
		dir.write(files)
	}
}

// nodeFlags are all the certificates of a node.
func (s *secretDir) nodeFlags() (flags []string) {
	for _, port := range []string{"proxy", "upstream", "admin"} {
		flags = append(flags, "--"+port+".tls.cert", s.path("port.crt"), "--"+port+".tls.key", s.path("port.key"), "--"+port+".tls.client-cas", s.path("clients-ca.pem"))
	}
	return append(flags, "--cluster.tls.cert", s.path("node.crt"), "--cluster.tls.key", s.path("node.key"), "--cluster.tls.cas", s.path("nodes-ca.pem"),
		"--admin.tls.client.cert", s.path("client.crt"), "--admin.tls.client.key", s.path("client.key"), "--admin.tls.client.root-cas", s.path("ports-ca.pem"))
}

// agentFlags are those of an agent.
func (s *secretDir) agentFlags() []string {
	return []string{"--connect.tls.cert", s.path("client.crt"), "--connect.tls.key", s.path("client.key"), "--connect.tls.root-cas", s.path("ports-ca.pem")}
}

// config is that of a client that reads the files of a directory now.
func (s *secretDir) config() (*tls.Config, error) {
	version, err := filepath.EvalSymlinks(s.path("..data")) // so that all is of one version
	if err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(version, "client.crt"), filepath.Join(version, "client.key"))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(version, "ports-ca.pem"))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	// Shown whatever authorities the server names: it is for it to refuse.
	return &tls.Config{RootCAs: pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }}, err
}

// ask makes one request over a connection of its own.
func (s *secretDir) ask(addr, path, endpoint string) error {
	config, err := s.config()
	if err != nil {
		return err
	}
	return askWith(&http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}, addr, path, endpoint)
}

func askWith(c *http.Client, addr, path, endpoint string) error {
	req, err := http.NewRequest(http.MethodGet, "https://"+addr+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("x-piko-endpoint", endpoint)
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %.200s", res.StatusCode, body)
	}
	return err
}

// rotationLoad sends 200 requests a second until stop: over connections that are kept, of HTTP/1.1 and
// HTTP/2, and over new ones.
type rotationLoad struct {
	sent, failed atomic.Int64
	first        atomic.Pointer[error]
	stop         func()
}

func startRotationLoad(dir *secretDir, addr string, endpoints ...string) *rotationLoad {
	s := &rotationLoad{}
	done := make(chan struct{})
	var workers sync.WaitGroup
	const workerCount = 40
	for i := range workerCount {
		workers.Go(func() {
			kept := &http.Transport{ForceAttemptHTTP2: i%4 == 0}
			kept.TLSClientConfig, _ = dir.config()
			defer kept.CloseIdleConnections()
			tick := time.NewTicker(workerCount * time.Second / 200)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-done:
					return
				}
				endpoint := endpoints[int(s.sent.Add(1))%len(endpoints)]
				var err error
				if i%2 == 0 {
					err = askWith(&http.Client{Transport: kept, Timeout: 20 * time.Second}, addr, "/", endpoint)
				} else {
					err = dir.ask(addr, "/", endpoint)
				}
				if err != nil {
					s.failed.Add(1)
					s.first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	s.stop = sync.OnceFunc(func() { close(done); workers.Wait() })
	return s
}

// waitReloads waits until every process has taken over its files n times.
func waitReloads(t testing.TB, n int, processes ...*process) {
	t.Helper()
	for _, p := range processes {
		eventually(t, 30*time.Second, fmt.Sprintf("%s has reloaded %d times", p.name, n), func() error {
			log := p.readOutput()
			if strings.Contains(log, "configuration not reloaded") {
				return errors.New("it could not")
			}
			if got := strings.Count(log, `"configuration reloaded"`); got < n {
				return fmt.Errorf("%d times", got)
			}
			return nil
		})
	}
}

// TestRotationOfAllCertificatesUnderLoad replaces every authority and certificate of a cluster and
// its agents, as one does it: first trust both, then show the new, then trust the new alone.
func TestRotationOfAllCertificatesUnderLoad(t *testing.T) {
	t.Parallel()
	r := &rotation{t: t, before: newAuthorities(t), after: newAuthorities(t), dirs: map[string]*secretDir{}}
	for _, name := range []string{"n1", "n2", "both", "far", "client"} {
		r.dirs[name] = newSecretDir(t)
	}
	r.write(r.before, r.before)
	client := r.dirs["client"]

	type node struct {
		*server
		gossip string
	}
	nodes := []*node{{&server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t)}, freeAddr(t)}, {&server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t)}, freeAddr(t)}}
	run := func(i int) {
		n, other, id := nodes[i], nodes[1-i], fmt.Sprintf("n%d", i+1)
		n.process = start(t, id, nil, pikoBinary, append([]string{
			"server", "--cluster.node-id", id, "--proxy.bind-addr", n.proxy, "--upstream.bind-addr", n.upstream, "--admin.bind-addr", n.admin,
			"--cluster.gossip.bind-addr", n.gossip, "--cluster.join", other.gossip, "--cluster.secret", "rotation-0123456789abcdef",
		}, r.dirs[id].nodeFlags()...)...)
		t.Cleanup(n.process.checkLog)
	}
	ready := func(i int) {
		eventually(t, 20*time.Second, fmt.Sprintf("node %d is ready", i+1), func() error { return client.ask(nodes[i].admin, "/ready", "") })
	}
	run(0)
	run(1)
	ready(0)
	ready(1)
	origin := startOrigin(t, "origin")
	agent := func(name, endpoint string, urls ...string) *process {
		flags := r.dirs[name].agentFlags()
		for _, u := range urls {
			flags = append(flags, "--connect.url", "https://"+u)
		}
		p := start(t, name, nil, pikoBinary, append([]string{"agent", "http", endpoint, origin.addr}, flags...)...)
		t.Cleanup(p.checkLog)
		return p
	}
	both := agent("both", "near", nodes[0].upstream, nodes[1].upstream)
	far := agent("far", "far", nodes[1].upstream) // by a hop, as clients go to the first node
	for _, endpoint := range []string{"near", "far"} {
		eventually(t, 20*time.Second, endpoint+" is reachable", func() error { return client.ask(nodes[0].proxy, "/", endpoint) })
	}
	// A stranger's certificates of before, for the end.
	old := &secretDir{t: t, dir: t.TempDir()}
	(&rotation{t: t, dirs: map[string]*secretDir{"old": old}}).write(r.before, r.before, r.after)

	load := startRotationLoad(client, nodes[0].proxy, "near", "far")
	defer load.stop()
	all := []*process{nodes[0].process, nodes[1].process, both, far}
	for i, step := range []func(){
		func() { r.write(r.before, r.before, r.after) },
		func() { r.write(r.after, r.before, r.after) },
		func() { r.write(r.after, r.after) },
	} {
		step()
		waitReloads(t, i+1, all...)
	}
	eventually(t, 20*time.Second, "1000 requests were sent", func() error {
		if n := load.sent.Load(); n < 1000 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	load.stop()
	if load.failed.Load() > 0 {
		t.Errorf("%d of %d requests failed, the first with: %v", load.failed.Load(), load.sent.Load(), *load.first.Load())
	}
	t.Logf("%d requests, %d failed", load.sent.Load(), load.failed.Load())

	for name, addr := range map[string]string{"proxy": nodes[0].proxy, "upstream": nodes[0].upstream, "admin": nodes[0].admin} {
		if err := old.ask(addr, "/", "near"); err == nil || !strings.Contains(err.Error(), "tls:") {
			t.Errorf("%s: a client with a certificate of before: %v", name, err)
		}
	}
	// What is made anew now, is made with the new: the tunnels and the connections between nodes.
	nodes[1].kill(t)
	run(1)
	ready(1)
	for _, endpoint := range []string{"near", "far"} {
		eventually(t, 20*time.Second, endpoint+" is reachable again", func() error { return client.ask(nodes[0].proxy, "/", endpoint) })
	}
	if err := client.ask(nodes[0].admin, "/status/cluster/nodes/local?forward=n2", ""); err != nil {
		t.Errorf("a question that is passed on: %v", err)
	}
}

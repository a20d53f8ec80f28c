//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// balancers start a load balancer before an upstream port, with a time-out of 20 s for idle
// connections, and return the URL for agents.
var balancers = map[string]func(testing.TB, string) string{
	"nginx":             nginxBalancer,
	"nginx with prefix": func(t testing.TB, to string) string { return nginxBalancer(t, to) + "/below/this" },
	"haproxy":           haproxyBalancer,
}

func nginxBalancer(t testing.TB, upstream string) string {
	t.Helper()
	addr := freeAddr(t)
	nginx(t, addr, fmt.Sprintf(`
		location / {
			proxy_pass http://%[1]s;
			include upgrade.conf;
		}
		location /below/this/ {
			proxy_pass http://%[1]s/;
			include upgrade.conf;
		}`, upstream))
	return "http://" + addr
}

// nginx starts nginx with one server, whose locations are given, and waits until it listens.
func nginx(t testing.TB, addr, locations string) {
	t.Helper()
	path, dir := tool(t, "nginx"), t.TempDir()
	writeFile(t, dir, "upgrade.conf", `
		proxy_http_version 1.1;
		proxy_set_header Upgrade $http_upgrade;
		proxy_set_header Connection upgrade;
		proxy_set_header Host $host;
		proxy_read_timeout 20s;
		proxy_send_timeout 20s;`)
	writeFile(t, dir, "nginx.conf", fmt.Sprintf(`
		daemon off;
		master_process off;
		pid %[1]s/pid;
		error_log stderr warn;
		events { worker_connections 512; }
		http {
			access_log off;
			client_body_temp_path %[1]s/body;
			proxy_temp_path %[1]s/proxy;
			fastcgi_temp_path %[1]s/fastcgi;
			uwsgi_temp_path %[1]s/uwsgi;
			scgi_temp_path %[1]s/scgi;
			server {
				listen %[2]s;
				server_name _;
				root %[1]s/root;
				%[3]s
			}
		}`, dir, addr, locations))
	if err := os.Mkdir(filepath.Join(dir, "root"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "root/big", string(randomFile()))
	p := start(t, "nginx", nil, path, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr")
	waitListening(t, p, addr)
}

// randomFile is the file that nginx serves.
func randomFile() []byte {
	b := make([]byte, 8<<20)
	(&generator{}).Read(b)
	return b
}

func haproxyBalancer(t testing.TB, upstream string) string {
	t.Helper()
	path, dir, addr := tool(t, "haproxy"), t.TempDir(), freeAddr(t)
	writeFile(t, dir, "haproxy.cfg", fmt.Sprintf(`
defaults
	mode http
	timeout connect 5s
	timeout client 20s
	timeout server 20s
	timeout tunnel 20s
frontend in
	bind %s
	default_backend nodes
backend nodes
	server node1 %s
`, addr, upstream))
	p := start(t, "haproxy", nil, path, "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
	waitListening(t, p, addr)
	return "http://" + addr
}

func writeFile(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func waitListening(t testing.TB, p *process, addr string) {
	t.Helper()
	eventually(t, 10*time.Second, p.name+" listens", func() error {
		if !p.running() {
			return fmt.Errorf("it ended: %v", p.cmd.ProcessState)
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// TestBehindBalancer has the agent come through a load balancer, which answers with HTML of
// its own while the server is away.
func TestBehindBalancer(t *testing.T) {
	t.Parallel()
	for name, balance := range balancers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, o := startServer(t), startOrigin(t, "origin")
			a := startAgent(t, balance(t, s.upstream), "e", o.addr)
			s.waitUpstreams(t, "e", 1, 10*time.Second)
			wantCurl(t, "origin", "-H", to("e"), s.url("/"))
			c := dialWebSocket(t, s, "e", "/ws")
			wantEcho(t, c, strings.Repeat("x", 1<<20))

			s.kill(t)
			a.waitLog(t, "that the server is away and why", "50") // 502 of nginx, 503 of haproxy
			s.start(t)
			s.waitUpstreams(t, "e", 1, 12*time.Second) // haproxy and nginx may hold a server down for up to 10 s
			wantCurl(t, "origin", "-H", to("e"), s.url("/"))
		})
	}
}

func TestNginxAsService(t *testing.T) {
	t.Parallel()
	service := freeAddr(t)
	nginx(t, service, `
		location = /hello { return 200 "from nginx\n"; }
		location = /moved { return 302 /hello; }
		location = /none { return 204; }`)
	s := startServer(t)
	s.agent(t, "e", "http://"+service)

	wantCurl(t, "from nginx\n", "-H", to("e"), s.url("/hello"))
	wantCurl(t, "from nginx\n", "-L", "-H", to("e"), s.url("/moved"))
	wantCurl(t, "204", "-H", to("e"), "-o", "/dev/null", "-w", "%{http_code}", s.url("/none"))
	wantCurl(t, "404", "-H", to("e"), "-o", "/dev/null", "-w", "%{http_code}", s.url("/absent"))
	sum := sha256.Sum256(randomFile())
	r := curl(t, "-H", to("e"), s.url("/big"))
	if got := sha256.Sum256([]byte(r.stdout)); got != sum {
		t.Errorf("the file of 8 MiB came as %d bytes with checksum %s, status %d", len(r.stdout), hex.EncodeToString(got[:]), r.code)
	}
	wantCurl(t, string(randomFile()[100:200]), "-r", "100-199", "-H", to("e"), s.url("/big"))
	// 200 requests over one connection and 40 clients beside each other, as a browser does.
	if r := curl(t, "-Z", "--parallel-max", "40", "-H", to("e"), "-o", "/dev/null", "-w", "%{http_code}\n", s.url("/hello?[1-200]")); strings.Count(r.stdout, "200\n") != 200 {
		t.Errorf("of 200 requests %d succeeded, status %d\n%s", strings.Count(r.stdout, "200\n"), r.code, r.stderr)
	}
}

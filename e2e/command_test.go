//go:build e2e

package e2e

import (
	"encoding/json"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestUsageErrors holds that a mistake in how piko is called ends with status 2, at once,
// and says what to do instead.
func TestUsageErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"unknown command", []string{"serve"}, []string{"serve"}},
		{"unknown flag", []string{"server", "--proxy.bindaddr", ":1"}, []string{"--proxy.bindaddr"}},
		{"flag without value", []string{"server", "--proxy.bind-addr"}, []string{"--proxy.bind-addr"}},
		{"duration without unit", []string{"server", "--proxy.timeout", "30"}, []string{"--proxy.timeout", "30"}},
		{"duration with a wrong unit", []string{"server", "--grace-period", "1 fortnight"}, []string{"--grace-period", "fortnight"}},
		{"no arguments for the agent", []string{"agent", "http"}, []string{"endpoint"}},
		{"too many arguments", []string{"agent", "http", "e", "3000", "4000"}, []string{"4000"}},
		{"bad service", []string{"agent", "http", "e", "no port"}, []string{"no port"}},
		{"bad level", []string{"server", "--log.level", "loud"}, []string{"--log.level", "loud"}},
		{"bad URL", []string{"agent", "http", "e", "3000", "--connect.url", "ftp://x"}, []string{"ftp"}},
		{"unknown key", []string{"server", "--config.path", writeFile(t, dir, "key.yaml", "proxy:\n  bind_adr: :1\n")}, []string{"key.yaml", "2", "bind_adr"}},
		{"wrong type", []string{"server", "--config.path", writeFile(t, dir, "type.yaml", "grace_period: [1]\n")}, []string{"type.yaml", "1", "grace_period"}},
		{"bad value", []string{"server", "--config.path", writeFile(t, dir, "value.yaml", "proxy:\n  timeout: 30 parsecs\n")}, []string{"value.yaml", "2", "parsecs"}},
		{"no YAML", []string{"server", "--config.path", writeFile(t, dir, "no.yaml", "proxy: {\n")}, []string{"no.yaml"}},
		{"no listeners", []string{"agent", "start"}, []string{"no listeners"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := piko(t, c.args...)
			if r.code != 2 {
				t.Errorf("piko %q ended with status %d, want 2", c.args, r.code)
			}
			if !containsAll(strings.ToLower(r.stderr), c.says) {
				t.Errorf("piko %q said %q, want it to name %q", c.args, r.stderr, c.says)
			}
			if r.stdout != "" || strings.Contains(r.stderr, "goroutine ") {
				t.Errorf("piko %q wrote %q to its output and %q", c.args, r.stdout, r.stderr)
			}
		})
	}
}

// TestPortInUse wants a clear line and status 1 within a second.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, flag := range []string{"--proxy.bind-addr", "--upstream.bind-addr", "--admin.bind-addr", "--cluster.gossip.bind-addr"} {
		args := []string{"server"}
		for _, f := range []string{"--proxy.bind-addr", "--upstream.bind-addr", "--admin.bind-addr", "--cluster.gossip.bind-addr"} {
			if addr := freeAddr(t); f == flag {
				args = append(args, f, l.Addr().String())
			} else {
				args = append(args, f, addr)
			}
		}
		r := piko(t, args...)
		if r.code != 1 || r.took > time.Second || !strings.Contains(r.stderr, l.Addr().String()) || !strings.Contains(r.stderr, "in use") {
			t.Errorf("%s in use: status %d after %v, %q, want 1 within 1 s and the address", flag, r.code, r.took, r.stderr)
		}
	}
}

func TestConfigFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	proxy, upstream, admin := freeAddr(t), freeAddr(t), freeAddr(t)
	good := writeFile(t, dir, "server.yaml", "proxy:\n  bind_addr: ${PROXY_ADDR:127.0.0.1:3}\nupstream:\n  bind_addr: "+upstream+"\nadmin:\n  bind_addr: 127.0.0.1:1\n")
	bad := writeFile(t, dir, "bad.yaml", "proxy:\n  bind_addr: :1\n  tiemout: 3s\n")
	check := []string{"config", "check", "server", "--config.expand-env", "--config.path"}
	if r := piko(t, append(check, good)...); r.code != 0 {
		t.Errorf("config check of a good file: status %d, %s%s", r.code, r.stdout, r.stderr)
	}
	if r := piko(t, append(check, bad)...); r.code != 2 || !containsAll(r.stderr, []string{"bad.yaml:3", "tiemout", "timeout"}) {
		t.Errorf("config check of a bad file: status %d, %s%s", r.code, r.stdout, r.stderr)
	}

	// The flag beats the environment, and that beats the file.
	s := &server{proxy: proxy, upstream: upstream, admin: admin}
	s.process = start(t, "server", []string{"PROXY_ADDR=" + proxy, "PIKO_ADMIN_BIND_ADDR=127.0.0.1:2", "PIKO_LOG_LEVEL=debug"}, pikoBinary,
		"server", "--config.path", good, "--config.expand-env", "--admin.bind-addr", admin, "--cluster.gossip.bind-addr", "127.0.0.1:0")
	s.waitReady(t)

	one, two := startOrigin(t, "one"), startOrigin(t, "two")
	agent := writeFile(t, dir, "agent.yaml", "connect:\n  url: http://"+upstream+"\nlisteners:\n"+
		"  - {endpoint_id: one, addr: '"+one.addr+"', timeout: 5s}\n"+
		"  - {endpoint_id: bad-service, addr: '"+freeAddr(t)+"'}\n"+
		"  - {endpoint_id: two, addr: 'http://"+two.addr+"', protocol: http}\n")
	a := start(t, "agent", nil, pikoBinary, "agent", "start", "--config.path", agent)
	for _, endpoint := range []string{"one", "two", "bad-service"} {
		s.waitUpstreams(t, endpoint, 1, 5*time.Second)
	}
	wantCurl(t, "one", "-H", to("one"), s.url("/"))
	wantCurl(t, "two", "-H", to("two"), s.url("/"))
	a.stop(t, 10*time.Second)
}

func TestDemo(t *testing.T) {
	t.Parallel()
	r := piko(t, "demo", "--exit")
	if r.code != 0 || !containsAll(strings.ToLower(r.stdout), []string{"GET /", "POST /", "server-sent events", "101"}) {
		t.Errorf("piko demo --exit: status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	// Without --exit it stays, and what it says to try works.
	p := start(t, "demo", nil, pikoBinary, "demo")
	line := regexp.MustCompile(`curl -H '(x-piko-endpoint: [^']+)' (http://\S+)`)
	var try []string
	eventually(t, 20*time.Second, "the demo says what to try", func() error {
		if try = line.FindStringSubmatch(p.readOutput()); try == nil {
			return errNotYet
		}
		return nil
	})
	if r := curl(t, "-f", "-H", try[1], try[2]); r.code != 0 || r.stdout == "" {
		t.Errorf("%s: status %d, %q %s", try[0], r.code, r.stdout, r.stderr)
	}
	p.stop(t, 10*time.Second)
}

func TestStatusOfEndpoints(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.agent(t, "one", "127.0.0.1:1")
	s.agent(t, "two", "127.0.0.1:1")
	s.agent(t, "two", "127.0.0.1:1")
	status := func(args ...string) string {
		t.Helper()
		r := piko(t, append([]string{"server", "status", "upstream", "endpoints", "--server.url", "http://" + s.admin}, args...)...)
		if r.code != 0 {
			t.Errorf("status %q ended with status %d: %s", args, r.code, r.stderr)
		}
		return r.stdout
	}
	if got := status(); got != "one: 1\ntwo: 2\n" {
		t.Errorf("the status is %q, want YAML as in v0.9.0", got)
	}
	var counts map[string]int
	if got := status("-o", "json"); json.Unmarshal([]byte(got), &counts) != nil || counts["two"] != 2 {
		t.Errorf("the status as JSON is %q", got)
	}
	r := piko(t, "server", "status", "upstream", "endpoints", "--server.url", "http://"+freeAddr(t))
	if r.code != 1 || !strings.Contains(r.stderr, "refused") {
		t.Errorf("the status of nobody: status %d, %q, want 1 and why", r.code, r.stderr)
	}
}

func TestBench(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	args := []string{"bench", "http", "--requests", "2000", "--clients", "8", "--endpoints", "4", "--upstreams", "8",
		"--connect.proxy-url", "http://" + s.proxy, "--connect.upstream-url", "http://" + s.upstream}
	r := piko(t, args...)
	if r.code != 0 || !containsAll(strings.ToLower(r.stdout), []string{"requests/s", "2000 in", "p50", "p99", "errors      0"}) {
		t.Errorf("piko bench http: status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	s.kill(t)
	if r := piko(t, append(args, "--connect.timeout", "1s")...); r.code != 1 {
		t.Errorf("piko bench http of nobody: status %d, want 1\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func TestHelpVersionCompletion(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"server", "--help"}, {"agent", "http", "--help"}, {"version"}, {"--version"},
		{"completion", "bash"}, {"completion", "zsh"}, {"completion", "fish"}} {
		if r := piko(t, args...); r.code != 0 || r.stdout == "" || r.took > 2*time.Second {
			t.Errorf("piko %q: status %d after %v, %d bytes\n%s", args, r.code, r.took, len(r.stdout), r.stderr)
		}
	}
	r := piko(t, "server", "--help")
	for _, want := range []string{"--proxy.bind-addr", ":8000", ":8001", ":8002", "--proxy.timeout", "30s", "--grace-period", "1m", "PIKO_PROXY_BIND_ADDR"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("piko server --help does not name %s", want)
		}
	}
	bash := run(t, 10*time.Second, strings.NewReader(piko(t, "completion", "bash").stdout), tool(t, "bash"), "-n")
	if bash.code != 0 {
		t.Errorf("bash does not read its completion: %s", bash.stderr)
	}
}

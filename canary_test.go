package main

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// canary is in every secret of these tests, and must be in no output.
const canary = "CANARY"

// secretOf is a secret of at least 32 bytes.
func secretOf(name string) string { return canary + "-" + name + "-0123456789abcdef0123456789abcdef" }

func wantNoCanary(t *testing.T, where, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.Contains(line, canary) {
			t.Errorf("%s shows a secret: %.300s", where, line)
		}
	}
}

// TestMistakesDoNotShowSecrets writes secrets where and how they do not belong;
// each is an error, which names the option and not the secret.
func TestMistakesDoNotShowSecrets(t *testing.T) {
	t.Parallel()
	short := canary // too short for a secret
	long := secretOf("x")
	for i, tt := range []struct{ command, file string }{
		{"server", "cluster: {secret: " + short + "}"},
		{"server", "cluster: {secret: [" + long + ", " + short + "]}"},
		{"server", "cluster: {secret: {a: " + long + "}}"},
		{"server", "cluster: {secret: [[" + long + "]]}"},
		{"server", "cluster: {secrets: " + long + "}"},
		{"server", "cluster: " + long},
		{"server", "cluster_secret: " + long},
		{"server", "proxy: {auth: " + long + "}"},
		{"server", "proxy: {auth: {hmac_secret_key: " + short + "}}"},
		{"server", "proxy: {auth: {hmac_secret_key: {a: " + long + "}}}"},
		{"server", "proxy: {auth: {hmac_secret: " + long + "}}"},
		{"server", "proxy: {auth: {hmac: " + long + "}}"},
		{"server", "proxy: {auth: {rsa_public_key: " + long + "}}"},
		{"server", "proxy: {auth: {jwks: {endpoint: 'ftp://u:" + long + "@h/k?t=" + long + "'}}}"},
		{"server", "proxy: {auth: {jwks: {endpoint: 'https://u:" + long + "@/k?t=" + long + "'}}}"},
		{"server", "proxy: {auth: {jwks: {endpoint: 'https://u:" + long + "@h:x/'}}}"},
		{"server", "proxy: {hmac_secret_key: " + long + "}"},
		{"server", "upstream: {tenants: [{id: a, auth: {hmac_secret_key: " + short + "}}]}"},
		{"server", "upstream: {tenants: [{id: a, auth: {hmac_secret_key: " + long + ", rsa_public_key: x}}]}"},
		{"server", "upstream: {tenants: [{id: a, hmac_secret_key: " + long + "}]}"},
		{"server", "upstream: {tenants: " + long + "}"},
		{"server", "upstream: {tenants: [" + long + "]}"},
		{"server", "proxy: {auth: {hmac_secret_key: \"" + long + "}}"}, // a quote that never ends
		{"agent", "connect: {token: [" + long + "]}"},
		{"agent", "connect: {token: {a: " + long + "}}"},
		{"agent", "connect: {tokn: " + long + "}"},
		{"agent", "token: " + long},
		{"agent", "connect: " + long},
		{"agent", "connect: {proxy_url: 'ftp://u:" + long + "@h'}"},
		{"agent", "connect: {proxy_url: 'u:" + long + "@h:1'}"},
		{"agent", "connect: {proxy_url: 'http://u:" + long + "@h:x'}"},
		{"agent", "connect: {proxy_url: 'http://u:" + long + "@'}"},
		{"agent", "connect: {url: 'ftp://u:" + long + "@h'}"},
		{"agent", "connect: {url: 'u:" + long + "@h'}"},
	} {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			path := writeFile(t, "piko.yaml", tt.file+"\n")
			status, stdout, stderr := runPiko(t, "config", "check", tt.command, "--config.path", path)
			if status != exitUsage || stderr == "" {
				t.Errorf("%s: exit status %d, %q", tt.file, status, stderr)
			}
			wantNoCanary(t, "config check", stdout+stderr)
		})
	}
	for _, args := range [][]string{
		{"server", "--cluster.secret", short},
		{"server", "--cluster.secret=" + short},
		{"server", "--cluster.secret", "-" + short},
		{"server", "--proxy.auth.hmac-secret-key", short},
		{"server", "--proxy.auth.hmac-secret-key", "--" + short},
		{"server", "--proxy.auth.hmac-secret-key", long, "--proxy.auth.rsa-public-key", long},
		{"agent", "start", "--connect.token", "-" + long, "--no-such-flag"},
		{"agent", "start", "--connect.token", long, "--connect.token-file", "/nowhere"},
		{"agent", "start", "--connect.proxy-url", "ftp://u:" + long + "@h"},
		{"forward", "start", "--connect.token", long},
		{"server", "status", "cluster", "nodes", "--server.url", "http://u:" + long + "@127.0.0.1:1", "--server.token", long},
		{"server", "status", "cluster", "nodes", "--server.url", "ftp://u:" + long + "@127.0.0.1:1"},
		{"server", "status", "cluster", "nodes", "--server.token", long + "\n", "--server.url", "http://127.0.0.1:1"},
	} {
		status, stdout, stderr := runPiko(t, args...)
		if status == exitOK {
			t.Errorf("%q succeeded", args)
		}
		wantNoCanary(t, strings.Join(args[:2], " "), stdout+stderr)
	}
}

// TestEnvironmentAndHelpDoNotShowSecrets has them in variables.
func TestEnvironmentAndHelpDoNotShowSecrets(t *testing.T) {
	env := []string{"PIKO_CLUSTER_SECRET=" + secretOf("cluster"), "PIKO_PROXY_AUTH_HMAC_SECRET_KEY=" + canary, "PIKO_CONNECT_TOKEN=" + canary,
		"PIKO_CONNECT_PROXY_URL=ftp://u:" + canary + "@h", "PIKO_SERVER_TOKEN=" + canary, "PIKO_TRACING_HEADERS=" + canary, "PIKO_TRACING_ENDPOINT=http://u:" + canary + "@h"}
	for _, args := range [][]string{{"server", "--help"}, {"agent", "start", "--help"}, {"server", "status", "--help"}, {"server"}, {"agent", "start"}} {
		p := newTestProcess(t, env...)
		run(args, &p.process)
		wantNoCanary(t, strings.Join(args, " "), p.out.String()+p.err.String())
	}
}

// TestRunningProcessesDoNotShowSecrets runs a node and an agent that have a
// secret in every option that holds one, sends them good and bad requests with
// more, has things fail, reloads, and looks through all that they say at debug.
func TestRunningProcessesDoNotShowSecrets(t *testing.T) {
	t.Parallel()
	service := testService(t)
	cluster, proxySecret, upstreamSecret, adminSecret := secretOf("cluster"), secretOf("proxy"), secretOf("upstream"), secretOf("admin")
	config := func(extra string) string {
		return `
log: {level: debug}
cluster: {secret: ` + cluster + `}
proxy: {auth: {hmac_secret_key: [` + proxySecret + `, ` + secretOf("old") + `]}}
upstream:
  auth: {hmac_secret_key_file: ` + writeFile(t, "secret", upstreamSecret) + `}
admin: {auth: {hmac_secret_key: ` + adminSecret + extra + `}}
tracing: {endpoint: "http://127.0.0.1:1", headers: ["Authorization: Bearer ` + canary + `"]}
`
	}
	path := writeFile(t, "piko.yaml", config(""))
	node := newTestProcess(t)
	hups := withHangups(node)
	startRun(t, node, append([]string{"server", "--config.path", path}, anyPorts...)...)
	eventually(t, func() error { return logged(node, "node ready") })
	addr := func(name string) string {
		_, rest, _ := strings.Cut(lineWith(t, node, "node started"), `"`+name+`":"`)
		addr, _, _ := strings.Cut(rest, `"`)
		return "http://" + addr
	}
	proxyURL, upstreamURL, admin := addr("proxy"), addr("upstream"), addr("admin")

	sub := `{"sub":"someone","jti":"` + canary + `"}`
	good := newTestProcess(t)
	agentFile := writeFile(t, "agent.yaml", "log: {level: debug}\nconnect: {url: "+upstreamURL+", token: "+testToken(upstreamSecret, sub)+"}\ntracing: {endpoint: 'http://127.0.0.1:1', headers_file: "+writeFile(t, "headers", "X-Key: "+canary)+"}\nlisteners: [{endpoint_id: e, addr: '"+service.URL+"'}]\n")
	startRun(t, good, "agent", "start", "--config.path", agentFile)
	bad := newTestProcess(t, "PIKO_CONNECT_TOKEN="+canary+testToken(proxySecret, sub), "PIKO_CONNECT_URL="+upstreamURL)
	badEnded := startRun(t, bad, "agent", "http", "other", "1", "--log.level", "debug")
	throughProxy := newTestProcess(t, "PIKO_CONNECT_PROXY_URL=http://user:"+canary+"@127.0.0.1:1", "PIKO_CONNECT_TOKEN="+canary)
	startRun(t, throughProxy, "agent", "http", "other", "1", "--connect.url", upstreamURL, "--log.level", "debug")
	if status := <-badEnded; status != exitFailure {
		t.Errorf("the agent with a bad token ended with %d", status)
	}
	eventually(t, func() error { return logged(throughProxy, "127.0.0.1:1") })

	c := newClient(t)
	token := testToken(proxySecret, sub)
	eventually(t, func() error {
		status, body, _ := get(t, c, proxyURL+"/x?access_token="+canary, "Authorization", "Bearer "+token, "x-piko-endpoint", "e", "Cookie", "c="+canary)
		if status != 200 {
			return fmt.Errorf("status %d %s", status, body)
		}
		return nil
	})
	for _, headers := range [][]string{
		{"Authorization", "Bearer " + canary},
		{"Authorization", canary},
		{"Authorization", canary + " x"},
		{"Authorization", "Bearer " + testToken(secretOf("nobody's"), sub)},
		{"Authorization", "Bearer " + testToken(proxySecret, `{"exp":1,"x":"`+canary+`"}`)},
		{"Authorization", "Bearer " + testToken(proxySecret, `{"piko":{"endpoints":["x"]}}`), "Cookie", canary},
		{"x-piko-authorization", "Bearer " + canary, "Authorization", "Basic " + canary},
		{"x-piko-authorization", "Bearer " + token, "Authorization", "Basic " + canary},
		{"Authorization", "Bearer " + token, "Proxy-Authorization", "Basic " + canary},
		{"Authorization", "Bearer " + token, "x-piko-tenant-id", "t"},
	} {
		for _, url := range []string{proxyURL + "/?t=" + canary, proxyURL + "/_piko/v1/tcp/e?t=" + canary, upstreamURL + "/piko/v1/upstream/e?t=" + canary, admin + "/metrics?t=" + canary, admin + "/status/cluster/nodes?forward=x"} {
			_, body, header := get(t, c, url, append([]string{"x-piko-endpoint", "e"}, headers...)...)
			if strings.Contains(url, proxyURL+"/?") {
				body = "" // may be the service's, which says what it was asked
			}
			wantNoCanary(t, "the answer of "+url[:30], body+fmt.Sprint(header))
		}
	}
	rewrite(t, path, config(", issuer: i"))
	hups <- syscall.SIGHUP
	lineWith(t, node, "configuration reloaded")
	rewrite(t, path, config(", rsa_public_key: "+canary))
	hups <- syscall.SIGHUP
	lineWith(t, node, "configuration not reloaded")

	operator := bearer(adminSecret, `{"iss":"i"}`)
	for _, path := range []string{"/metrics", "/status/upstream/endpoints", "/status/cluster/nodes", "/status/cluster/nodes/local", "/status/gossip/nodes", "/status/gossip/nodes/local",
		"/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/allocs?debug=1", "/debug/pprof/threadcreate?debug=1", "/debug/pprof/cmdline", "/debug/pprof/"} {
		status, body, header := get(t, c, admin+path, operator...)
		if status != 200 && !strings.Contains(path, "cmdline") {
			t.Errorf("%s: %d", path, status)
		}
		wantNoCanary(t, path, body+fmt.Sprint(header))
	}
	for name, p := range map[string]*testProcess{"the node": node, "the agent": good, "the refused agent": bad, "the agent behind a proxy": throughProxy} {
		log := p.err.String()
		if !strings.Contains(log, `"level":"`) {
			t.Errorf("%s has logged nothing", name)
		}
		wantNoCanary(t, "the log of "+name, log+p.out.String())
		for _, token := range []string{token, testToken(upstreamSecret, sub)} {
			if strings.Contains(log, strings.Split(token, ".")[1]) || strings.Contains(log, strings.Split(token, ".")[2]) {
				t.Errorf("the log of %s has a part of a token", name)
			}
		}
	}
}

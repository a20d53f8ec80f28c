package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// parseServer parses a command line of `piko server`.
func parseServer(t *testing.T, env []string, args ...string) (serverConfig, error) {
	t.Helper()
	p := newTestProcess(t, env...)
	ctx, err := parse(append([]string{"server"}, args...), &p.process)
	if err != nil {
		return serverConfig{}, err
	}
	return ctx.Model.Target.Addr().Interface().(*cli).Server.Node.serverConfig, nil
}

// parseAgent parses a command line of `piko agent`.
func parseAgent(t *testing.T, env []string, args ...string) (agentConfig, error) {
	t.Helper()
	p := newTestProcess(t, env...)
	ctx, err := parse(append([]string{"agent"}, args...), &p.process)
	if err != nil {
		return agentConfig{}, err
	}
	return ctx.Model.Target.Addr().Interface().(*cli).Agent.agentConfig, nil
}

func TestPrecedence(t *testing.T) {
	const env, flag = "PIKO_PROXY_TIMEOUT=2s", "--proxy.timeout=1s"
	file := writeFile(t, "piko.yaml", "proxy:\n  timeout: 3s\n")
	for _, tt := range []struct {
		name string
		env  []string
		args []string
		want time.Duration
	}{
		{"default", nil, nil, 30 * time.Second},
		{"file over default", nil, []string{"--config.path", file}, 3 * time.Second},
		{"environment over default", []string{env}, nil, 2 * time.Second},
		{"environment over file", []string{env}, []string{"--config.path", file}, 2 * time.Second},
		{"flag over file", nil, []string{"--config.path", file, flag}, time.Second},
		{"flag over environment", []string{env}, []string{flag}, time.Second},
		{"flag over both", []string{env}, []string{"--config.path", file, flag}, time.Second},
		{"empty environment is none", []string{"PIKO_PROXY_TIMEOUT="}, []string{"--config.path", file}, 3 * time.Second},
		{"file named by the environment", []string{"PIKO_CONFIG_PATH=" + file}, nil, 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := parseServer(t, tt.env, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Proxy.Timeout != tt.want {
				t.Errorf("proxy.timeout is %v, want %v", cfg.Proxy.Timeout, tt.want)
			}
		})
	}
}

func TestEveryServerKey(t *testing.T) {
	file := writeFile(t, "piko.yaml", `
# comments and empty sections are fine
proxy:
  bind_addr: 127.0.0.1:1000
  advertise_addr: 10.0.0.5
  domain: [Example.com., tunnels.example.org]
  trusted_proxies: [10.0.0.0/8, "2001:db8::1"]
  timeout: 1m
  access_log:
    level: debug
    disable: true
    request_headers: {allow_list: [a, "b,c"]}
    response_headers:
      block_list:
        - d
  http:
    read_timeout: 1s
    read_header_timeout: 2s
    write_timeout: 3s
    idle_timeout: 4s
    max_header_bytes: 65536
upstream:
  bind_addr: ":1001"
  stream_window: 1MiB
  rebalance: {threshold: 0.2, shed_rate: 0.01, min_conns: 5}
  advertise_addr: unused.example.com:8001
admin:
  bind_addr: '[::1]:1002'
  advertise_addr: '[2001:db8::5]:8002'
cluster:
  node_id: 0123
  join: [node-1.example.com, 10.0.0.6:8003]
  join_timeout: 5s
  abort_if_join_fails: false
  name: production
  secret: ["0123456789abcdef,", 0123456789abcdef-older]
  gossip:
    bind_addr: :1003
    advertise_addr: 10.0.0.5
    interval: 100ms
    max_packet_size: 1200
tracing:
  endpoint: http://collector.example.com:4318
  sample_ratio: 0.25
  max_rate: 7
  service_name: edge
  headers: ["Authorization: Bearer x", "X-Tenant: a,b"]
log:
  level: warn
  subsystems: [proxy, upstream]
  format: text
grace_period: 10s
shutdown_delay: 5s
`)
	cfg, err := parseServer(t, nil, "--config.path", file)
	if err != nil {
		t.Fatal(err)
	}
	want := defaultServerConfig()
	want.Proxy.BindAddr, want.Proxy.Timeout = "127.0.0.1:1000", time.Minute
	want.Proxy.Domain = []domain{"example.com", "tunnels.example.org"}
	want.Proxy.TrustedProxies = []ipPrefix{{netip.MustParsePrefix("10.0.0.0/8")}, {netip.MustParsePrefix("2001:db8::1/128")}}
	want.Proxy.AccessLog = accessLogConfig{Level: "debug", Disable: true}
	want.Proxy.AccessLog.RequestHeaders.AllowList = []string{"a", "b,c"}
	want.Proxy.AccessLog.ResponseHeaders.BlockList = []string{"d"}
	want.Proxy.HTTP = proxyHTTPConfig{time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second, 65536, 500}
	want.Proxy.AdvertiseAddr = "10.0.0.5"
	want.Upstream = upstreamConfig{BindAddr: ":1001", StreamWindow: 1 << 20, Rebalance: rebalanceConfig{0.2, 0.01, 5}, AdvertiseAddr: "unused.example.com:8001", TLS: want.Upstream.TLS}
	want.Admin = adminConfig{BindAddr: "[::1]:1002", AdvertiseAddr: "[2001:db8::5]:8002", TLS: want.Admin.TLS, EndpointMetrics: 100}
	want.Cluster = clusterConfig{
		NodeID: "0123", Join: []joinAddr{"node-1.example.com", "10.0.0.6:8003"}, JoinTimeout: 5 * time.Second, Name: "production",
		Secret: []secret{"0123456789abcdef,", "0123456789abcdef-older"},
		Gossip: gossipConfig{":1003", "10.0.0.5", 100 * time.Millisecond, 1200},
	}
	want.Tracing = tracingConfig{Endpoint: "http://collector.example.com:4318", SampleRatio: 0.25, MaxRate: 7, ServiceName: "edge",
		Headers: []traceHeader{"Authorization: Bearer x", "X-Tenant: a,b"}}
	if !slices.Equal(cfg.Tracing.Headers, want.Tracing.Headers) {
		t.Errorf("%d headers for the collector", len(cfg.Tracing.Headers))
	}
	want.Log = logConfig{"warn", []string{"proxy", "upstream"}, "text"}
	want.GracePeriod, want.ShutdownDelay = 10*time.Second, 5*time.Second
	if got, want := fmt.Sprintf("%+v", cfg), fmt.Sprintf("%+v", want); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !slices.Equal(cfg.Cluster.Secret, want.Cluster.Secret) { // which %v does not show
		t.Error("the secrets are not those of the file")
	}
	if err := cfg.check(); err != nil {
		t.Error(err)
	}
}

func TestMistakesInAFileNameLineKeyValueAndRemedy(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"misspelt key", "proxy:\n  bind_adr: :9000\n", []string{":2: unknown key proxy.bind_adr", `":9000"`, "did you mean proxy.bind_addr?"}},
		{"dash for underscore", "proxy:\n  bind-addr: :9000\n", []string{":2: unknown key proxy.bind-addr", "did you mean proxy.bind_addr?"}},
		{"key in the wrong section", "\n\nadmin:\n  grace_period: 1s\n", []string{":4: unknown key admin.grace_period", "did you mean grace_period?"}},
		{"key of nothing", "proxy:\n  colour: blue\n", []string{":2: unknown key proxy.colour", `"blue"`, "use one of access_log, advertise_addr, ", "trusted_proxies"}},
		{"section of nothing", "telephone:\n  number: x\n", []string{":1: unknown key telephone", "use one of admin, cluster, ", "upstream"}},
		{"secret under an unknown key", "proxy:\n  api_token: hunter2\n", []string{"proxy.api_token"}},
		{"short secret", "cluster:\n  secret: [hunter2]\n", []string{":2: cluster.secret: ", "7 bytes is too short", "openssl rand"}},
		{"URL for a node to join", "cluster:\n  join: [http://node-1]\n", []string{":2: cluster.join: ", "http://node-1", "1 to 65535"}},
		{"port 0 to join", "cluster:\n  join: [node-1:0]\n", []string{":2: cluster.join: ", "1 to 65535"}},
		{"duration without a unit", "proxy:\n  timeout: 10\n", []string{":2: proxy.timeout: ", `"10" has no unit; write 10s`}},
		{"wrong address", "proxy:\n  bind_addr: 8000\n", []string{":2: proxy.bind_addr: ", "write :8000"}},
		{"host bits in a prefix", "proxy:\n  trusted_proxies: [10.0.0.1/8]\n", []string{":2: proxy.trusted_proxies: ", `"10.0.0.1/8"`, "write 10.0.0.0/8"}},
		{"name for a prefix", "proxy:\n  trusted_proxies: [proxy.example.com]\n", []string{":2: proxy.trusted_proxies: ", "10.0.0.0/8"}},
		{"URL for a domain", "proxy:\n  domain: [https://example.com]\n", []string{"proxy.domain", "https://example.com", "example.com"}},
		{"wrong word", "log:\n  level: loud\n", []string{":2: log.level: ", `"loud" is not one of debug, info, warn, error`}},
		{"wrong truth", "proxy:\n  access_log:\n    disable: perhaps\n", []string{":3: proxy.access_log.disable: ", `"perhaps"`}},
		{"list for a value", "proxy:\n  bind_addr: [a]\n", []string{":2: proxy.bind_addr: ", "a list where one value"}},
		{"value for a list", "log:\n  subsystems: proxy\n", []string{":2: log.subsystems: ", "write it like [proxy]"}},
		{"value for a section", "proxy: :8000\n", []string{":1: proxy: ", "a section is expected", "bind_addr"}},
		{"section for a value", "grace_period:\n  a: 1\n", []string{"grace_period: found a section"}},
		{"list for the document", "- proxy\n", []string{":1: found a list where sections"}},
		{"two documents", "proxy: {}\n---\nadmin: {}\n", []string{"second document"}},
		{"key twice", "grace_period: 1s\ngrace_period: 2s\n", []string{":2: ", "grace_period"}},
		{"not YAML", "proxy: [\n", []string{"not YAML"}},
		{"tab", "proxy:\n\tbind_addr: x\n", []string{":2: ", "not YAML"}},
		{"alias to nothing", "proxy: *nothing\n", []string{":1: ", "alias"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := writeFile(t, "piko.yaml", tt.text)
			_, err := parseServer(t, nil, "--config.path", file)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.HasPrefix(err.Error(), file+":") {
				t.Errorf("the error does not begin with the file: %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestEveryMistakeIsToldAtOnce(t *testing.T) {
	file := writeFile(t, "piko.yaml", "prox: {}\nadmin:\n  bind_addr: 1\n  port: 2\n")
	_, err := parseServer(t, []string{"PIKO_GRACE_PERIOD=5"}, "--config.path", file)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{":1: unknown key prox; did you mean proxy?", ":4: unknown key admin.port", "environment variable PIKO_GRACE_PERIOD"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	file := writeFile(t, "agent.yaml", `
connect: {timeout: &t 7s}
listeners:
  - &first
    endpoint_id: one
    addr: 3000
    timeout: *t
  - <<: *first
    endpoint_id: two
`)
	cfg, err := parseAgent(t, nil, "start", "--config.path", file)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Listeners) != 2 {
		t.Fatalf("%d listeners, want 2", len(cfg.Listeners))
	}
	for i, name := range []string{"one", "two"} {
		l := cfg.Listeners[i]
		if l.EndpointID != name || l.Addr != "3000" || l.Timeout != 7*time.Second {
			t.Errorf("listener %d is %+v", i, l)
		}
	}
}

func TestEmptyFileIsNoMistake(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "proxy:\n"} {
		if _, err := parseServer(t, nil, "--config.path", writeFile(t, "piko.yaml", text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestExpandEnv(t *testing.T) {
	env := map[string]string{"A": "1", "EMPTY": ""}
	getenv := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	for _, tt := range []struct{ text, want, err string }{
		{"x: ${A}", "x: 1", ""},
		{"x: $A.", "x: 1.", ""},
		{"x: ${B:two}", "x: two", ""},
		{"x: ${B:}", "x: ", ""},
		{"x: ${EMPTY:two}", "x: two", ""},
		{"x: ${EMPTY}", "x: ", ""},
		{"x: ${A:two}", "x: 1", ""},
		{"x: ${B:http://h:1}", "x: http://h:1", ""},
		{"x: $$A $${A}", "x: $A ${A}", ""},
		{"x: 5$ $5 $", "x: 5$ $5 $", ""},
		{"# ${B}\n  # $B\nx: 1", "# ${B}\n  # $B\nx: 1", ""},
		{"a: 1\nx: ${B}", "", "f.yaml:2: the environment variable B is not set"},
		{"x: $B", "", "f.yaml:1: the environment variable B is not set"},
		{"x: ${A", "", "f.yaml:1: "},
		{"x: ${A:b", "", "f.yaml:1: "},
		{"x: ${}", "", "f.yaml:1: "},
		{"x: ${A-b}", "", "f.yaml:1: "},
	} {
		got, err := expandEnv("f.yaml", []byte(tt.text), getenv)
		switch {
		case tt.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.err)):
			t.Errorf("%q: error %v, want %s", tt.text, err, tt.err)
		case tt.err == "" && (err != nil || string(got) != tt.want):
			t.Errorf("%q: got %q, %v; want %q", tt.text, got, err, tt.want)
		}
	}
}

func TestExpandEnvOnlyWhenAsked(t *testing.T) {
	file := writeFile(t, "piko.yaml", "cluster:\n  node_id: ${NODE}\n")
	if _, err := parseServer(t, []string{"NODE=n1"}, "--config.path", file); err == nil {
		t.Error("${NODE} was taken for a node id without --config.expand-env")
	}
	for _, args := range [][]string{{"--config.expand-env"}, nil} {
		env := []string{"NODE=n1"}
		if args == nil {
			env = append(env, "PIKO_CONFIG_EXPAND_ENV=true")
		}
		cfg, err := parseServer(t, env, append(args, "--config.path", file)...)
		if err != nil || cfg.Cluster.NodeID != "n1" {
			t.Errorf("node id %q, error %v", cfg.Cluster.NodeID, err)
		}
	}
}

func TestAgentFile(t *testing.T) {
	file := writeFile(t, "agent.yaml", `
connect:
  url: https://piko.example.com
  token: secret
  tenant_id: t1
  timeout: 5s
  proxy_url: http://proxy:3128
  tls: {insecure_skip_verify: true}
server: {enabled: true, bind_addr: ":6000"}
listeners:
  - endpoint_id: One
    addr: 3000
  - endpoint_id: two
    addr: https://10.0.0.5/api
    protocol: http
    timeout: 2s
    access_log: {level: warn, request_headers: {block_list: [cookie]}}
    http_client: {keep_alive_timeout: 1s, idle_conn_timeout: 2s, max_idle_conns: -1, disable_compression: true}
    tls: {root_cas: /x.pem}
  - {endpoint_id: three, addr: 5432, protocol: tcp, timeout: 3s, proxy_protocol: v2, access_log: {disable: true}}
grace_period: 3s
`)
	cfg, err := parseAgent(t, []string{"PIKO_CONNECT_TENANT_ID=t2"}, "start", "--config.path", file)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Connect.URL != "https://piko.example.com" || cfg.Connect.Token != "secret" || cfg.Connect.TenantID != "t2" ||
		!cfg.Connect.TLS.InsecureSkipVerify || cfg.Server.BindAddr != ":6000" || !cfg.Server.Enabled || cfg.GracePeriod != 3*time.Second {
		t.Errorf("got %+v", cfg)
	}
	if len(cfg.Listeners) != 3 {
		t.Fatalf("%d listeners, want 3", len(cfg.Listeners))
	}
	if l := cfg.Listeners[2]; l.Protocol != "tcp" || l.ProxyProtocol != "v2" || l.Timeout != 3*time.Second || !l.AccessLog.Disable {
		t.Errorf("a TCP listener has not what the file says: %+v", l)
	}
	if l := cfg.Listeners[0]; l.Timeout != 10*time.Second || l.Protocol != "http" || l.HTTPClient.IdleConnTimeout != 90*time.Second || l.AccessLog.Level != "info" {
		t.Errorf("a listener has not the defaults: %+v", l)
	}
	if l := cfg.Listeners[1]; l.Timeout != 2*time.Second || l.HTTPClient.MaxIdleConns != -1 || l.AccessLog.RequestHeaders.BlockList[0] != "cookie" || l.TLS.RootCAs != "/x.pem" {
		t.Errorf("a listener has not what the file says: %+v", l)
	}
}

func TestMistakesInListeners(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"unknown key", "listeners:\n  - endpoint_id: e\n    adr: 1\n", []string{":3: unknown key listeners[0].adr", "did you mean listeners[0].addr?"}},
		{"wrong unit", "listeners:\n  - endpoint_id: e\n    addr: 1\n    timeout: 10\n", []string{":4: listeners[0].timeout: ", "write 10s"}},
		{"no time-out", "listeners:\n  - endpoint_id: e\n    addr: 1\n    timeout: 0s\n", []string{":2: listeners[0].timeout: "}},
		{"no endpoint", "listeners:\n  - addr: 3000\n", []string{":2: listeners[0].endpoint_id: missing"}},
		{"bad endpoint", "listeners:\n  - endpoint_id: a/b\n    addr: 3000\n", []string{":2: listeners[0].endpoint_id: ", "a/b", "letters"}},
		{"no address", "listeners:\n  - endpoint_id: e\n", []string{":2: listeners[0].addr: missing"}},
		{"tcp with TLS", "listeners:\n  - {endpoint_id: a, addr: 1}\n  - {endpoint_id: e, addr: 1, protocol: tcp, tls: {root_cas: x}}\n", []string{":3: listeners[1].tls: ", "not for protocol: tcp"}},
		{"http with the PROXY protocol", "listeners:\n  - {endpoint_id: e, addr: 1, proxy_protocol: v1}\n", []string{":2: listeners[0].proxy_protocol: ", "for protocol: tcp only"}},
		{"unknown PROXY protocol", "listeners:\n  - {endpoint_id: e, addr: 1, protocol: tcp, proxy_protocol: v3}\n", []string{":2: listeners[0].proxy_protocol: ", "v1"}},
		{"protocol that is none", "listeners:\n  - {endpoint_id: e, addr: 1, protocol: udp}\n", []string{":2: listeners[0].protocol: ", "http, tcp"}},
		{"both lists", "listeners:\n  - {endpoint_id: e, addr: 1, access_log: {request_headers: {allow_list: [a], block_list: [b]}}}\n", []string{":2: listeners[0].access_log.request_headers: "}},
		{"no list", "listeners: {endpoint_id: e}\n", []string{":1: listeners: ", "dash"}},
		{"entry that is none", "listeners: [e]\n", []string{":1: listeners[0]: found a value"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := writeFile(t, "agent.yaml", tt.text)
			_, err := parseAgent(t, nil, "start", "--config.path", file)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(tt.want, file) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
		})
	}
}

func TestConfigCheck(t *testing.T) {
	good := writeFile(t, "server.yaml", "proxy: {timeout: 5s}\n")
	goodAgent := writeFile(t, "agent.yaml", "listeners: [{endpoint_id: e, addr: 3000}]\n")
	goodForward := writeFile(t, "forward.yaml", "connect: {timeout: 5s}\nports: [{endpoint_id: e, addr: 3000}]\n")
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"server", []string{"server", "--config.path", good}, exitOK, "ok, as the configuration of piko server"},
		{"server by its sections", []string{"--config.path", good}, exitOK, "piko server"},
		{"agent by its sections", []string{"--config.path", goodAgent}, exitOK, "piko agent"},
		{"forward by its sections", []string{"--config.path", goodForward}, exitOK, "piko forward"},
		{"forward", []string{"forward", "--config.path", goodForward}, exitOK, "piko forward"},
		{"forward's file for an agent", []string{"agent", "--config.path", goodForward}, exitUsage, "unknown key ports"},
		{"forward without ports", []string{"forward", "--config.path", writeFile(t, "x.yaml", "")}, exitUsage, "no ports"},
		{"port that is none", []string{"--config.path", writeFile(t, "x.yaml", "ports: [{endpoint_id: e, addr: 'a b'}]\n")}, exitUsage, "a b"},
		{"agent's file for a server", []string{"server", "--config.path", goodAgent}, exitUsage, "unknown key listeners"},
		{"server's file for an agent", []string{"agent", "--config.path", good}, exitUsage, "unknown key proxy"},
		{"values that do not go together", []string{"--config.path", writeFile(t, "x.yaml", "shutdown_delay: 2m\n")}, exitUsage, "--shutdown-delay"},
		{"service that is none", []string{"--config.path", writeFile(t, "x.yaml", "listeners: [{endpoint_id: e, addr: 'a b'}]\n")}, exitUsage, "a b"},
		{"certificate that is not there", []string{"--config.path", writeFile(t, "x.yaml", "connect: {tls: {root_cas: /nowhere}}\nlisteners: [{endpoint_id: e, addr: 1}]\n")}, exitUsage, "/nowhere"},
		{"agent without listeners", []string{"agent", "--config.path", writeFile(t, "x.yaml", "")}, exitUsage, "no listeners"},
		{"file that is not there", []string{"--config.path", "/nowhere.yaml"}, exitUsage, "/nowhere.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, stdout, stderr := runPiko(t, append([]string{"config", "check"}, tt.args...)...)
			if status != tt.status || !strings.Contains(stdout+stderr, tt.want) {
				t.Errorf("exit status %d, want %d; output %q, want %q", status, tt.status, stdout+stderr, tt.want)
			}
		})
	}
}

func TestLargeFileIsRefused(t *testing.T) {
	file := writeFile(t, "piko.yaml", strings.Repeat("#\n", maxConfigFile/2+1))
	if _, err := parseServer(t, nil, "--config.path", file); err == nil || !strings.Contains(err.Error(), "1 MiB") {
		t.Errorf("error %v, want that it is too large", err)
	}
	if _, err := parseServer(t, nil, "--config.path", t.TempDir()); err == nil {
		t.Error("a directory was read as a file")
	}
}

func TestDeepFileIsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{strings.Repeat("[", 10_000), strings.Repeat("{a: ", 10_000), strings.Repeat("- ", 10_000)} {
		if _, err := parseYAML("f.yaml", []byte(text)); err == nil {
			t.Errorf("%.10q... was accepted", text)
		}
	}
}

func TestNearest(t *testing.T) {
	keys := []string{"proxy.bind_addr", "admin.bind_addr", "proxy.timeout", "grace_period", "listeners"}
	for _, tt := range []struct{ key, want string }{
		{"proxy.bind_add", "proxy.bind_addr"},
		{"proxy.bindaddr", "proxy.bind_addr"},
		{"Proxy.Bind-Addr", "proxy.bind_addr"},
		{"listener", "listeners"},
		{"graceperiod", "grace_period"},
		{"timeout", "proxy.timeout"},
		{"completely.else", ""},
	} {
		if got := nearest(tt.key, keys); got != tt.want {
			t.Errorf("nearest(%q) = %q, want %q", tt.key, got, tt.want)
		}
	}
}

// FuzzConfigFile: no file makes the loader panic or hang, every error has the
// file and a line, and what is accepted is what the flags would take.
func FuzzConfigFile(f *testing.F) {
	for _, seed := range []string{
		"", "proxy:\n  bind_addr: :8000\n", "a: &a [*a]", "<<: *x", "x: !!int 5", "? a\n: b", "proxy: {http: {read_timeout: 1s}}",
		"log: {subsystems: [a, b]}", "proxy: |\n  text", "--- a\n--- b", "\"\\x\": 1", "a: ${B:c}", "listeners: [{endpoint_id: e, addr: 1}]",
		"listeners:\n  - &x\n    endpoint_id: ${B}\n    addr: 1\n  - <<: *x\n    timeout: 5s\n", "connect: {tls: {cert: 'x'}, url: https://h}", "- - - -", "{[",
	} {
		f.Add([]byte(seed))
	}
	p := &process{stdout: io.Discard, stderr: io.Discard}
	k, err := newParser(p, &settings{})
	if err != nil {
		f.Fatal(err)
	}
	server, agent := fileFlags(f, k.Model.Node, "server"), fileFlags(f, k.Model.Node, "agent")
	getenv := func(name string) (string, bool) { return "b", name == "B" }
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4096 {
			return
		}
		root, err := parseYAML("f.yaml", text)
		hasPlace(t, err)
		if expanded, err := expandEnv("f.yaml", text, getenv); err == nil {
			root, err = parseYAML("f.yaml", expanded)
			hasPlace(t, err)
		} else {
			hasPlace(t, err)
		}
		if root == nil {
			return
		}
		for _, flags := range [][]*kong.Flag{server, agent} {
			s := &settings{loaded: true}
			var cfg agentConfig
			s.values, err = matchKeys("f.yaml", "", root, flags, &cfg)
			hasPlace(t, err)
			for _, l := range cfg.Listeners {
				if l.Timeout < 0 {
					t.Fatalf("accepted %+v", l)
				}
			}
			for _, flag := range flags {
				value, err := s.lookup(flag)
				hasPlace(t, err)
				if value != nil && tryDecode(flag, value) != nil {
					t.Fatalf("accepted %v for %s", value, flag.Name)
				}
			}
		}
	})
}

// hasPlace checks that an error says where in the file it is.
func hasPlace(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if line, ok := errors.AsType[*lineError](err); !ok || line.line < 1 || line.path != "f.yaml" {
		t.Fatalf("an error without its place: %v", err)
	}
}

// fileFlags are the flags of the command that are keys of its file.
func fileFlags(f *testing.F, root *kong.Node, command string) []*kong.Flag {
	f.Helper()
	for _, node := range root.Children {
		if node.Name != command {
			continue
		}
		if node.DefaultCmd != nil {
			node = node.DefaultCmd
		}
		return node.Flags
	}
	f.Fatalf("no command %s", command)
	return nil
}

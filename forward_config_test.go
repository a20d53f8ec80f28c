package main

import (
	"strings"
	"testing"
	"time"
)

// parseForward parses a command line of `piko forward`.
func parseForward(t *testing.T, env []string, args ...string) (forwardConfig, error) {
	t.Helper()
	p := newTestProcess(t, env...)
	ctx, err := parse(append([]string{"forward"}, args...), &p.process)
	if err != nil {
		return forwardConfig{}, err
	}
	return ctx.Model.Target.Addr().Interface().(*cli).Forward.forwardConfig, nil
}

func TestForwardFile(t *testing.T) {
	file := writeFile(t, "forward.yaml", `
connect:
  url: https://piko.example.com/below
  token_file: token
  tenant_id: t1
  timeout: 5s
  proxy_url: http://proxy:3128
  tls: {insecure_skip_verify: true}
ports:
  - addr: 5432
    endpoint_id: my-database
  - {addr: "127.0.0.1:2222", endpoint_id: my-ssh}
log: {level: warn}
grace_period: 3s
`)
	cfg, err := parseForward(t, []string{"PIKO_CONNECT_TENANT_ID=t2"}, "start", "--config.path", file)
	if err != nil {
		t.Fatal(err)
	}
	if c := cfg.Connect; c.URL != "https://piko.example.com/below" || c.TokenFile != "token" || c.TenantID != "t2" ||
		c.Timeout != 5*time.Second || c.ProxyURL != "http://proxy:3128" || !c.TLS.InsecureSkipVerify {
		t.Errorf("got %+v", cfg)
	}
	if cfg.GracePeriod != 3*time.Second || cfg.Log.Level != "warn" || len(cfg.Ports) != 2 {
		t.Fatalf("got %+v", cfg)
	}
	if cfg.Ports[0] != (portConfig{"5432", "my-database"}) || cfg.Ports[1] != (portConfig{"127.0.0.1:2222", "my-ssh"}) {
		t.Errorf("ports %+v", cfg.Ports)
	}
}

func TestForwardDefaults(t *testing.T) {
	cfg, err := parseForward(t, nil, "tcp", "5432", "e")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Connect.URL != "http://localhost:8000" || cfg.Connect.Timeout != 30*time.Second || cfg.GracePeriod != time.Minute {
		t.Errorf("got %+v", cfg)
	}
	fw, client, _, err := cfg.build()
	if err == nil || !strings.Contains(err.Error(), "no ports") { // the command adds its own
		t.Errorf("built %+v, %+v, %v", fw, client, err)
	}
}

func TestMistakesOfForward(t *testing.T) {
	empty := writeFile(t, "empty", "\n")
	file := func(text string) []string {
		return []string{"start", "--config.path", writeFile(t, "forward.yaml", text)}
	}
	for _, tt := range []struct {
		name string
		args []string
		want []string // in stderr
	}{
		{"no command", nil, []string{"tcp", "start", "Try: piko forward --help"}},
		{"no endpoint", []string{"tcp", "5432"}, []string{"<endpoint>", "Try: piko forward tcp --help"}},
		{"bad endpoint", []string{"tcp", "5432", "a/b"}, []string{"<endpoint>", "a/b", "letters"}},
		{"arguments of v0.9.0's README", []string{"3000", "my-endpoint"}, []string{"3000", "Try: piko forward --help"}},
		{"bad address", []string{"tcp", "nonsense", "e"}, []string{"nonsense", "give a port"}},
		{"bad URL", []string{"tcp", "1", "e", "--connect.url", "piko.example.com"}, []string{"--connect.url", "http://host:port"}},
		{"no time", []string{"tcp", "1", "e", "--connect.timeout", "0s"}, []string{"--connect.timeout", "no time"}},
		{"two tokens", []string{"tcp", "1", "e", "--connect.token", "a", "--connect.token-file", "b"}, []string{"--connect.token-file", "one of them"}},
		{"no token file", []string{"tcp", "1", "e", "--connect.token-file", "/nowhere"}, []string{"--connect.token-file", "/nowhere"}},
		{"empty token file", []string{"tcp", "1", "e", "--connect.token-file", empty}, []string{"--connect.token-file", "is empty"}},
		{"no ports", []string{"start"}, []string{"no ports configured", "Try: piko forward start --help"}},
		{"ports that are no list", file("ports: 5432\n"), []string{":1: ports: ", "a list is expected"}},
		{"port without endpoint", file("ports:\n  - addr: 1\n"), []string{":2: ports[0].endpoint_id: ", "missing"}},
		{"port without address", file("ports:\n  - endpoint_id: e\n"), []string{":2: ports[0].addr: ", "missing"}},
		{"unknown key of a port", file("ports:\n  - {addr: 1, endpoint: e}\n"), []string{":2: ", "use one of addr, endpoint_id"}},
		{"listeners", file("listeners: []\n"), []string{":1: ", "unknown key listeners"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, _, stderr := runPiko(t, append([]string{"forward"}, tt.args...)...)
			if status != exitUsage {
				t.Errorf("exit status %d, want %d", status, exitUsage)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("the error %q does not say %q", stderr, want)
				}
			}
		})
	}
}

func TestTokenFileIsReadForEachConnection(t *testing.T) {
	path := writeFile(t, "token", "first\n")
	c, err := (&forwardConnectConfig{tokenConfig: tokenConfig{TokenFile: path}, Timeout: time.Second}).client(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "second"} {
		rewrite(t, path, " "+want+"\n\n")
		if got, err := c.Token(t.Context()); got != want || err != nil {
			t.Errorf("token %q, %v, want %q", got, err, want)
		}
	}
	for text, want := range map[string]string{"\n": "empty", "a b": "more than a token", "Bearer x": "more than a token"} {
		rewrite(t, path, text)
		if got, err := c.Token(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("token %q of %q, %v, want %q", got, text, err, want)
		}
	}
}

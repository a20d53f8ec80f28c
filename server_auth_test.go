package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"piko/auth"
)

const (
	testSecret  = "0123456789abcdef0123456789abcdef"
	otherSecret = "fedcba9876543210fedcba9876543210"
)

// testToken is signed with HS256 by hand: golang-jwt is auth's alone. claims
// are JSON.
func testToken(secret, claims string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// bearer is the header with such a token.
func bearer(secret, claims string) []string {
	return []string{"Authorization", "Bearer " + testToken(secret, claims)}
}

// rsaPEM is a public key as operators have it.
var rsaPEM = sync.OnceValue(func() string {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
})

// quoted is a text as YAML and JSON have it.
func quoted(s string) string {
	text, _ := json.Marshal(s)
	return string(text)
}

// TestAuthOptionsOfV090 gives every option of v0.9.0, by its name there, as
// flag, variable and key of the file.
func TestAuthOptionsOfV090(t *testing.T) {
	for _, port := range []string{"proxy", "upstream", "admin"} {
		want := auth.Config{
			HMACSecretKeys: []string{testSecret}, RSAPublicKeys: []string{rsaPEM()}, Audience: []string{"a,b"}, Issuer: []string{"i"},
			DisableDisconnectOnExpiry: true, Section: "--" + port + ".auth.",
		}
		flag := "--" + port + ".auth."
		env := "PIKO_" + strings.ToUpper(port) + "_AUTH_"
		for _, tt := range []struct {
			name string
			env  []string
			args []string
		}{
			{"flags", nil, []string{flag + "hmac-secret-key", testSecret, flag + "rsa-public-key", rsaPEM(), flag + "audience", "a,b", flag + "issuer", "i", flag + "disable-disconnect-on-expiry"}},
			{"environment", []string{env + "HMAC_SECRET_KEY=" + testSecret, env + "RSA_PUBLIC_KEY=" + rsaPEM(), env + "AUDIENCE=a,b", env + "ISSUER=i", env + "DISABLE_DISCONNECT_ON_EXPIRY=true"}, nil},
			{"file", nil, []string{"--config.path", writeFile(t, "piko.yaml", port+": {auth: {hmac_secret_key: "+testSecret+", rsa_public_key: "+quoted(rsaPEM())+", audience: 'a,b', issuer: i, disable_disconnect_on_expiry: true}}\n")}},
			{"lists in the file", nil, []string{"--config.path", writeFile(t, "piko.yaml", port+": {auth: {hmac_secret_key: ["+testSecret+"], rsa_public_key: ["+quoted(rsaPEM())+"], audience: ['a,b'], issuer: [i], disable_disconnect_on_expiry: true}}\n")}},
		} {
			t.Run(port+" by "+tt.name, func(t *testing.T) {
				cfg, err := parseServer(t, tt.env, tt.args...)
				if err != nil {
					t.Fatal(err)
				}
				o, err := cfg.authOptions()
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]auth.Config{"proxy": o.proxy.Default, "upstream": o.upstream.Default, "admin": o.admin.Default}[port]
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
				if err := cfg.check(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	cfg, err := parseServer(t, nil, "--upstream.auth.jwks.endpoint", "https://idp.example/keys", "--upstream.auth.jwks.cache-ttl", "5m", "--upstream.auth.jwks.timeout", "3s")
	if err != nil {
		t.Fatal(err)
	}
	if o, err := cfg.authOptions(); err != nil || o.upstream.Default.JWKS != (auth.JWKS{Endpoint: "https://idp.example/keys", CacheTTL: 5 * time.Minute, Timeout: 3 * time.Second}) {
		t.Errorf("got %+v, %v", o.upstream.Default, err)
	}
}

// TestKeysOfFiles has several of a kind, and secrets one a line.
func TestKeysOfFiles(t *testing.T) {
	secrets := writeFile(t, "secrets", testSecret+"\n\n  "+otherSecret+"  \n")
	key := writeFile(t, "key.pem", rsaPEM())
	cfg, err := parseServer(t, nil, "--proxy.auth.hmac-secret-key-file", secrets, "--proxy.auth.hmac-secret-key", "inline-"+testSecret, "--proxy.auth.rsa-public-key-file", key, "--proxy.auth.rsa-public-key-file", key)
	if err != nil {
		t.Fatal(err)
	}
	o, err := cfg.authOptions()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := o.proxy.Default.HMACSecretKeys, []string{"inline-" + testSecret, testSecret, otherSecret}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := len(o.proxy.Default.RSAPublicKeys); got != 2 {
		t.Errorf("%d RSA keys", got)
	}
	if got, want := cfg.authFiles(), []string{secrets, key, key}; !reflect.DeepEqual(got, want) {
		t.Errorf("the files are %q, want %q", got, want)
	}
}

// TestAuthMistakesNameOptionAndRemedy is about configurations that must not
// start, since a port would be open or anybody could make tokens for it.
func TestAuthMistakesNameOptionAndRemedy(t *testing.T) {
	tenants := func(port, list string) []string {
		return []string{"--config.path", writeFile(t, "piko.yaml", port+": {tenants: "+list+"}\n")}
	}
	good := "{hmac_secret_key: " + testSecret + "}"
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"short secret", []string{"--proxy.auth.hmac-secret-key", "12345"}, "--proxy.auth.hmac-secret-key: a secret of 5 bytes is too short"},
		{"empty secret", []string{"--admin.auth.hmac-secret-key", ""}, "--admin.auth.hmac-secret-key: a secret of 0 bytes"},
		{"secret of a variable that is empty", []string{"--config.path", writeFile(t, "piko.yaml", "upstream: {auth: {hmac_secret_key: ''}}\n")}, "upstream.auth.hmac_secret_key: a secret of 0 bytes"},
		{"key of a variable that is empty", []string{"--config.path", writeFile(t, "piko.yaml", "upstream: {auth: {rsa_public_key: ''}}\n")}, "upstream.auth.rsa_public_key: is empty; give a value, or leave the option out"},
		{"audience that is empty", []string{"--proxy.auth.audience", " "}, "--proxy.auth.audience: is empty"},
		{"short secret in a file", []string{"--proxy.auth.hmac-secret-key-file", writeFile(t, "secret", "\nabcdefg\n")}, "secret:2: a secret of 7 bytes"},
		{"empty file", []string{"--proxy.auth.hmac-secret-key-file", writeFile(t, "secret", "\n")}, "secret is empty; write a secret into it"},
		{"file that is not there", []string{"--upstream.auth.hmac-secret-key-file", "/nowhere"}, "--upstream.auth.hmac-secret-key-file: open /nowhere"},
		{"PEM file that is not there", []string{"--upstream.auth.ecdsa-public-key-file", "/nowhere"}, "--upstream.auth.ecdsa-public-key-file: open /nowhere"},
		{"PEM file of another kind", []string{"--upstream.auth.eddsa-public-key-file", writeFile(t, "key.pem", rsaPEM())}, "key.pem: an RSA public key where an Ed25519 public key is expected"},
		{"path in place of a key", []string{"--proxy.auth.rsa-public-key", "/etc/piko/key.pem"}, "--proxy.auth.rsa-public-key: not an RSA public key in PEM"},
		{"key set and key", []string{"--proxy.auth.jwks.endpoint", "https://h/k", "--proxy.auth.hmac-secret-key", testSecret}, "--proxy.auth.jwks.endpoint: is in place of keys"},
		{"key set file that is not there", []string{"--proxy.auth.jwks.endpoint", "file:///nowhere"}, "--proxy.auth.jwks.endpoint: open /nowhere"},
		{"rules without a key", []string{"--proxy.auth.issuer", "i"}, "--proxy.auth: has rules for tokens and no key"},
		{"rule without a key", []string{"--proxy.auth.require-expiry"}, "--proxy.auth: has rules for tokens and no key"},
		{"tenant without auth", tenants("upstream", "[{id: a}]"), "upstream.tenants[0].auth: missing"},
		{"tenant without auth and domains", tenants("proxy", "[{id: a, auth: "+good+"}, {id: b}]"), "proxy.tenants[1].auth: missing, and so are domains"},
		{"tenant without id", tenants("proxy", "[{auth: "+good+"}]"), "proxy.tenants[0].id: missing"},
		{"tenant with a slash", tenants("proxy", "[{id: a/b, auth: "+good+"}]"), `proxy.tenants[0].id: "a/b"`},
		{"tenant that is long", tenants("upstream", "[{id: "+strings.Repeat("x", 65)+", auth: "+good+"}]"), "upstream.tenants[0].id: "},
		{"tenant twice", tenants("upstream", "[{id: A, auth: "+good+"}, {id: a, auth: "+good+"}]"), `"a" is there twice`},
		{"short secret of a tenant", tenants("upstream", "[{id: a, auth: {hmac_secret_key: short}}]"), "upstream.tenants[0].auth.hmac_secret_key: a secret of 5 bytes"},
		{"unknown key of a tenant", tenants("upstream", "[{id: a, auth: {hmac_key: short}}]"), "upstream.tenants[0].auth.hmac_key"},
		{"tenants that are no list", tenants("upstream", "{a: 1}"), "upstream.tenants: found a section where a list is expected"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, _, stderr := runPiko(t, append([]string{"server"}, tt.args...)...)
			if status != exitUsage || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit status %d, %q; want 2 and %q", status, stderr, tt.want)
			}
		})
	}
}

// TestTenantsOfTheFile has those of v0.9.0 and ours.
func TestTenantsOfTheFile(t *testing.T) {
	path := writeFile(t, "piko.yaml", `
upstream:
  tenants:
  - id: TenantA
    auth: {hmac_secret_key: `+testSecret+`}
  - id: tenant-b
    auth:
      jwks: {endpoint: https://idp.example/keys, cache_ttl: 1m}
proxy:
  tenants:
  - {id: tenanta, auth: {hmac_secret_key: `+otherSecret+`, require_expiry: true}, domains: [A.example.com, a.example.org]}
  - {id: open, domains: open.example.com}
`)
	cfg, err := parseServer(t, nil, "--config.path", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	o, err := cfg.authOptions()
	if err != nil {
		t.Fatal(err)
	}
	wantUpstream := []auth.Tenant{
		{ID: "tenanta", Auth: auth.Config{HMACSecretKeys: []string{testSecret}, Section: "upstream.tenants[0].auth."}},
		{ID: "tenant-b", Auth: auth.Config{JWKS: auth.JWKS{Endpoint: "https://idp.example/keys", CacheTTL: time.Minute}, Section: "upstream.tenants[1].auth."}},
	}
	wantProxy := []auth.Tenant{
		{ID: "tenanta", Auth: auth.Config{HMACSecretKeys: []string{otherSecret}, RequireExpiry: true, Section: "proxy.tenants[0].auth."}, Domains: []string{"a.example.com", "a.example.org"}},
		{ID: "open", Auth: auth.Config{Section: "proxy.tenants[1].auth."}, Domains: []string{"open.example.com"}},
	}
	if !reflect.DeepEqual(o.upstream.Tenants, wantUpstream) || !reflect.DeepEqual(o.proxy.Tenants, wantProxy) {
		t.Errorf("got %+v and %+v", o.upstream.Tenants, o.proxy.Tenants)
	}
	if !cfg.isolated() {
		t.Error("tenants of the proxy port are not isolated")
	}
	cfg.Proxy.Tenants = nil
	if cfg.isolated() {
		t.Error("upstream.tenants alone isolate")
	}
}

// TestAdminPortAsksForTokens is a whole node, asked by HTTP and by the command.
func TestAdminPortAsksForTokens(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(cfg *serverConfig) { cfg.Admin.Auth.HMACSecretKey = []hmacSecret{testSecret} })
	c := newClient(t)
	url := "http://" + n.AdminAddr().String()
	for path, want := range map[string]int{"/health": 200, "/ready": 200, "/metrics": 401, "/status/cluster/nodes": 401, "/debug/pprof/heap": 401} {
		if status, body, h := get(t, c, url+path); status != want || want == 401 && h.Get("Www-Authenticate") != `Bearer realm="piko"` {
			t.Errorf("%s: %d %s %v", path, status, body, h)
		}
	}
	if status, body, _ := get(t, c, url+"/metrics", bearer(testSecret, `{}`)...); status != 200 || !strings.Contains(body, `piko_auth_refusals_total{port="admin",reason="no-token"} 3`) {
		t.Errorf("metrics with a token: %d; the refusals are not counted", status)
	}
	status, _, h := get(t, c, url+"/metrics", bearer(otherSecret, `{}`)...)
	if got := h.Get("Www-Authenticate"); status != 401 || got != `Bearer realm="piko", error="invalid_token"` {
		t.Errorf("with another's token: %d, %q", status, got)
	}
	file := writeFile(t, "token", testToken(testSecret, `{}`)+"\n")
	for _, tt := range []struct {
		args []string
		want int
		text string
	}{
		{nil, exitFailure, "--server.token-file"},
		{[]string{"--server.token-file", file}, exitOK, n.id},
		{[]string{"--server.token", testToken(testSecret, `{}`)}, exitOK, n.id},
		{[]string{"--server.token", testToken(otherSecret, `{}`)}, exitFailure, "invalid token"},
		{[]string{"--server.token", "x", "--server.token-file", file}, exitUsage, "not both"},
		{[]string{"--server.token-file", "/nowhere"}, exitUsage, "--server.token-file: open /nowhere"},
	} {
		status, stdout, stderr := runPiko(t, append([]string{"server", "status", "cluster", "nodes", "--server.url", url}, tt.args...)...)
		if status != tt.want || !strings.Contains(stdout+stderr, tt.text) {
			t.Errorf("%q: exit status %d, %s%s; want %d and %q", tt.args, status, stdout, stderr, tt.want, tt.text)
		}
	}
}

// adminURL is where a node that run has started answers operators.
func adminURL(t *testing.T, p *testProcess) string {
	t.Helper()
	var line struct{ Admin string }
	if err := json.Unmarshal([]byte(lineWith(t, p, "node started")), &line); err != nil {
		t.Fatal(err)
	}
	return "http://" + line.Admin
}

// TestKeysRotateWithoutRestart replaces a secret in its file in three steps, as
// one does, with SIGHUP and without.
func TestKeysRotateWithoutRestart(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "secret", testSecret)
	p := newTestProcess(t)
	hups := withHangups(p)
	startRun(t, p, append([]string{"server", "--admin.auth.hmac-secret-key-file", path}, anyPorts...)...)
	eventually(t, func() error { return logged(p, "node ready") })
	url := adminURL(t, p) + "/status/upstream/endpoints"
	c := newClient(t)
	becomes := func(step string, first, second int) {
		t.Helper()
		eventually(t, func() error {
			a, _, _ := get(t, c, url, bearer(testSecret, `{}`)...)
			b, _, _ := get(t, c, url, bearer(otherSecret, `{}`)...)
			if a != first || b != second {
				return fmt.Errorf("%s: the first secret's token gets %d, the second's %d", step, a, b)
			}
			return nil
		})
	}
	becomes("at first", 200, 401)
	rewrite(t, path, testSecret+"\n"+otherSecret)
	hups <- syscall.SIGHUP
	becomes("both", 200, 200)
	lineWith(t, p, `"applied":["admin.auth"],"needs_restart":[]`)
	rewrite(t, path, "short")
	hups <- syscall.SIGHUP
	lineWith(t, p, "configuration not reloaded")
	becomes("while the file is broken", 200, 200)
	if err := os.WriteFile(path+".new", []byte(otherSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	becomes("the second alone, without a signal", 401, 200)
}

// TestReloadOpensAndClosesNoPort turns authentication on and off in the file:
// both need a restart, and until then all is as it was.
func TestReloadOpensAndClosesNoPort(t *testing.T) {
	t.Parallel()
	closed := "admin: {auth: {hmac_secret_key: " + testSecret + "}}\n"
	opened := "proxy: {auth: {hmac_secret_key: " + testSecret + "}}\n"
	path := writeFile(t, "piko.yaml", closed)
	p := newTestProcess(t)
	hups := withHangups(p)
	startRun(t, p, append([]string{"server", "--config.path", path}, anyPorts...)...)
	eventually(t, func() error { return logged(p, "node ready") })
	rewrite(t, path, opened)
	hups <- syscall.SIGHUP
	lineWith(t, p, `"applied":[],"needs_restart":["admin.auth.hmac-secret-key","proxy.auth.hmac-secret-key"]`)
	if status, _, _ := get(t, newClient(t), adminURL(t, p)+"/metrics"); status != 401 {
		t.Errorf("the admin port is open after a reload: %d", status)
	}
}

// TestOpenPortsAreWarnedOf is about what a node says at its start.
func TestOpenPortsAreWarnedOf(t *testing.T) {
	t.Parallel()
	tenant := []upstreamTenant{{ID: "a", Auth: authConfig{HMACSecretKey: []hmacSecret{testSecret}}}}
	const admin, tenants = "the admin port is open to everybody", "tenants share the names"
	for _, tt := range []struct {
		name   string
		change func(*serverConfig)
		want   string // "" is no warning
	}{
		{"loopback", func(*serverConfig) {}, ""},
		{"all interfaces", func(c *serverConfig) { c.Admin.BindAddr = ":0" }, admin},
		{"all interfaces with tokens", func(c *serverConfig) { c.Admin.BindAddr, c.Admin.Auth.HMACSecretKey = ":0", []hmacSecret{testSecret} }, ""},
		{"tenants", func(c *serverConfig) { c.Upstream.Tenants = tenant }, tenants},
		{"tenants that are isolated", func(c *serverConfig) { c.Upstream.Tenants, c.Tenants.Isolated = tenant, true }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := startNode(t, tt.change)
			for _, text := range []string{admin, tenants} {
				want := 0
				if text == tt.want {
					want = 1
				}
				if got := strings.Count(n.log.String(), text); got != want {
					t.Errorf("%q is in the log %d times, want %d", text, got, want)
				}
			}
		})
	}
}

// TestSecretsHideInEveryFormat is about the types of options that are secrets.
func TestSecretsHideInEveryFormat(t *testing.T) {
	cfg := defaultServerConfig()
	cfg.Admin.Auth.HMACSecretKey = []hmacSecret{testSecret}
	cfg.Cluster.Secret = []secret{testSecret}
	text, err := json.Marshal(struct {
		A []hmacSecret
		B []secret
	}{cfg.Admin.Auth.HMACSecretKey, cfg.Cluster.Secret})
	if err != nil {
		t.Fatal(err)
	}
	cfg.AccessOut = nil
	for _, shown := range []string{string(text), fmt.Sprintf("%v %+v %#v %s %q", cfg.Admin.Auth, cfg.Admin.Auth, cfg.Admin.Auth, cfg.Admin.Auth.HMACSecretKey, cfg.Admin.Auth.HMACSecretKey), fmt.Sprintf("%v %+v %#v", cfg.Cluster, cfg.Cluster, cfg.Cluster)} {
		if strings.Contains(shown, testSecret[:16]) || !strings.Contains(shown, hidden) {
			t.Errorf("a secret is shown: %s", shown)
		}
	}
}

// TestLogHoldsUpToOddTokensAndQuestions sends odd bytes wherever the ports that
// ask for tokens log what a client says.
func TestLogHoldsUpToOddTokensAndQuestions(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(cfg *serverConfig) {
		cfg.Log.Level = "debug"
		for _, a := range []*authConfig{&cfg.Proxy.Auth, &cfg.Upstream.Auth, &cfg.Admin.Auth} {
			a.HMACSecretKey = []hmacSecret{testSecret}
		}
	})
	c := newClient(t)
	for _, odd := range []string{"a\r\nb", "\x1b[31m", "\u2028\u2029", "\u009b31m\x7f", "\u202e", strings.Repeat("long", 1000)} {
		claims := func(more string) []string { return bearer(testSecret, `{"sub":`+quoted(odd)+more+`}`) }
		proxyURL, upstreamURL, admin := "http://"+n.ProxyAddr().String(), "http://"+n.UpstreamAddr().String(), "http://"+n.AdminAddr().String()
		escaped := url.PathEscape(odd)
		for _, headers := range [][]string{claims(""), claims(`,"exp":1`), claims(`,"piko":{"endpoints":[` + quoted(odd) + `]}`), nil} {
			get(t, c, proxyURL+"/"+escaped, append([]string{"x-piko-endpoint", "e"}, headers...)...)
			get(t, c, proxyURL+"/_piko/v1/tcp/"+escaped, headers...)
			get(t, c, upstreamURL+"/piko/v1/upstream/"+escaped, headers...)
			get(t, c, admin+"/"+escaped+"?forward="+url.QueryEscape(odd), headers...)
		}
	}
	for line := range strings.Lines(n.log.String()) {
		line = strings.TrimSuffix(line, "\n")
		if !json.Valid([]byte(line)) || strings.ContainsFunc(line, func(r rune) bool { return r < 0x20 || breaksLog(r) }) || len(line) > 16<<10 {
			t.Errorf("a line of %d bytes that is broken: %.300q", len(line), line)
		}
	}
}

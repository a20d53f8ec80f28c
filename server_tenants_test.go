package main

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/client"
)

// tenantKeys are the keys of the tenants of tests.
var tenantKeys = map[string]hmacSecret{
	"acme":   "of acme alone, and at least 32 bytes",
	"globex": "of globex alone, and at least 32 bytes",
}

// mintToken makes a token of HS256.
func mintToken(t testing.TB, key hmacSecret, claims map[string]any) string {
	t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]string{"alg": "HS256", "typ": "JWT"}) + "." + part(claims)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// tenantToken is one of a tenant.
func tenantToken(t testing.TB, tenant string) string {
	return mintToken(t, tenantKeys[tenant], map[string]any{"sub": "of " + tenant, "exp": time.Now().Add(time.Hour).Unix()})
}

func staticToken(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// withTenants isolates tenants on both ports.
func withTenants(cfg *serverConfig) {
	for id, key := range tenantKeys {
		auth := authConfig{HMACSecretKey: []hmacSecret{key}}
		cfg.Upstream.Tenants = append(cfg.Upstream.Tenants, upstreamTenant{ID: id, Auth: auth})
		cfg.Proxy.Tenants = append(cfg.Proxy.Tenants, proxyTenant{ID: id, Auth: auth, Domains: []domain{domain(id + ".test")}})
	}
}

// tenantClient is a tenant's, of the SDK.
func tenantClient(t testing.TB, tenant, url string) *client.Client {
	return &client.Client{URL: url, Token: staticToken(tenantToken(t, tenant)), TenantID: tenant, HTTP2: true, Connections: 2}
}

// stampFor is what a tenant's services say to everything.
func stampFor(tenant string) string { return "I am of " + tenant }

// serveStamps serves a tenant's "app" and "raw", which say whose they are.
func serveStamps(t *testing.T, tenant, url string) {
	t.Helper()
	stamp := stampFor(tenant)
	app, err := tenantClient(t, tenant, url).Listen(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
			fmt.Fprint(w, stamp)
			return
		}
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x82%c%s", len(stamp), stamp)
	})}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	tcp := tenantClient(t, tenant, url)
	tcp.Protocol, tcp.HTTP2 = "tcp", false
	raw, err := tcp.Listen(t.Context(), "raw")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { srv.Serve(app) })
	serving.Go(func() {
		for {
			c, err := raw.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { io.WriteString(c, stamp); c.Close() })
		}
	})
	t.Cleanup(func() {
		srv.Close()
		app.Shutdown(context.WithoutCancel(t.Context()))
		raw.Shutdown(context.WithoutCancel(t.Context()))
		serving.Wait()
	})
}

// tenantAsks are all the ways in which a client can ask a node for a tenant's endpoint; each returns what the service said.
var tenantAsks = map[string]func(ctx context.Context, tenant, token, addr string) (string, error){
	"by host": func(ctx context.Context, tenant, token, addr string) (string, error) {
		return askTenant(ctx, addr, http.MethodGet, "app."+tenant+".test", "Authorization", "Bearer "+token)
	},
	"by header": func(ctx context.Context, tenant, token, addr string) (string, error) {
		return askTenant(ctx, addr, http.MethodPost, addr, "X-Piko-Authorization", "Bearer "+token, "X-Piko-Tenant-Id", tenant, "X-Piko-Endpoint", "app")
	},
	"gRPC": func(ctx context.Context, tenant, token, addr string) (string, error) {
		return askTenant(ctx, addr, http.MethodPost, "app."+tenant+".test", "Authorization", "Bearer "+token, "Content-Type", "application/grpc", "Te", "trailers")
	},
	"WebSocket": askWebSocket,
	"TCP": func(ctx context.Context, tenant, token, addr string) (string, error) {
		c, err := (&client.Client{URL: "http://" + addr, Token: staticToken(token), TenantID: tenant}).Dial(ctx, "raw")
		if err != nil {
			return "", err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		return string(b), err
	},
}

// askTenant sends a request; one of gRPC over HTTP/2.
func askTenant(ctx context.Context, addr, method, host string, fields ...string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+"/", http.NoBody)
	if err != nil {
		return "", err
	}
	req.Host = host
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true}
	if req.Header.Get("Te") != "" {
		tr = &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if len(b) == 0 {
		return fmt.Sprint(res.StatusCode, res.Header), err
	}
	return string(b), err
}

func askWebSocket(ctx context.Context, tenant, token, addr string) (string, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: app.%s.test\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", tenant, token)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Sprint(res), err
	}
	b := make([]byte, 2+len(stampFor(tenant)))
	n, err := io.ReadFull(r, b)
	return string(b[min(n, 2):n]), err
}

// reachTenant asks a node for a tenant's endpoints until they answer.
func reachTenant(t *testing.T, n *testNode, tenant string) {
	t.Helper()
	token := tenantToken(t, tenant)
	for name, ask := range tenantAsks {
		eventually(t, func() error {
			got, err := ask(t.Context(), tenant, token, n.ProxyAddr().String())
			if got != stampFor(tenant) {
				return fmt.Errorf("%s, %s through %s: %q, %v", tenant, name, n.id, got, err)
			}
			return nil
		})
	}
}

// Two tenants with endpoints of the same names never see each other's traffic: at the node that has the tunnel, at the
// other one, and while a node drains and its tunnels move.
func TestTenantsNeverMeet(t *testing.T) {
	t.Parallel()
	late := func(cfg *serverConfig) {
		withTenants(cfg)
		cfg.ShutdownDelay = 500 * time.Millisecond // a client may have chosen the node a moment before
	}
	nodes := startCluster(t, 2, late)
	agents := startChooser(t, nodes...)
	for tenant := range tenantKeys {
		serveStamps(t, tenant, agents.URL())
	}
	var current [2]atomic.Pointer[testNode]
	for i, n := range nodes {
		current[i].Store(n)
		for tenant := range tenantKeys {
			reachTenant(t, n, tenant)
		}
	}

	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	var asked, met, failed atomic.Int64
	for tenant := range tenantKeys {
		token := tenantToken(t, tenant)
		for name, ask := range tenantAsks {
			for i := range 2 {
				asking.Go(func() {
					for ctx.Err() == nil {
						n := current[i].Load()
						if n == nil {
							n = current[1-i].Load()
						}
						got, err := ask(context.WithoutCancel(ctx), tenant, token, n.ProxyAddr().String())
						asked.Add(1)
						switch {
						case got == stampFor(tenant):
						case strings.Contains(got, "I am of"):
							met.Add(1)
							t.Errorf("%s asked %s through %s and got %q", tenant, name, n.id, got)
							return
						case current[0].Load() == n || current[1].Load() == n: // it had not stopped meanwhile
							failed.Add(1)
							t.Errorf("%s asked %s through %s and got %q, %v", tenant, name, n.id, got, err)
							return
						}
					}
				})
			}
		}
	}
	current[0].Store(nil)
	if err := nodes[0].stop(); err != nil {
		t.Errorf("%s: %v", nodes[0].id, err)
	}
	nodes[0] = startMember(t, nodes[0].id, late, nodes[1])
	agents.set(nodes...)
	current[0].Store(nodes[0])
	stop()
	asking.Wait()
	t.Logf("%d requests, %d met the other tenant, %d failed", asked.Load(), met.Load(), failed.Load())
}

// What a node says of tenants, and whom it refuses.
func TestTenantsOfANode(t *testing.T) {
	t.Parallel()
	n := startNode(t, withTenants)
	url := "http://" + n.UpstreamAddr().String()
	for tenant := range tenantKeys {
		serveStamps(t, tenant, url)
	}
	addr := n.ProxyAddr().String()
	for tenant := range tenantKeys {
		reachTenant(t, n, tenant)
	}
	for name, ask := range tenantAsks {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if got, _ := ask(ctx, "acme", tenantToken(t, "globex"), addr); strings.Contains(got, "I am of") {
			t.Errorf("globex's token let in %s to %q", name, got)
		}
		cancel()
	}
	if _, err := tenantClient(t, "globex", url).Listen(t.Context(), "app/x"); err == nil {
		t.Error("an agent may listen on a name with a slash")
	}
	c := newClient(t)
	admin := "http://" + n.AdminAddr().String()
	_, body, _ := get(t, c, admin+"/status/upstream/endpoints")
	var endpoints map[string]int
	if err := json.Unmarshal([]byte(body), &endpoints); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"acme/app", "acme/raw", "globex/app", "globex/raw"} {
		if endpoints[name] == 0 {
			t.Errorf("the status lacks %s: %s", name, body)
		}
	}
	if _, out, _ := runPiko(t, "server", "status", "upstream", "endpoints", "--server.url", admin, "-o", "yaml"); !strings.Contains(out, "acme/app: ") {
		t.Errorf("the command says %s", out)
	}
	eventually(t, func() error {
		if log := n.log.String(); !strings.Contains(log, `"endpoint":"app","tenant":"acme","subject":"of acme","token_id":"`) {
			return fmt.Errorf("the access log has no line of acme")
		}
		return nil
	})
	_, metrics, _ := get(t, c, admin+"/metrics")
	for _, want := range []string{`piko_proxy_tenant_requests_total{status="2xx",tenant="acme"} `, `piko_auth_refusals_total{port="proxy",reason="`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	for _, secret := range append(strings.Split(tenantToken(t, "acme"), "."), string(tenantKeys["acme"]), string(tenantKeys["globex"])) {
		if len(secret) > 40 && strings.Contains(n.log.String()+metrics, secret) {
			t.Errorf("%q is in the log or the metrics", secret)
		}
	}
}

// Domains of tenants can be changed without a restart, and one of two tenants is an error before anything has started.
func TestTenantsAreReloaded(t *testing.T) {
	t.Parallel()
	n := startNode(t, withTenants)
	next := n.cfg
	next.Proxy.Tenants = nil
	next.Upstream.Tenants = nil
	withTenants(&next)
	for i := range next.Proxy.Tenants {
		next.Proxy.Tenants[i].Domains = []domain{domain("new-" + next.Proxy.Tenants[i].ID + ".test")}
	}
	serveStamps(t, "acme", "http://"+n.UpstreamAddr().String())
	reachTenant(t, n, "acme")
	ask := func(host string) string {
		got, err := askTenant(t.Context(), n.ProxyAddr().String(), http.MethodGet, host, "Authorization", "Bearer "+tenantToken(t, "acme"))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if old, new := ask("app.acme.test"), ask("app.new-acme.test"); old != stampFor("acme") || !strings.Contains(new, "unknown-tenant") {
		t.Errorf("before: %s, %s", old, new)
	}
	commit, applied, err := n.prepare(next)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(fmt.Sprint(applied), "proxy.tenants") {
		t.Errorf("applied %v", applied)
	}
	commit()
	if old, new := ask("app.acme.test"), ask("app.new-acme.test"); !strings.Contains(old, "unknown-tenant") || new != stampFor("acme") {
		t.Errorf("after: %s, %s", old, new)
	}
	for i := range next.Proxy.Tenants {
		next.Proxy.Tenants[i].Domains = []domain{"same.test"}
	}
	if err := next.check(); err == nil || !strings.Contains(err.Error(), "same.test") {
		t.Errorf("a domain of two tenants: %v", err)
	}
}

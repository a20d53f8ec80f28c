//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// tenants are two with a key each, and endpoints of the same names.
var tenants = map[string]string{
	"acme":   "the key of acme, which has more than 32 bytes",
	"globex": "the key of globex, which has more than 32 bytes",
}

// tenantsFile configures a node for them.
func tenantsFile(t testing.TB) string {
	t.Helper()
	var upstream, proxy strings.Builder
	for id, key := range tenants {
		fmt.Fprintf(&upstream, "    - {id: %s, auth: {hmac_secret_key: '%s'}}\n", id, key)
		fmt.Fprintf(&proxy, "    - {id: %s, auth: {hmac_secret_key: '%s'}, domains: [%s.test]}\n", id, key, id)
	}
	return writeFile(t, t.TempDir(), "server.yaml", "upstream:\n  tenants:\n"+upstream.String()+"proxy:\n  tenants:\n"+proxy.String())
}

// tenantTurn is a request of a tenant to its app, or a connection to its raw; it returns what the service said.
type tenantTurn func(ctx context.Context, addr, tenant, token string) (string, error)

func tenantApp(ctx context.Context, addr, tenant, token string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		return "", err
	}
	req.Host = "app." + tenant + ".test"
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

func tenantRaw(ctx context.Context, addr, tenant, token string) (string, error) {
	header := http.Header{"X-Piko-Tenant-Id": {tenant}, "X-Piko-Authorization": {"Bearer " + token}}
	c, res, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+addr+"/_piko/v1/tcp/raw", header)
	if err != nil {
		return fmt.Sprint(res), err
	}
	defer c.Close()
	_, message, err := c.ReadMessage()
	return string(message), err
}

// startStamp accepts connections and says who it is.
func startStamp(t testing.TB, name string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name) // who is gone has what it wanted
			c.Close()
		}
	}()
	return l.Addr().String()
}

// TestTenantsThroughARollingDrain restarts each of three nodes while clients of two tenants with the same endpoints ask
// for theirs: nobody ever gets the other's answer, and none is lost.
func TestTenantsThroughARollingDrain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{agents: -1, server: []string{"--config.path", tenantsFile(t), "--cluster.secret", clusterSecret}})
	for _, n := range c.nodes {
		c.startNode(n)
	}
	for _, n := range c.nodes {
		n.waitReady(t)
		c.lb.waitUp(t, n.id)
	}
	tokens := map[string]string{}
	for tenant, key := range tenants {
		tokens[tenant] = signClaims(t, key, map[string]any{"sub": tenant, "exp": time.Now().Add(time.Hour).Unix()})
		token := tokens[tenant]
		flags := []string{"--connect.url", "http://" + c.lb.upstream, "--connections", "2", "--connect.tenant-id", tenant, "--connect.token", token}
		for _, listener := range [][]string{{"http", "app", startOrigin(t, tenant).addr}, {"tcp", "raw", startStamp(t, tenant)}} {
			p := start(t, "agent of "+tenant, nil, pikoBinary, slices.Concat([]string{"agent"}, listener, flags)...)
			t.Cleanup(p.checkLog)
		}
	}
	turns := map[string]tenantTurn{"app": tenantApp, "raw": tenantRaw}
	for tenant := range tenants {
		for name, turn := range turns {
			for _, n := range c.nodes {
				eventually(t, 15*time.Second, tenant+" reaches its "+name+" through "+n.id, func() error {
					got, err := turn(t.Context(), n.proxy, tenant, tokens[tenant])
					if err == nil && got != tenant {
						err = fmt.Errorf("got %q", got)
					}
					return err
				})
			}
		}
	}
	counts, err := c.nodes[0].endpoints()
	if err != nil || counts["app"]+counts["raw"] > 0 {
		t.Errorf("the node has %v, %v", counts, err)
	}

	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	var asked, met, failed atomic.Int64
	for tenant := range tenants {
		for name, turn := range turns {
			for range 2 {
				asking.Go(func() {
					token := tokens[tenant]
					for ctx.Err() == nil {
						got, err := turn(context.WithoutCancel(ctx), c.lb.all, tenant, token)
						asked.Add(1)
						if err == nil && got == tenant {
							continue
						}
						failed.Add(1)
						if _, other := tenants[got]; other {
							met.Add(1)
						}
						t.Errorf("%s asked for its %s and got %q, %v", tenant, name, got, err)
						return
					}
				})
			}
		}
	}
	for _, n := range c.nodes {
		c.end(t, n.process)
		c.startNode(n)
		n.waitReady(t)
		c.lb.waitUp(t, n.id)
	}
	stop()
	asking.Wait()
	t.Logf("%d turns, %d met the other tenant, %d failed", asked.Load(), met.Load(), failed.Load())
	var all strings.Builder
	for _, p := range c.processes {
		all.WriteString(p.readOutput())
	}
	for tenant, key := range tenants {
		if signature := strings.Split(tokens[tenant], ".")[2]; strings.Contains(all.String(), key) || strings.Contains(all.String(), signature) {
			t.Errorf("a log has a secret of %s", tenant)
		}
		if !strings.Contains(all.String(), `"endpoint":"app","tenant":"`+tenant+`","subject":"`+tenant+`"`) {
			t.Errorf("no access log has a request of %s", tenant)
		}
	}
}

package upstreamconn

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"piko/auth"
	"piko/client"
	"piko/fault"
)

const (
	secret      = "a secret of more than 32 bytes, for tests alone"
	otherSecret = "another secret of more than 32 bytes, for tests"
)

// object is JSON.
type object = map[string]any

var testRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func rsaPEM() string {
	der, err := x509.MarshalPKIXPublicKey(testRSA().Public())
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// sign makes a token by HS256.
func sign(key string, claims object) string { return signAs("HS256", []byte(key), claims, nil) }

func signAs(alg string, key any, claims, header object) string {
	token := jwt.NewWithClaims(jwt.GetSigningMethod(alg), jwt.MapClaims(claims))
	maps.Copy(token.Header, header)
	s, err := token.SignedString(key)
	if err != nil {
		panic(err)
	}
	return s
}

// claims are good ones, and more.
func claims(more object) object {
	c := object{"exp": time.Now().Add(time.Hour).Unix(), "sub": "tester"}
	maps.Copy(c, more)
	return c
}

// forEndpoints is the claim about endpoints.
func forEndpoints(list string, names ...string) object { return object{"piko": object{list: names}} }

func newGuard(t testing.TB, opt auth.Options) *auth.Guard {
	t.Helper()
	opt.Port = "upstream"
	g, err := auth.NewGuard(opt)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// bearer is the header of a request with these tokens.
func bearer(tokens ...string) http.Header {
	h := http.Header{}
	for _, token := range tokens {
		h.Add("Authorization", "Bearer "+token)
	}
	return h
}

// ask asks for a tunnel and returns the answer, of which the body was read.
func ask(t testing.TB, url, path string, header http.Header) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req, err := http.NewRequest(http.MethodGet, url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	for name, value := range map[string]string{
		"Upgrade": "websocket", "Connection": "Upgrade", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		if req.Header.Get(name) == "" {
			req.Header.Set(name, value)
		}
	}
	go req.Write(conn) // the server may answer before it has read all
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	defer res.Body.Close()
	var body []byte
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, _ = io.ReadAll(res.Body)
	}
	return res, string(body)
}

func TestWrongTokenOpensNoTunnel(t *testing.T) {
	n := startNode(t, func(s *Server) {
		s.Auth = newGuard(t, auth.Options{FailureRate: 1000, Default: auth.Config{
			HMACSecretKeys: []string{secret}, RSAPublicKeys: []string{rsaPEM()}, Audience: []string{"piko"}, Issuer: []string{"us"},
		}})
	})
	good := func(more object) object {
		c := claims(object{"aud": "piko", "iss": "us"})
		maps.Copy(c, more)
		return c
	}
	ours := sign(secret, good(nil))
	parts := strings.Split(ours, ".")
	now := time.Now()
	for name, tt := range map[string]struct {
		header http.Header
		status int
		code   fault.Code
	}{
		"none":                         {nil, 401, fault.MissingAuthorization},
		"an empty header":              {http.Header{"Authorization": {""}}, 401, fault.MissingAuthorization},
		"no scheme":                    {http.Header{"Authorization": {ours}}, 401, fault.InvalidAuthorization},
		"another scheme":               {http.Header{"Authorization": {"Basic " + ours}}, 401, fault.UnsupportedAuthType},
		"alg none":                     {bearer(signAs("none", jwt.UnsafeAllowNoneSignatureType, good(nil), nil)), 401, fault.InvalidToken},
		"HS256 with the RSA key's PEM": {bearer(sign(rsaPEM(), good(nil))), 401, fault.InvalidToken},
		"another secret":               {bearer(sign(otherSecret, good(nil))), 401, fault.InvalidToken},
		"expired":                      {bearer(sign(secret, good(object{"exp": now.Add(-time.Minute).Unix()}))), 401, fault.ExpiredToken},
		"expired long ago":             {bearer(sign(secret, good(object{"exp": 1}))), 401, fault.ExpiredToken},
		"not valid yet":                {bearer(sign(secret, good(object{"nbf": now.Add(time.Minute).Unix()}))), 401, fault.InvalidToken},
		"another audience":             {bearer(sign(secret, good(object{"aud": []string{"pike", "p"}}))), 401, fault.InvalidToken},
		"no audience":                  {bearer(sign(secret, claims(object{"iss": "us"}))), 401, fault.InvalidToken},
		"another issuer":               {bearer(sign(secret, good(object{"iss": "them"}))), 401, fault.InvalidToken},
		"poisoned kid":                 {bearer(signAs("HS256", []byte(""), good(nil), object{"kid": "../../../dev/null"})), 401, fault.InvalidToken},
		"kid of a megabyte":            {bearer(signAs("HS256", []byte(secret), good(nil), object{"kid": strings.Repeat("k", 100<<10)})), 401, fault.InvalidToken},
		"a key that it brings":         {bearer(signAs("HS256", []byte(otherSecret), good(nil), object{"jwk": object{"kty": "oct", "k": "YQ"}})), 401, fault.InvalidToken},
		"crit":                         {bearer(signAs("HS256", []byte(secret), good(nil), object{"crit": []string{"exp"}})), 401, fault.InvalidToken},
		"without its signature":        {bearer(parts[0] + "." + parts[1] + "."), 401, fault.InvalidToken},
		"without its end":              {bearer(ours[:len(ours)-10]), 401, fault.InvalidToken},
		"with other claims":            {bearer(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":9999999999,"aud":"piko","iss":"us"}`)) + "." + parts[2]), 401, fault.InvalidToken},
		"64 KiB":                       {bearer(strings.Repeat("x", 64<<10)), 401, fault.InvalidToken},
		"1 MiB":                        {bearer(strings.Repeat("x", 1<<20)), 401, fault.InvalidToken},
		"two headers":                  {bearer(ours, ours), 400, fault.MalformedRequest},
		"two headers of ours":          {http.Header{"X-Piko-Authorization": {"Bearer " + ours, "Bearer x"}}, 400, fault.MalformedRequest},
		"a bad one of ours beside it":  {http.Header{"Authorization": {"Bearer " + ours}, "X-Piko-Authorization": {"Bearer x"}}, 401, fault.InvalidToken},
		"a tenant that is not there":   {http.Header{"Authorization": {"Bearer " + ours}, "X-Piko-Tenant-Id": {"t"}}, 401, fault.UnknownTenant},
		"for another endpoint":         {bearer(sign(secret, good(forEndpoints("endpoints", "other", "my-endpoint2", "my-endpoin")))), 401, fault.EndpointNotPermitted},
		"for another prefix":           {bearer(sign(secret, good(forEndpoints("endpoints", "my-endpoint-*")))), 401, fault.EndpointNotPermitted},
		"to connect alone":             {bearer(sign(secret, good(forEndpoints("connect", "my-endpoint")))), 401, fault.EndpointNotPermitted},
		"to listen elsewhere":          {bearer(sign(secret, good(object{"piko": object{"listen": []string{"x"}, "connect": []string{"my-endpoint"}}}))), 401, fault.EndpointNotPermitted},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := ask(t, n.url, "/piko/v1/upstream/my-endpoint", tt.header)
			if res.StatusCode != tt.status || tt.code != "" && !strings.Contains(body, `"code":"`+string(tt.code)+`"`) {
				t.Errorf("%d %s, want %d %s", res.StatusCode, body, tt.status, tt.code)
			}
			if res.StatusCode == 401 && !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("WWW-Authenticate is %q", res.Header.Get("WWW-Authenticate"))
			}
			if strings.Contains(body, "eyJ") {
				t.Errorf("the answer has the token: %s", body)
			}
		})
	}
	if got := n.Tunnels(); got != 0 || n.Table.Lookup("my-endpoint") != nil {
		t.Errorf("%d tunnels", got)
	}
	if lines := n.log.with("eyJ"); len(lines) > 0 {
		t.Errorf("a token is in the log: %s", lines[0])
	}
	for name, header := range map[string]http.Header{
		"good":                      bearer(ours),
		"by the RSA key":            bearer(signAs("RS256", testRSA(), good(nil), nil)),
		"for the endpoint":          bearer(sign(secret, good(forEndpoints("endpoints", "my-endpoint")))),
		"for the prefix, to listen": bearer(sign(secret, good(forEndpoints("listen", "my-*")))),
		"in lower case":             {"Authorization": {"bearer " + ours}},
		"in our header":             {"Authorization": {"Basic x"}, "X-Piko-Authorization": {"Bearer " + ours}},
		"expired within the leeway": bearer(sign(secret, good(object{"exp": now.Add(-10 * time.Second).Unix()}))),
	} {
		if res, body := ask(t, n.url, "/piko/v1/upstream/my-endpoint", header); res.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
	}
}

// Another's endpoint is not to be had by writing it otherwise.
func TestTokenIsForOneEndpointHoweverItIsWritten(t *testing.T) {
	n := startNode(t, func(s *Server) {
		s.Auth = newGuard(t, auth.Options{FailureRate: 1000, Default: auth.Config{HMACSecretKeys: []string{secret}}})
	})
	header := bearer(sign(secret, claims(forEndpoints("endpoints", "mine"))))
	for path, want := range map[string]int{
		"mine": 101, "MINE": 101, "%6dine": 101,
		"theirs": 401, "Theirs": 401, "mine.": 401, "%74heirs": 401, "mine-": 401, "xmine": 401,
		"mine/theirs": 404, "mine%2ftheirs": 400, "theirs%00mine": 400, "mine%20": 400, "min%C4%B1e": 400, "..%2ftheirs": 400, "%2e%2e": 400, "": 400,
		"mine?endpoint=theirs": 101, "theirs?token=x": 401,
	} {
		if res, body := ask(t, n.url, "/piko/v1/upstream/"+path, header); res.StatusCode != want {
			t.Errorf("%q: %d %s, want %d", path, res.StatusCode, body, want)
		}
	}
	if n.Table.Lookup("theirs") != nil {
		t.Error("their endpoint is served")
	}
}

// tenants are two of them, with a key each.
func tenants() []auth.Tenant {
	return []auth.Tenant{
		{ID: "red", Auth: auth.Config{HMACSecretKeys: []string{secret}}},
		{ID: "blue", Auth: auth.Config{HMACSecretKeys: []string{otherSecret}}},
	}
}

// startTenant connects an agent of a tenant that answers with its name.
func startTenant(t testing.TB, url, tenant, key, endpoint string) *agent {
	t.Helper()
	token := sign(key, claims(nil))
	c := &client.Client{URL: url, TenantID: tenant, Token: fixed(token)}
	return startAgentOf(t, c, endpoint, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, tenant) }))
}

func TestTenantsHaveEndpointsOfTheirOwn(t *testing.T) {
	n := startNode(t, func(s *Server) {
		s.Auth, s.Isolated = newGuard(t, auth.Options{Tenants: tenants()}), true
	})
	startTenant(t, n.url, "red", secret, "Endpoint")
	startTenant(t, n.url, "blue", otherSecret, "endpoint")
	for _, tenant := range []string{"red", "blue"} {
		u := n.waitFor(t, tenant+"/endpoint", 1)[0].Upstream()
		for range 5 {
			if got, err := do(u, http.MethodGet, ""); got != tenant || err != nil {
				t.Errorf("%s's endpoint is answered by %q, %v", tenant, got, err)
			}
		}
		if len(n.log.with("upstream connected", "endpoint=endpoint", "tenant="+tenant, "subject=tester", "token=")) != 1 {
			t.Errorf("the log does not say that %s has connected", tenant)
		}
	}
	n.waitFor(t, "endpoint", 0)
	seen := map[string]Status{}
	for st := range n.Upstreams() {
		seen[st.Tenant] = st
	}
	if red := seen["red"]; len(seen) != 2 || red.Endpoint != "endpoint" || red.Subject != "tester" || red.Expires.Before(time.Now()) {
		t.Errorf("status %+v", seen)
	}
}

func TestTenantsShareEndpointsUnlessTheyAreIsolated(t *testing.T) {
	n := startNode(t, func(s *Server) { s.Auth = newGuard(t, auth.Options{Tenants: tenants()}) })
	startTenant(t, n.url, "red", secret, "endpoint")
	startTenant(t, n.url, "blue", otherSecret, "endpoint")
	n.waitFor(t, "endpoint", 2)
	if len(n.log.with("upstream connected", "tenant=blue")) != 1 {
		t.Error("the log does not name the tenant")
	}
}

func TestWrongTenantOpensNoTunnel(t *testing.T) {
	n := startNode(t, func(s *Server) {
		s.Auth, s.Isolated = newGuard(t, auth.Options{Tenants: tenants(), FailureRate: 1000}), true
	})
	red := bearer(sign(secret, claims(nil)))
	for name, tt := range map[string]struct {
		tenant []string
		code   fault.Code
		status int
	}{
		"none":            {nil, fault.UnknownTenant, 401},
		"empty":           {[]string{""}, fault.UnknownTenant, 401},
		"another":         {[]string{"blue"}, fault.InvalidToken, 401},
		"unknown":         {[]string{"green"}, fault.UnknownTenant, 401},
		"a path":          {[]string{"red/x"}, fault.UnknownTenant, 401},
		"two":             {[]string{"red", "blue"}, fault.MalformedRequest, 400},
		"two in a header": {[]string{"red, blue"}, fault.UnknownTenant, 401},
	} {
		h := red.Clone()
		h["X-Piko-Tenant-Id"] = tt.tenant
		if res, body := ask(t, n.url, "/piko/v1/upstream/endpoint", h); res.StatusCode != tt.status || !strings.Contains(body, string(tt.code)) {
			t.Errorf("%s: %d %s, want %d %s", name, res.StatusCode, body, tt.status, tt.code)
		}
	}
	if got := n.Tunnels(); got != 0 {
		t.Errorf("%d tunnels", got)
	}
}

// A v0.9.0 agent has a token and a tenant as ours has.
func TestOldAgentWithTokenAndTenant(t *testing.T) {
	n := startNode(t, func(s *Server) {
		s.Auth, s.Isolated = newGuard(t, auth.Options{Tenants: tenants()}), true
	})
	header := bearer(sign(secret, claims(forEndpoints("endpoints", "endpoint"))))
	header.Set("x-piko-tenant-id", "red")
	old, err := tryOldAgent(n.url, "endpoint", header)
	if err != nil {
		t.Fatal(err)
	}
	old.serve(t, echo)
	u := n.waitFor(t, "red/endpoint", 1)[0].Upstream()
	for range 10 {
		if got, err := do(u, http.MethodPost, "hello"); got != "hello" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if _, err := tryOldAgent(n.url, "other", header); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("another endpoint: %v", err)
	}
}

// Who may not listen is told so before anything else is told: neither that the
// node drains nor who it is.
func TestStrangersLearnNothing(t *testing.T) {
	n := startNode(t, func(s *Server) {
		s.Auth = newGuard(t, auth.Options{Default: auth.Config{HMACSecretKeys: []string{secret}}})
		s.Others = func() bool { return true }
		s.Limits = Limits{Tunnels: 1}
	})
	n.registry.draining = true
	res, _ := ask(t, n.url, "/piko/v1/upstream/endpoint", http.Header{"X-Piko-Nodes": {n.NodeID}})
	if res.StatusCode != http.StatusUnauthorized || res.Header.Get("X-Piko-Node-Id") != "" {
		t.Errorf("%d, node %q", res.StatusCode, res.Header.Get("X-Piko-Node-Id"))
	}
}

// Whatever is no handshake costs its source: after many it is told to wait, and
// its lines do not fill the log. A handshake of the same source is still good.
func TestSourceOfNonsenseIsSlowed(t *testing.T) {
	n := startNode(t, nil)
	seen := map[int]int{}
	for i := range 200 {
		path, header := "/piko/v1/upstream/endpoint", http.Header{"Upgrade": {"h2c"}}
		if i%2 == 0 {
			path, header = "/nowhere", nil
		}
		res, _ := ask(t, n.url, path, header)
		seen[res.StatusCode]++
		if res.StatusCode == http.StatusTooManyRequests && (res.Header.Get("Retry-After") == "" || !res.Close) {
			t.Fatalf("429 with %v", res.Header)
		}
	}
	if seen[429] < 20 || seen[400] == 0 || seen[404] == 0 {
		t.Errorf("answers %v", seen)
	}
	if lines := n.log.with("upstream refused", "level=INFO"); len(lines) > 50 {
		t.Errorf("%d lines in the log", len(lines))
	}
	if res, body := ask(t, n.url, "/piko/v1/upstream/endpoint", nil); res.StatusCode != 101 {
		t.Errorf("a handshake: %d %s", res.StatusCode, body)
	}
}

// Who comes with token after token is refused without a look at them, and those
// who have a good one are not.
func TestSourceOfWrongTokensIsSlowed(t *testing.T) {
	n := startNode(t, func(s *Server) {
		s.Auth = newGuard(t, auth.Options{Default: auth.Config{HMACSecretKeys: []string{secret}}, FailureRate: 1})
	})
	good := bearer(sign(secret, claims(nil)))
	if res, _ := ask(t, n.url, "/piko/v1/upstream/endpoint", good); res.StatusCode != 101 {
		t.Fatalf("a good token: %d", res.StatusCode)
	}
	seen := map[int]int{}
	for i := range 50 {
		res, _ := ask(t, n.url, "/piko/v1/upstream/endpoint", bearer(sign(otherSecret, claims(object{"jti": i}))))
		seen[res.StatusCode]++
	}
	if seen[429] < 20 || seen[401] == 0 {
		t.Errorf("answers %v", seen)
	}
	if res, body := ask(t, n.url, "/piko/v1/upstream/endpoint", good); res.StatusCode != 101 {
		t.Errorf("the good token: %d %s", res.StatusCode, body)
	}
}

func TestTunnelsAreLimited(t *testing.T) {
	for name, tt := range map[string]struct {
		limits Limits
		// The third is one too many, the others are not.
		tunnels [4]struct{ endpoint, token string }
		text    string
	}{
		"at a node":       {Limits{Tunnels: 2}, [4]struct{ endpoint, token string }{{"a", "1"}, {"b", "2"}, {"c", "3"}, {}}, "this node"},
		"for an endpoint": {Limits{TunnelsPerEndpoint: 2}, [4]struct{ endpoint, token string }{{"a", "1"}, {"A", "2"}, {"a", "3"}, {"b", "1"}}, "the endpoint"},
		"for a token":     {Limits{TunnelsPerToken: 2}, [4]struct{ endpoint, token string }{{"a", "1"}, {"b", "1"}, {"c", "1"}, {"a", "2"}}, "the token"},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, func(s *Server) {
				s.Limits = tt.limits
				s.Auth = newGuard(t, auth.Options{Default: auth.Config{HMACSecretKeys: []string{secret}}})
			})
			header := func(i int) http.Header { return bearer(sign(secret, object{"sub": tt.tunnels[i].token})) }
			var open []*oldAgent
			for i := range 2 {
				a, err := tryOldAgent(n.url, tt.tunnels[i].endpoint, header(i))
				if err != nil {
					t.Fatalf("tunnel %d: %v", i, err)
				}
				a.serve(t, echo)
				open = append(open, a)
			}
			res, body := ask(t, n.url, "/piko/v1/upstream/"+tt.tunnels[2].endpoint, header(2))
			if res.StatusCode != 503 || res.Header.Get("Retry-After") != "5" || !strings.Contains(body, "overloaded") || !strings.Contains(body, tt.text) {
				t.Errorf("one too many: %d %s, retry after %q", res.StatusCode, body, res.Header.Get("Retry-After"))
			}
			if i := 3; tt.tunnels[i].endpoint != "" {
				if res, body := ask(t, n.url, "/piko/v1/upstream/"+tt.tunnels[i].endpoint, header(i)); res.StatusCode != 101 {
					t.Errorf("another one: %d %s", res.StatusCode, body)
				}
			}
			open[0].sess.Close()
			eventually(t, func() error {
				if res, _ := ask(t, n.url, "/piko/v1/upstream/"+tt.tunnels[2].endpoint, header(2)); res.StatusCode != 101 {
					return fmt.Errorf("the place of one that has ended is not free: %d", res.StatusCode)
				}
				return nil
			})
		})
	}
}

// Places are given back whatever becomes of a tunnel.
func TestPlacesAreGivenBack(t *testing.T) {
	n := startNode(t, func(s *Server) {
		s.Limits = Limits{Tunnels: 100, TunnelsPerEndpoint: 100, TunnelsPerToken: 100}
		s.Auth = newGuard(t, auth.Options{Default: auth.Config{HMACSecretKeys: []string{secret}}})
	})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			ask(t, n.url, fmt.Sprintf("/piko/v1/upstream/e%d", i%7), bearer(sign(secret, object{"sub": fmt.Sprint(i % 5)})))
		})
	}
	wg.Wait()
	eventually(t, func() error {
		n.places.mu.Lock()
		defer n.places.mu.Unlock()
		if n.places.all != 0 || len(n.places.endpoints)+len(n.places.tokens) != 0 {
			return fmt.Errorf("%d places, %v, %v", n.places.all, n.places.endpoints, n.places.tokens)
		}
		return nil
	})
}

// An agent of ours that finds no place at a node takes its time.
func TestLimitLeadsAgentsElsewhere(t *testing.T) {
	full := startNode(t, func(s *Server) { s.Limits.Tunnels = 1 })
	other := startNode(t, nil)
	startAgent(t, full.url, "first", echo)
	c := &client.Client{URLs: []string{full.url, other.url}, Connections: 1}
	startAgentOf(t, c, "second", echo)
	other.waitFor(t, "second", 1)
	if refused := full.log.with("upstream refused"); len(refused) > 3 {
		t.Errorf("the full node was asked %d times", len(refused))
	}
}

// fixed is a client's token that does not change.
func fixed(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

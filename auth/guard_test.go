package auth

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/fault"
)

var client = netip.MustParseAddr("192.0.2.1")

func newGuard(t testing.TB, opt Options) *Guard {
	t.Helper()
	g, err := NewGuard(opt)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// onlySecret is a configuration with one secret.
func onlySecret() Config { return Config{HMACSecretKeys: []string{testKeys().secret}} }

// request has header fields in pairs of name and value.
func request(fields ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/?access_token=x", nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	return r
}

// TestCheckFindsTheToken is the table of where a token may be.
func TestCheckFindsTheToken(t *testing.T) {
	k := testKeys()
	g := newGuard(t, Options{Port: "proxy", Default: onlySecret(), FailureRate: 1000})
	good := sign(t, "HS256", []byte(k.secret), object{}, nil)
	bad := sign(t, "HS256", []byte(k.otherSecret), object{}, nil)
	const own, std = "X-Piko-Authorization", "Authorization"
	tests := []struct {
		name   string
		fields []string
		code   fault.Code // "" is good
		header string
	}{
		{"none", nil, fault.MissingAuthorization, ""},
		{"an empty one", []string{std, ""}, fault.MissingAuthorization, ""},
		{"Authorization", []string{std, "Bearer " + good}, "", std},
		{"bearer", []string{std, "bearer " + good}, "", std},
		{"BEARER", []string{std, "BEARER " + good}, "", std},
		{"with spaces", []string{std, "Bearer   " + good + " "}, "", std},
		{"no scheme", []string{std, good}, fault.InvalidAuthorization, std},
		{"the scheme alone", []string{std, "Bearer"}, fault.InvalidAuthorization, std},
		{"no token", []string{std, "Bearer "}, fault.InvalidToken, std},
		{"another scheme", []string{std, "Basic " + good}, fault.UnsupportedAuthType, std},
		{"a longer scheme", []string{std, "BearerX " + good}, fault.UnsupportedAuthType, std},
		{"ours", []string{own, "Bearer " + good}, "", own},
		{"ours, and Authorization for the service", []string{own, "Bearer " + good, std, "Basic eDp5"}, "", own},
		{"ours is bad, and Authorization good", []string{own, "Bearer " + bad, std, "Bearer " + good}, fault.InvalidToken, own},
		{"two of Authorization", []string{std, "Bearer " + good, std, "Bearer " + good}, fault.MalformedRequest, ""},
		{"two of Authorization, beside ours", []string{own, "Bearer " + good, std, "Basic a", std, "Basic b"}, fault.MalformedRequest, ""},
		{"two of ours", []string{own, "Bearer " + good, own, "Bearer " + bad}, fault.MalformedRequest, ""},
		{"two in one header", []string{std, "Bearer " + good + ", Bearer " + good}, fault.InvalidToken, std},
		{"in a cookie", []string{"Cookie", "access_token=" + good}, fault.MissingAuthorization, ""},
		{"in the WebSocket protocol", []string{"Sec-Websocket-Protocol", "bearer, " + good}, fault.MissingAuthorization, ""},
		{"in Proxy-Authorization", []string{"Proxy-Authorization", "Bearer " + good}, fault.MissingAuthorization, ""},
		{"with a tenant, where there are none", []string{std, "Bearer " + good, "X-Piko-Tenant-Id", "a"}, fault.UnknownTenant, std},
		{"with an empty tenant", []string{std, "Bearer " + good, "X-Piko-Tenant-Id", ""}, "", std},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(tt.fields...)
			r.URL.RawQuery = "access_token=" + good + "&token=" + good
			b, err := g.Check(r, client, "")
			switch {
			case tt.code == "" && (err != nil || b.Grant == nil):
				t.Errorf("refused: %v", err)
			case tt.code != "" && (!errors.Is(err, tt.code) || b.Grant != nil):
				t.Errorf("got %v, %v; want %s", b.Grant, err, tt.code)
			}
			if b.Header != tt.header {
				t.Errorf("the header is %q, want %q", b.Header, tt.header)
			}
		})
	}
}

func TestNilGuardLetsEverybodyIn(t *testing.T) {
	g := newGuard(t, Options{Port: "proxy"})
	if g != nil {
		t.Fatal("a guard without configuration")
	}
	if b, err := g.Check(request("Authorization", "Basic x"), client, ""); err != nil || b != (Bearer{}) {
		t.Errorf("got %+v, %v", b, err)
	}
	if _, err := g.Verify("", "x"); err != nil {
		t.Error(err)
	}
	g.Refuse(client, Bearer{}, fault.EndpointNotPermitted)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ctx); err != nil {
		t.Error(err)
	}
	if _, err := g.Prepare(Options{}); err != nil {
		t.Error(err)
	}
}

// TestTenants is the table of who may say to be whose.
func TestTenants(t *testing.T) {
	k := testKeys()
	g := newGuard(t, Options{Port: "proxy", FailureRate: 1000, Default: onlySecret(), Tenants: []Tenant{
		{ID: "a", Auth: onlySecret()},
		{ID: "b", Auth: Config{HMACSecretKeys: []string{k.otherSecret}}},
		{ID: "open"},
	}})
	ofA := sign(t, "HS256", []byte(k.secret), object{}, nil)
	ofB := sign(t, "HS256", []byte(k.otherSecret), object{}, nil)
	tests := []struct {
		name, token, header, domain string
		code                        fault.Code
		tenant                      string
	}{
		{"by header", ofA, "a", "", "", "a"},
		{"by header, in another case", ofA, "A", "", "", "a"},
		{"by domain", ofB, "", "b", "", "b"},
		{"by both, the same", ofA, "a", "a", "", "a"},
		{"by both, another", ofA, "a", "b", fault.UnknownTenant, ""},
		{"by both, another, with the token of the domain's", ofB, "a", "b", fault.UnknownTenant, ""},
		{"another's token", ofB, "a", "", fault.InvalidToken, ""},
		{"another's domain", ofA, "", "b", fault.InvalidToken, ""},
		{"neither: the default is not used", ofA, "", "", fault.UnknownTenant, ""},
		{"one that does not exist", ofA, "c", "", fault.UnknownTenant, ""},
		{"no token", "", "a", "", fault.MissingAuthorization, ""},
		{"no token, and a tenant that does not exist", "", "c", "", fault.MissingAuthorization, ""},
		{"an open one by its domain", "", "", "open", "", "open"},
		{"an open one by its domain and header", "", "open", "open", "", "open"},
		{"an open one by header alone", "", "open", "", fault.MissingAuthorization, ""},
		{"an open one by header alone, with another's token", ofA, "open", "", fault.UnknownTenant, ""},
		{"a list", ofA, "a,b", "", fault.UnknownTenant, ""},
		{"a path", ofA, "a/b", "", fault.UnknownTenant, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request()
			if tt.token != "" {
				r.Header.Set("Authorization", "Bearer "+tt.token)
			}
			if tt.header != "" {
				r.Header.Set("X-Piko-Tenant-Id", tt.header)
			}
			b, err := g.Check(r, client, tt.domain)
			if tt.code != "" {
				if !errors.Is(err, tt.code) || b.Grant != nil {
					t.Errorf("got %+v, %v; want %s", b, err, tt.code)
				}
				return
			}
			if err != nil || b.Tenant != tt.tenant || (b.Grant == nil) != (tt.token == "") {
				t.Errorf("got %+v, %v; want %s", b, err, tt.tenant)
			}
		})
	}
	r := request("Authorization", "Bearer "+ofA, "X-Piko-Tenant-Id", "a", "X-Piko-Tenant-Id", "a")
	if _, err := g.Check(r, client, ""); !errors.Is(err, fault.MalformedRequest) {
		t.Errorf("two tenants: %v", err)
	}
	for tenant, token := range map[string]string{"a": ofA, "b": ofB} {
		if _, err := g.Verify(tenant, token); err != nil {
			t.Errorf("Verify of %s: %v", tenant, err)
		}
	}
	for _, tt := range [][2]string{{"a", ofB}, {"", ofA}, {"c", ofA}, {"open", ofA}} {
		if _, err := g.Verify(tt[0], tt[1]); err == nil {
			t.Errorf("Verify of %q with another's token is good", tt[0])
		}
	}
}

func TestTenantsTwiceAreRefused(t *testing.T) {
	if _, err := NewGuard(Options{Tenants: []Tenant{{ID: "a", Auth: onlySecret()}, {ID: "a", Auth: onlySecret()}}}); err == nil || !strings.Contains(err.Error(), `"a" is there twice`) {
		t.Errorf("got %v", err)
	}
}

// TestFailingSourceIsSlowedDown sends a thousand bad tokens a second: they are
// not even looked at any more, and others are not held up.
func TestFailingSourceIsSlowedDown(t *testing.T) {
	k := testKeys()
	seen := sign(t, "HS256", []byte(k.secret), object{"sub": "seen"}, nil)
	fresh := sign(t, "HS256", []byte(k.secret), object{"sub": "fresh"}, nil)
	bad := sign(t, "HS256", []byte(k.otherSecret), object{}, nil)
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		g := newGuard(t, Options{Port: "proxy", Default: onlySecret(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		check := func(a, token string) fault.Code {
			_, err := g.Check(request("Authorization", "Bearer "+token), netip.MustParseAddr(a), "")
			if err == nil {
				return ""
			}
			return fault.From(err).Code
		}
		if code := check("192.0.2.1", seen); code != "" {
			t.Fatal(code)
		}
		count := map[fault.Code]int{}
		for range 10 { // seconds
			for range 1000 {
				count[check("192.0.2.1", bad)]++
				pass(time.Millisecond)
			}
		}
		if n := count[fault.InvalidToken]; n < 145 || n > 155 { // 50 at once and 10 a second
			t.Errorf("%d bad tokens were looked at in 10 s, want 150: %v", n, count)
		}
		if n := strings.Count(log.String(), "request refused"); n > 12 {
			t.Errorf("%d lines in 10 s", n)
		}
		for _, tt := range []struct {
			name, addr, token string
			want              fault.Code
		}{
			{"the source", "192.0.2.1", bad, fault.RateLimited},
			{"the source, with a good token that is new", "192.0.2.1", fresh, fault.RateLimited},
			{"the source, with a token seen", "192.0.2.1", seen, ""},
			{"the source, as IPv6 writes it", "::ffff:192.0.2.1", bad, fault.RateLimited},
			{"another source", "192.0.2.2", fresh, ""},
		} {
			if got := check(tt.addr, tt.token); got != tt.want {
				t.Errorf("%s: got %s, want %s", tt.name, string(got), string(tt.want))
			}
		}
		for range 51 {
			check("2001:db8:1:2::1", bad)
		}
		if got := check("2001:db8:1:2:ffff::5", bad); got != fault.RateLimited {
			t.Errorf("another address of the same /64: %q", got)
		}
		if got := check("2001:db8:1:3::1", bad); got != fault.InvalidToken {
			t.Errorf("an address of another /64: %q", got)
		}
		pass(time.Second)
		if got := check("192.0.2.1", fresh+"x"); got != fault.InvalidToken {
			t.Errorf("a second later: %q", got)
		}
	})
}

// TestRefusalsOfOthersAreNotTheSources is about answers for which a source can
// do nothing.
func TestRefusalsOfOthersAreNotTheSources(t *testing.T) {
	g := newGuard(t, Options{Port: "proxy", Default: onlySecret()})
	for range 1000 {
		g.Refuse(client, Bearer{}, fault.AuthUnavailable)
	}
	if g.sources.isOver(client) {
		t.Error("the source is slowed down because a key set is not there")
	}
	for range 51 {
		g.Refuse(client, Bearer{}, fault.EndpointNotPermitted)
	}
	if !g.sources.isOver(client) {
		t.Error("the source may try endpoints for ever")
	}
	for range 1000 {
		g.Refuse(netip.Addr{}, Bearer{}, fault.InvalidToken)
	}
	if g.sources.isOver(netip.Addr{}) {
		t.Error("those whose address is not known are slowed down together")
	}
}

// TestSourcesAreBounded comes from more networks than there is room for.
func TestSourcesAreBounded(t *testing.T) {
	l := newLimiter(0)
	flood := netip.MustParseAddr("2001:db8::")
	heavy := netip.MustParseAddr("192.0.2.9")
	for range 100 {
		l.failed(heavy)
	}
	a := flood.As16()
	for i := range 3 * maxSources {
		a[5], a[6], a[7] = byte(i>>16), byte(i>>8), byte(i)
		l.failed(netip.AddrFrom16(a))
	}
	if n := len(l.sources); n > maxSources {
		t.Errorf("%d sources are kept", n)
	}
	if _, ok := l.sources[sourceOf(heavy)]; !ok {
		t.Error("the source that failed most was forgotten for those that failed once")
	}
}

// TestRefusalsAreLoggedAndCounted has one line a second at most, which says
// what is known and never the token.
func TestRefusalsAreLoggedAndCounted(t *testing.T) {
	k := testKeys()
	expired := sign(t, "HS256", []byte(k.secret), object{"exp": 1, "sub": "al\x1b[31mice\r\n"}, nil)
	granted := sign(t, "HS256", []byte(k.secret), object{"sub": "bob"}, nil)
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		registry := prometheus.NewRegistry()
		g := newGuard(t, Options{Port: "proxy", Default: onlySecret(), Logger: slog.New(slog.NewJSONHandler(&log, nil)), Registerer: registry})
		r := request("Authorization", "Bearer "+expired)
		for range 10 {
			_, _ = g.Check(r, client, "")
		}
		pass(time.Second)
		_, _ = g.Check(r, client, "")
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 {
			t.Fatalf("%d lines, want 2:\n%s", len(lines), &log)
		}
		for _, want := range []string{`"code":"expired-token"`, `"reason":"expired"`, `"remote":"192.0.2.1"`, `"subject":"al?[31mice??"`, `"dropped":9`} {
			if !strings.Contains(lines[1], want) {
				t.Errorf("%s is not in %s", want, lines[1])
			}
		}
		for part := range strings.SplitSeq(expired, ".") {
			if strings.Contains(log.String(), part) {
				t.Errorf("a part of the token is in the log: %s", &log)
			}
		}
		b, err := g.Check(request("Authorization", "Bearer "+granted), client, "")
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		log.Reset()
		g.Refuse(client, b, fault.New(fault.EndpointNotPermitted, nil))
		for _, want := range []string{`"reason":"endpoint-not-permitted"`, `"subject":"bob"`, `"token":"` + b.Grant.ID()} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%s is not in %s", want, &log)
			}
		}
		got := values(t, registry)
		for name, want := range map[string]float64{
			`piko_auth_refusals_total{port=proxy,reason=expired}`:                11,
			`piko_auth_refusals_total{port=proxy,reason=endpoint-not-permitted}`: 1,
			`piko_auth_token_cache_misses_total{port=proxy}`:                     12,
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v; there are %v", name, got[name], want, got)
			}
		}
	})
}

// values are the metrics by name and labels.
func values(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			out[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// TestLooseTokensAreWarnedOfOnce is about tokens that v0.9.0 took, too.
func TestLooseTokensAreWarnedOfOnce(t *testing.T) {
	k := testKeys()
	var log bytes.Buffer
	for _, port := range []string{"proxy", "admin"} {
		g := newGuard(t, Options{Port: port, Default: onlySecret(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		for i := range 10 {
			tok := sign(t, "HS256", []byte(k.secret), object{"sub": strconv.Itoa(i)}, nil)
			if _, err := g.Check(request("Authorization", "Bearer "+tok), client, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	for text, want := range map[string]int{"without exp": 2, "without a list of endpoints": 1} {
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("%q is in the log %d times, want %d:\n%s", text, n, want, &log)
		}
	}
}

// TestPrepareChangesKeysAllOrNothing is about a reload.
func TestPrepareChangesKeysAllOrNothing(t *testing.T) {
	k := testKeys()
	second := Config{HMACSecretKeys: []string{k.otherSecret}}
	ofFirst := request("Authorization", "Bearer "+sign(t, "HS256", []byte(k.secret), object{}, nil))
	ofSecond := request("Authorization", "Bearer "+sign(t, "HS256", []byte(k.otherSecret), object{}, nil))
	g := newGuard(t, Options{Port: "proxy", Default: onlySecret(), FailureRate: 1000})
	want := func(step string, first, second bool) {
		t.Helper()
		if _, err := g.Check(ofFirst, client, ""); (err == nil) != first {
			t.Errorf("%s: the first key: %v", step, err)
		}
		if _, err := g.Check(ofSecond, client, ""); (err == nil) != second {
			t.Errorf("%s: the second key: %v", step, err)
		}
	}
	want("at first", true, false)
	if _, err := g.Prepare(Options{Default: Config{HMACSecretKeys: []string{"short"}}}); err == nil {
		t.Error("a short key was prepared")
	}
	if _, err := g.Prepare(Options{}); err == nil {
		t.Error("a port that asked for tokens would be open after a reload")
	}
	commit, err := g.Prepare(Options{Default: second})
	if err != nil {
		t.Fatal(err)
	}
	want("prepared", true, false)
	commit()
	want("committed", false, true) // what was verified before is not remembered
	var none *Guard
	if _, err := none.Prepare(Options{Default: second}); err == nil {
		t.Error("a port that was open would ask for tokens after a reload, but nobody asks the guard")
	}
}

// TestReloadKeepsTheKeySet changes a rule: the set that was fetched is used on,
// and fetched when its time comes.
func TestReloadKeepsTheKeySet(t *testing.T) {
	k := testKeys()
	f := &fakeSet{text: jwks(rsaJWK("a", k.rsa)), refresh: 10 * time.Minute}
	tok := sign(t, "RS256", k.rsa, object{"aud": "x"}, object{"kid": "a"})
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{JWKS: JWKS{Endpoint: "https://idp.example/keys"}}
		registry := prometheus.NewRegistry()
		g := newGuard(t, Options{Port: "proxy", Default: cfg, Registerer: registry})
		g.rules.Load().all.source.load = f.load
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = g.Run(ctx) })
		synctest.Wait()
		if _, err := g.Verify("", tok); err != nil {
			t.Fatal(err)
		}
		cfg.Audience = []string{"y"}
		commit, err := g.Prepare(Options{Default: cfg})
		if err != nil {
			t.Fatal(err)
		}
		commit()
		synctest.Wait()
		if _, err := g.Verify("", tok); refusalOf(err).reason != reasonAudience {
			t.Errorf("after the reload: %v", err)
		}
		pass(5 * time.Minute)
		if n := f.fetches(); n != 1 {
			t.Errorf("%d fetches after 5 minutes", n)
		}
		if age := values(t, registry)["piko_auth_jwks_age_seconds{port=proxy}"]; age < 299 || age > 301 {
			t.Errorf("the set is said to be %v s old", age)
		}
		pass(5 * time.Minute)
		if n := f.fetches(); n != 2 {
			t.Errorf("%d fetches after 10 minutes", n)
		}
		stop()
		running.Wait()
	})
}

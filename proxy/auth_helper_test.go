package proxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"piko/auth"
)

// Keys of tests. Tenants have one each.
const (
	keyAll    = "of everybody, and at least 32 bytes"
	keyAcme   = "of acme alone, and at least 32 bytes"
	keyGlobex = "of globex alone, and at least 32 bytes"
)

// claims of a token; what they leave out is filled in by nobody.
type claims map[string]any

// with returns the claims and more.
func (c claims) with(name string, value any) claims {
	out := claims{name: value}
	for k, v := range c {
		if k != name {
			out[k] = v
		}
	}
	return out
}

// permits are the claims of a token for endpoints.
func permits(endpoints ...string) claims {
	return claims{"piko": map[string]any{"endpoints": endpoints}}
}

func part(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// mint makes a token of HS256.
func mint(key string, c claims) string {
	if c == nil {
		c = claims{}
	}
	text := part(map[string]string{"alg": "HS256", "typ": "JWT"}) + "." + part(c)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// expiresAt is the claim of a token that is good until t: 30 s are added for clocks that differ.
func expiresAt(t time.Time) claims { return claims{"exp": t.Add(-30 * time.Second).Unix()} }

func newGuard(t testing.TB, opt auth.Options) *auth.Guard {
	t.Helper()
	opt.Port = "proxy"
	if opt.FailureRate == 0 {
		opt.FailureRate = 1e6 // tests are one source with many failures
	}
	g, err := auth.NewGuard(opt)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// secured has a proxy port want tokens of keyAll.
func secured(t testing.TB, change func(*Options)) func(*Options) {
	return func(o *Options) {
		o.Auth = newGuard(t, auth.Options{Default: auth.Config{HMACSecretKeys: []string{keyAll}, Audience: []string{"piko"}, Issuer: []string{"idp"}}})
		if change != nil {
			change(o)
		}
	}
}

// good are the claims that secured wants.
var good = claims{"aud": "piko", "iss": "idp", "sub": "ci"}

// tenanted has a proxy port serve two tenants with keys and a domain each, and one that has only a domain.
func tenanted(t testing.TB, change func(*Options)) func(*Options) {
	return func(o *Options) {
		o.Auth = newGuard(t, auth.Options{Tenants: []auth.Tenant{
			{ID: "acme", Auth: auth.Config{HMACSecretKeys: []string{keyAcme}}},
			{ID: "globex", Auth: auth.Config{HMACSecretKeys: []string{keyGlobex}}},
			{ID: "open"},
		}})
		o.Tenants = []Tenant{
			{ID: "acme", Domains: []string{"acme.test"}},
			{ID: "globex", Domains: []string{"globex.test"}},
			{ID: "open", Domains: []string{"open.test"}},
		}
		if change != nil {
			change(o)
		}
	}
}

// stamp serves an endpoint, by its name in the table, with its name.
func (w *world) stamp(name string) {
	w.serve(name, func(w http.ResponseWriter, r *http.Request) { ok(w, "I am "+name) })
}

func bearer(token string) string { return fmt.Sprintf("Authorization: Bearer %s\r\n", token) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

package auth

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What goes on by a token is asked for again when keys or rules have changed.
func TestGrantHoldsAsLongAsItsTokenWouldBeAccepted(t *testing.T) {
	k := testKeys()
	both := Config{HMACSecretKeys: []string{k.secret, k.otherSecret}}
	ofTenants := func(ids ...string) (opt Options) {
		for _, id := range ids {
			opt.Tenants = append(opt.Tenants, Tenant{ID: id, Auth: both})
		}
		return opt
	}
	for _, test := range []struct {
		name   string
		first  Options
		tenant string
		claims object
		next   Options
		want   bool
	}{
		{"nothing changes", Options{Default: both}, "", nil, Options{Default: both}, true},
		{"its key stays", Options{Default: both}, "", nil, Options{Default: onlySecret()}, true},
		{"its key goes", Options{Default: both}, "", nil, Options{Default: Config{HMACSecretKeys: []string{k.otherSecret}}}, false},
		{"without exp", Options{Default: both}, "", object{}, Options{Default: Config{HMACSecretKeys: []string{k.secret}, RequireExpiry: true}}, false},
		{"another audience", Options{Default: both}, "", object{"aud": "a"}, Options{Default: Config{HMACSecretKeys: []string{k.secret}, Audience: []string{"b"}}}, false},
		{"its tenant stays", ofTenants("a", "b"), "a", nil, ofTenants("a"), true},
		{"its tenant goes", ofTenants("a", "b"), "a", nil, ofTenants("b"), false},
	} {
		for _, later := range []time.Duration{0, 2 * time.Hour} { // when it has expired, too
			t.Run(fmt.Sprint(test.name, " ", later), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					test.first.Port, test.next.Port = "upstream", "upstream"
					g := newGuard(t, test.first)
					if test.claims == nil {
						test.claims = object{"exp": time.Now().Add(time.Hour).Unix()}
					}
					grant, err := g.Verify(test.tenant, sign(t, "HS256", []byte(k.secret), test.claims, nil))
					if err != nil {
						t.Fatal(err)
					}
					was := g.Generation()
					if !g.Holds(test.tenant, grant) {
						t.Error("it does not hold at first")
					}
					commit, err := g.Prepare(test.next)
					if err != nil {
						t.Fatal(err)
					}
					commit()
					if g.Generation() == was {
						t.Error("nobody is told that the keys have changed")
					}
					time.Sleep(later)
					for range 2 { // verified, then remembered
						if got := g.Holds(test.tenant, grant); got != test.want {
							t.Errorf("it holds: %v", got)
						}
					}
				})
			})
		}
	}
}

func TestGrantOfARemovedKeyOfASetHoldsNoMore(t *testing.T) {
	k := testKeys()
	f := &fakeSet{text: jwks(rsaJWK("a", k.rsa), rsaJWK("b", k.otherRSA)), refresh: 10 * time.Minute}
	withSet(t, f, func(t *testing.T, v *Verifier, _ *bytes.Buffer) {
		g := &Guard{}
		g.rules.Store(&rules{all: v})
		grant, err := v.Verify(token(t, "a"))
		if err != nil {
			t.Fatal(err)
		}
		was := g.Generation()
		f.set("no set", nil)
		pass(10 * time.Minute)
		if !g.Holds("", grant) || g.Generation() != was {
			t.Error("a set that cannot be read ends what goes on")
		}
		f.set(jwks(rsaJWK("b", k.otherRSA)), nil)
		pass(10 * time.Minute)
		if g.Holds("", grant) || g.Generation() == was {
			t.Error("a token of a key that was removed holds")
		}
	})
}

// A Grant has its token, and shows it to nobody.
func TestGrantDoesNotShowItsToken(t *testing.T) {
	k := testKeys()
	g := newGuard(t, Options{Port: "proxy", Default: onlySecret()})
	tok := sign(t, "HS256", []byte(k.secret), object{}, nil)
	grant, err := g.Verify("", tok)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(grant), fmt.Sprintf("%+v", grant), fmt.Sprintf("%#v", grant), fmt.Sprintf("%q", grant)} {
		if strings.Contains(shown, tok) {
			t.Errorf("it shows its token: %s", shown)
		}
	}
	if !g.Holds("", nil) || !(*Guard)(nil).Holds("", grant) {
		t.Error("without authentication something does not hold")
	}
}

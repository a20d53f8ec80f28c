package auth

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestGrantPermits is the table of what claims allow.
func TestGrantPermits(t *testing.T) {
	type names []string
	tests := []struct {
		name            string
		piko            any
		endpoint        string
		listen, connect bool
	}{
		{"no claim allows all", nil, "e1", true, true},
		{"an empty claim allows all", object{}, "e1", true, true},
		{"an empty list allows all, as in v0.9.0", object{"endpoints": names{}}, "e1", true, true},
		{"one of the list", object{"endpoints": names{"e0", "e1"}}, "e1", true, true},
		{"in the case that the token has", object{"endpoints": names{"E1"}}, "e1", true, true},
		{"one that is not in the list", object{"endpoints": names{"e1"}}, "e2", false, false},
		{"longer than one in the list", object{"endpoints": names{"e1"}}, "e10", false, false},
		{"shorter than one in the list", object{"endpoints": names{"e10"}}, "e1", false, false},
		{"with a dot behind", object{"endpoints": names{"e1."}}, "e1", false, false},
		{"a prefix", object{"endpoints": names{"e1*"}}, "e10", true, true},
		{"a prefix as a whole", object{"endpoints": names{"e1*"}}, "e1", true, true},
		{"a prefix in another case", object{"endpoints": names{"TEAM-A.*"}}, "team-a.x", true, true},
		{"not with the prefix", object{"endpoints": names{"team-a.*"}}, "team-ax", false, false},
		{"everything", object{"endpoints": names{"*"}}, "e1", true, true},
		{"a star inside is no pattern", object{"endpoints": names{"e*1"}}, "e01", false, false},
		{"a star in front is no pattern", object{"endpoints": names{"*1"}}, "e1", false, false},
		{"two stars are a prefix that no endpoint has", object{"endpoints": names{"e**"}}, "e1", false, false},
		{"no other pattern", object{"endpoints": names{"e?", "e[0-9]", "e.", "^e1$", "e%31"}}, "e1", false, false},
		{"the empty name", object{"endpoints": names{""}}, "e1", false, false},
		{"listening only", object{"listen": names{"e1"}}, "e1", true, false},
		{"connecting only", object{"connect": names{"e1"}}, "e1", false, true},
		{"listening on another", object{"listen": names{"e2"}}, "e1", false, false},
		{"an empty list of listening allows nothing", object{"listen": names{}}, "e1", false, false},
		{"an empty list beside another", object{"listen": names{}, "connect": names{"*"}}, "e1", false, true},
		{"both lists of one operation", object{"listen": names{"e1"}, "connect": names{"e1"}}, "e1", true, true},
		{"in the list of both and one of its own", object{"endpoints": names{"e1"}, "listen": names{"e2"}}, "e2", true, false},
		{"in the list of both beside another", object{"endpoints": names{"e1"}, "listen": names{"e2"}}, "e1", true, true},
	}
	k := testKeys()
	v := newVerifier(t, Config{HMACSecretKeys: []string{k.secret}})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			claims := object{}
			if tt.piko != nil {
				claims["piko"] = tt.piko
			}
			g, err := v.Verify(sign(t, "HS256", []byte(k.secret), claims, nil))
			if err != nil {
				t.Fatal(err)
			}
			if g.MayListen(tt.endpoint) != tt.listen || g.MayConnect(tt.endpoint) != tt.connect {
				t.Errorf("%s: listen %v, connect %v; want %v, %v", tt.endpoint, g.MayListen(tt.endpoint), g.MayConnect(tt.endpoint), tt.listen, tt.connect)
			}
		})
	}
}

// TestClaimsOfTheWrongFormGrantNothing is about lists that would be overlooked:
// then the token would be good for everything.
func TestClaimsOfTheWrongFormGrantNothing(t *testing.T) {
	k := testKeys()
	v := newVerifier(t, Config{HMACSecretKeys: []string{k.secret}})
	for _, claims := range []string{
		`{"piko":"e1"}`, `{"piko":["e1"]}`, `{"piko":{"endpoints":"e1"}}`, `{"piko":{"endpoints":{"e1":true}}}`,
		`{"piko":{"endpoints":[1]}}`, `{"piko":{"endpoints":[null]}}`, `{"piko":{"listen":"e1"}}`, `{"piko":{"connect":[["e1"]]}}`,
		`{"Piko":{"endpoints":["e1"]}}`, `{"PIKO":{}}`, `{"piko":{"Endpoints":["e1"]}}`, `{"piko":{"LISTEN":["e1"]}}`,
		`{"pi\u212ao":{"endpoints":["e1"]}}`, // the Kelvin sign, which case folding makes a k
	} {
		if g, err := v.Verify(signRaw(t, `{"alg":"HS256"}`, claims, k.secret)); err == nil {
			t.Errorf("%s is good for: %+v", claims, g.claims)
		}
	}
}

func TestGrantExpiry(t *testing.T) {
	k := testKeys()
	synctest.Test(t, func(t *testing.T) {
		exp := time.Now().Add(time.Minute)
		token := sign(t, "HS256", []byte(k.secret), object{"exp": exp.Unix()}, nil)
		v := newVerifier(t, Config{HMACSecretKeys: []string{k.secret}})
		g, err := v.Verify(token)
		if err != nil {
			t.Fatal(err)
		}
		if want := exp.Add(30 * time.Second); !g.Expiry().Equal(want) {
			t.Errorf("expiry: got %v, want %v", g.Expiry(), want)
		}
		time.Sleep(time.Until(g.Expiry()) - time.Nanosecond)
		if _, err := v.Verify(token); err != nil {
			t.Errorf("just before its expiry: %v", err)
		}
		time.Sleep(time.Nanosecond)
		wantRefused(t, v, token, "expired-token", reasonExpired)

		outlive := newVerifier(t, Config{HMACSecretKeys: []string{k.secret}, DisableDisconnectOnExpiry: true})
		token = sign(t, "HS256", []byte(k.secret), object{"exp": time.Now().Add(time.Minute).Unix()}, nil)
		if g, err := outlive.Verify(token); err != nil || !g.Expiry().IsZero() {
			t.Errorf("with disable-disconnect-on-expiry: %v, %v", g.Expiry(), err)
		}
		time.Sleep(time.Hour)
		wantRefused(t, outlive, token, "expired-token", reasonExpired) // nothing new is opened with it
	})
}

func TestNilGrantAllowsAll(t *testing.T) {
	var g *Grant
	if !g.MayListen("e") || !g.MayConnect("e") || !g.Expiry().IsZero() || g.ID() != "" || g.Subject() != "" {
		t.Error("a nil grant forbids something, or has a name")
	}
}

func TestSubjectIsCleaned(t *testing.T) {
	k := testKeys()
	v := newVerifier(t, Config{HMACSecretKeys: []string{k.secret}})
	for sub, want := range map[string]string{
		"alice@example.com":          "alice@example.com",
		"a\r\nb\x1b[31m\u2028\u0000": "a??b?[31m??",
		"\u202e\u200b":               "??",
		"0123456789012345678901234567890123456789012345678901234567890123456789": "0123456789012345678901234567890123456789012345678901234567890123",
		"01234567890123456789012345678901234567890123456789012345678901ää":       "01234567890123456789012345678901234567890123456789012345678901ä",
	} {
		g, err := v.Verify(sign(t, "HS256", []byte(k.secret), object{"sub": sub}, nil))
		if err != nil {
			t.Fatal(err)
		}
		if g.Subject() != want {
			t.Errorf("%q: got %q, want %q", sub, g.Subject(), want)
		}
	}
}

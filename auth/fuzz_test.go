package auth

import (
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"piko/fault"
)

// FuzzJWT verifies tokens of any bytes: nothing may panic, and one that is good
// must be one that golang-jwt takes, too, by a key that we have.
func FuzzJWT(f *testing.F) {
	k := testKeys()
	cfg := Config{HMACSecretKeys: []string{strings.Repeat("fuzz", 16)}, RSAPublicKeys: []string{publicPEM(k.rsa)}, ECDSAPublicKeys: []string{publicPEM(k.es256)}}
	secret := cfg.HMACSecretKeys[0]
	for _, claims := range []string{`{}`, `{"exp":1}`, `{"exp":1e400}`, `{"exp":9999999999.5}`, `{"nbf":1.5,"iat":0.25}`, `{"exp":"1"}`, `{"aud":["a","b"]}`, `{"piko":{"endpoints":["a*"]}}`, `null`, `[[[[[[]]]]]]`, `{"a":1,"a":2}`} {
		f.Add(`{"alg":"HS256"}`, claims, "")
	}
	for _, header := range []string{`{"alg":"none"}`, `{"alg":"RS256"}`, `{"alg":"HS256","kid":"x"}`, `{"alg":"HS256","crit":["b64"],"b64":false}`, `{"alg":"ES256","jwk":{}}`, `{`} {
		f.Add(header, `{}`, "")
	}
	f.Add("", "", strings.Repeat(".", 100))
	f.Add("", "", zeroSignature("ES256", 32))
	f.Add("", "", sign(f, "RS256", k.rsa, object{}, nil))
	f.Fuzz(func(t *testing.T, header, claims, raw string) {
		v := newVerifier(t, cfg)
		for _, token := range []string{raw, signRaw(t, header, claims, secret), b64(header) + "." + b64(claims) + "." + raw} {
			g, err := v.Verify(token)
			if err != nil {
				if code := fault.From(err).Code; code != fault.InvalidToken && code != fault.ExpiredToken {
					t.Fatalf("%q: %v", token, err)
				}
				continue
			}
			if len(token) > maxToken || len(g.Subject()) > maxSubject || len(g.ID()) != 16 {
				t.Fatalf("%q: grant %+v", token, g)
			}
			_, err = jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithJSONNumber()).Parse(token, func(tok *jwt.Token) (any, error) {
				switch tok.Method.(type) {
				case *jwt.SigningMethodHMAC:
					return []byte(secret), nil
				case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
					return k.rsa.Public(), nil
				}
				return k.es256.Public(), nil
			})
			if err != nil {
				t.Fatalf("%q is good for us, and for golang-jwt not: %v", token, err)
			}
			if again, err := v.Verify(token); again != g {
				t.Fatalf("%q: the second time %v, %v", token, again, err)
			}
		}
	})
}

// FuzzJWKS parses key sets of any bytes: nothing may panic, and what comes out
// is bounded and strong enough.
func FuzzJWKS(f *testing.F) {
	k := testKeys()
	for _, set := range []string{
		jwks(rsaJWK("a", k.rsa), ecJWK("b", k.es256), edJWK("c", k.ed)), jwks(ecJWK("", k.es512)), jwks(rsaJWK("w", k.weak)),
		`{"keys":[]}`, `{"keys":null}`, `{"keys":[null,1,"x",{}]}`, `{"keys":[{"kty":"RSA","n":"","e":""}]}`, `{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`, `[`, ``,
	} {
		f.Add([]byte(set))
	}
	f.Fuzz(func(t *testing.T, set []byte) {
		keys, skipped, err := parseKeySet(set)
		if err != nil && len(keys) > 0 || len(keys)+skipped > maxKeys {
			t.Fatalf("%d keys, %d skipped, %v", len(keys), skipped, err)
		}
		for _, key := range keys {
			if key.family == noFamily || key.family == familyHMAC || len(key.kid) > maxKid || key.alg != "" && familyOfAlg[key.alg] != key.family {
				t.Fatalf("a key %+v", key)
			}
		}
		ks := newKeySet(keys, true)
		for alg, family := range familyOfAlg {
			if got, _ := ks.candidates(header{alg: alg, family: family}); len(got) > 1 {
				t.Fatalf("%s without a name: %d keys to choose from", alg, len(got))
			}
		}
	})
}

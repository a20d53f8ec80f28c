package auth

import (
	"crypto"
	"errors"
	"testing"

	"piko/fault"
)

func newVerifier(t testing.TB, cfg Config) *Verifier {
	t.Helper()
	v, err := NewVerifier(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// everyKey is a configuration with a key of each kind.
func everyKey() Config {
	k := testKeys()
	return Config{
		HMACSecretKeys:  []string{k.secret},
		RSAPublicKeys:   []string{publicPEM(k.rsa)},
		ECDSAPublicKeys: []string{publicPEM(k.es256), publicPEM(k.es384) + publicPEM(k.es512)},
		EdDSAPublicKeys: []string{publicPEM(k.ed)},
	}
}

func TestVerifyTakesEveryAlgorithmOfAKey(t *testing.T) {
	k := testKeys()
	v := newVerifier(t, everyKey())
	for alg, key := range map[string]crypto.PrivateKey{
		"HS256": []byte(k.secret), "HS384": []byte(k.secret), "HS512": []byte(k.secret),
		"RS256": k.rsa, "RS384": k.rsa, "RS512": k.rsa, "PS256": k.rsa, "PS384": k.rsa, "PS512": k.rsa,
		"ES256": k.es256, "ES384": k.es384, "ES512": k.es512, "EdDSA": k.ed,
	} {
		token := sign(t, alg, key, object{"exp": inHour(), "sub": "me", "piko": object{"endpoints": []string{"My-Endpoint"}}}, nil)
		g, err := v.Verify(token)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if !g.MayListen("my-endpoint") || !g.MayConnect("my-endpoint") || g.MayListen("other") || g.Subject() != "me" || len(g.ID()) != 16 {
			t.Errorf("%s: the grant is not the token's", alg)
		}
		if again, err := v.Verify(token); again != g {
			t.Errorf("%s: the second time: another grant, %v", alg, err)
		}
	}
	if _, err := v.Verify(sign(t, "HS256", []byte(k.otherSecret), object{}, nil)); !errors.Is(err, fault.InvalidToken) {
		t.Errorf("a token of another key: %v", err)
	}
}

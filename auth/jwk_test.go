package auth

import (
	"strings"
	"testing"
)

// TestKeysThatAreSkipped is about keys of a set that must not verify tokens;
// one good key is beside each.
func TestKeysThatAreSkipped(t *testing.T) {
	k := testKeys()
	with := func(o object, pairs ...any) object {
		for i := 0; i < len(pairs); i += 2 {
			o[pairs[i].(string)] = pairs[i+1]
		}
		return o
	}
	for name, bad := range map[string]any{
		"for encryption":                  with(rsaJWK("x", k.rsa), "use", "enc"),
		"operations without verify":       with(rsaJWK("x", k.rsa), "key_ops", []string{"encrypt"}),
		"no operations":                   with(rsaJWK("x", k.rsa), "key_ops", []string{}),
		"an algorithm of encryption":      with(rsaJWK("x", k.rsa), "alg", "RSA-OAEP"),
		"an algorithm of another kind":    with(rsaJWK("x", k.rsa), "alg", "ES256"),
		"HMAC on a public key":            with(rsaJWK("x", k.rsa), "alg", "HS256"),
		"alg none":                        with(rsaJWK("x", k.rsa), "alg", "none"),
		"an algorithm of another curve":   with(ecJWK("x", k.es256), "alg", "ES384"),
		"a secret":                        object{"kty": "oct", "k": "c2VjcmV0"},
		"a kind that is unknown":          object{"kty": "AKP"},
		"no kind":                         object{"kid": "x"},
		"RSA of 1024 bits":                rsaJWK("x", k.weak),
		"RSA without modulus":             object{"kty": "RSA", "e": "AQAB"},
		"RSA with the exponent 1":         with(rsaJWK("x", k.rsa), "e", "AQ"),
		"RSA with an even exponent":       with(rsaJWK("x", k.rsa), "e", "AQAC"),
		"RSA with a large exponent":       with(rsaJWK("x", k.rsa), "e", "AQAAAAAB"),
		"RSA with a huge modulus":         with(rsaJWK("x", k.rsa), "n", strings.Repeat("_", 100_000)),
		"RSA with a modulus of no base64": with(rsaJWK("x", k.rsa), "n", "!!"),
		"EC off the curve":                with(ecJWK("x", k.es256), "y", ecJWK("x", k.es256)["x"]),
		"EC on another curve":             with(ecJWK("x", k.es256), "crv", "P-384"),
		"EC on an unknown curve":          with(ecJWK("x", k.es256), "crv", "secp256k1"),
		"EC at infinity":                  with(ecJWK("x", k.es256), "x", "", "y", ""),
		"X25519":                          with(edJWK("x", k.ed), "crv", "X25519"),
		"Ed25519 of 31 bytes":             with(edJWK("x", k.ed), "x", b64(strings.Repeat("x", 31))),
		"a long name":                     rsaJWK(strings.Repeat("x", 257), k.rsa),
		"a number":                        7,
		"null":                            nil,
		"a name that is a number":         with(rsaJWK("x", k.rsa), "kid", 7),
	} {
		t.Run(name, func(t *testing.T) {
			keys, skipped, err := parseKeySet([]byte(toJSON(object{"keys": []any{bad, edJWK("good", k.ed)}})))
			if err != nil || len(keys) != 1 || skipped != 1 || keys[0].kid != "good" {
				t.Errorf("%d keys, %d skipped, %v; want the good one alone", len(keys), skipped, err)
			}
		})
	}
}

package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// testKeys are made once: an RSA key takes a while.
var testKeys = sync.OnceValue(func() (k struct {
	secret, otherSecret string
	rsa, otherRSA, weak *rsa.PrivateKey
	es256, es384, es512 *ecdsa.PrivateKey
	ed                  ed25519.PrivateKey
}) {
	k.secret, k.otherSecret = strings.Repeat("s", 64), strings.Repeat("o", 64)
	k.rsa = must(rsa.GenerateKey(rand.Reader, 2048))
	k.otherRSA = must(rsa.GenerateKey(rand.Reader, 2048))
	k.weak = must(rsa.GenerateKey(rand.Reader, 1024))
	k.es256 = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	k.es384 = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	k.es512 = must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	_, k.ed, _ = ed25519.GenerateKey(rand.Reader)
	return k
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// publicPEM is a public key as operators have it.
func publicPEM(k crypto.Signer) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(k.Public()))}))
}

// object is JSON in tests.
type object = map[string]any

// sign makes a token; header is added to alg and typ.
func sign(t testing.TB, alg string, key any, claims, header object) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.GetSigningMethod(alg), jwt.MapClaims(claims))
	maps.Copy(token.Header, header)
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// signRaw makes a token of any bytes with a good signature by HS256.
func signRaw(t testing.TB, header, claims, secret string) string {
	t.Helper()
	text := b64(header) + "." + b64(claims)
	sig, err := jwt.SigningMethodHS256.Sign(text, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func toJSON(v any) string { return string(must(json.Marshal(v))) }

// inHour is an exp that is good.
func inHour() int64 { return time.Now().Add(time.Hour).Unix() }

// num is a number as key sets have it.
func num(n *big.Int, size int) string {
	return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, size)))
}

func rsaJWK(kid string, k *rsa.PrivateKey) object {
	return object{"kty": "RSA", "kid": kid, "n": num(k.N, (k.N.BitLen()+7)/8), "e": "AQAB"}
}

func ecJWK(kid string, k *ecdsa.PrivateKey) object {
	size := (k.Params().BitSize + 7) / 8
	point := must(k.PublicKey.Bytes())
	return object{"kty": "EC", "kid": kid, "crv": k.Params().Name,
		"x": base64.RawURLEncoding.EncodeToString(point[1 : 1+size]), "y": base64.RawURLEncoding.EncodeToString(point[1+size:])}
}

func edJWK(kid string, k ed25519.PrivateKey) object {
	return object{"kty": "OKP", "kid": kid, "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(k.Public().(ed25519.PublicKey))}
}

// jwks is a key set.
func jwks(keys ...object) string { return toJSON(object{"keys": append([]object{}, keys...)}) }

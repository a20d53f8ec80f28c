package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// TestWeakOrUnreadableKeysAreRefused is about configurations that must not
// start: an open port, or one that anybody has the key of, would be worse.
func TestWeakOrUnreadableKeysAreRefused(t *testing.T) {
	k := testKeys()
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(k.rsa))}))
	tests := []struct {
		name string
		cfg  Config
		want string // in the error, with the option's name
	}{
		{"nothing", Config{}, "no key"},
		{"an empty secret", Config{HMACSecretKeys: []string{""}}, "hmac-secret-key: a secret of 0 bytes is too short"},
		{"a secret of 31 bytes", Config{HMACSecretKeys: []string{strings.Repeat("s", 31)}}, "hmac-secret-key: a secret of 31 bytes is too short"},
		{"a good secret and a short one", Config{HMACSecretKeys: []string{k.secret, "s"}}, "hmac-secret-key: a secret of 1 bytes is too short"},
		{"RSA of 1024 bits", Config{RSAPublicKeys: []string{publicPEM(k.weak)}}, "rsa-public-key: the key has 1024 bits"},
		{"RSA of 1024 bits behind a good one", Config{RSAPublicKeys: []string{publicPEM(k.rsa) + publicPEM(k.weak)}}, "rsa-public-key: the key has 1024 bits"},
		{"an RSA key where ECDSA is expected", Config{ECDSAPublicKeys: []string{publicPEM(k.rsa)}}, "ecdsa-public-key: an RSA public key where an ECDSA public key is expected"},
		{"an ECDSA key where RSA is expected", Config{RSAPublicKeys: []string{publicPEM(k.es256)}}, "rsa-public-key: an ECDSA public key where"},
		{"an ECDSA key where EdDSA is expected", Config{EdDSAPublicKeys: []string{publicPEM(k.es256)}}, "eddsa-public-key: an ECDSA public key where"},
		{"P-224", Config{ECDSAPublicKeys: []string{publicPEM(p224)}}, "ecdsa-public-key: "},
		{"a private key", Config{RSAPublicKeys: []string{private}}, "rsa-public-key: a private key where a public one is expected"},
		{"no PEM", Config{RSAPublicKeys: []string{"/etc/piko/key.pem"}}, "rsa-public-key: not an RSA public key in PEM"},
		{"PEM of nothing", Config{RSAPublicKeys: []string{"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}}, "rsa-public-key: a block"},
		{"text behind the key", Config{RSAPublicKeys: []string{publicPEM(k.rsa) + "rest"}}, "rsa-public-key: 4 bytes behind the last key"},
		{"a key set and a key", Config{HMACSecretKeys: []string{k.secret}, JWKS: JWKS{Endpoint: "https://idp.example/keys"}}, "jwks.endpoint: is in place of keys"},
		{"a key set by ftp", Config{JWKS: JWKS{Endpoint: "ftp://idp.example/keys"}}, "jwks.endpoint: \"ftp://idp.example/keys\" is none of https, http and file"},
		{"a key set without host", Config{JWKS: JWKS{Endpoint: "https:///keys"}}, "jwks.endpoint: \"https:///keys\" names no host"},
		{"a key set that is no URL", Config{JWKS: JWKS{Endpoint: "https://us er:secret@idp"}}, "jwks.endpoint: not a URL"},
		{"a file of keys that is not there", Config{JWKS: JWKS{Endpoint: "file:///does/not/exist"}}, "jwks.endpoint: open /does/not/exist"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Section = "--proxy.auth."
			_, err := NewVerifier(tt.cfg, nil)
			if err == nil {
				t.Fatal("the verifier was made")
			}
			if want := tt.want; !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--proxy.auth") {
				t.Errorf("got %q, want %q", err, want)
			}
			for _, secret := range []string{"us er", private[40:80], strings.Repeat("s", 31)} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error repeats a secret: %q", err)
				}
			}
		})
	}
}

func TestOptionsAreNamedAsWhereTheyCameFrom(t *testing.T) {
	for section, want := range map[string]string{
		"--proxy.auth.":             "--proxy.auth.hmac-secret-key: ",
		"upstream.tenants[1].auth.": "upstream.tenants[1].auth.hmac_secret_key: ",
	} {
		_, err := NewVerifier(Config{HMACSecretKeys: []string{"short"}, Section: section}, nil)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestKeysAreReadAsOperatorsHaveThem(t *testing.T) {
	k := testKeys()
	token := sign(t, "RS256", k.rsa, object{}, nil)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	cert := must(x509.CreateCertificate(rand.Reader, template, template, k.rsa.Public(), k.rsa))
	for name, text := range map[string]string{
		"PEM":                       publicPEM(k.rsa),
		"without the last line end": strings.TrimSpace(publicPEM(k.rsa)),
		"with DOS line ends":        strings.ReplaceAll(publicPEM(k.rsa), "\n", "\r\n"),
		"in one line with \\n":      strings.ReplaceAll(publicPEM(k.rsa), "\n", `\n`),
		"PKCS #1":                   string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&k.rsa.PublicKey)})),
		"a certificate":             string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		"the second of two":         publicPEM(k.otherRSA) + "\n" + publicPEM(k.rsa),
		"with words before the PEM": "my key\n" + publicPEM(k.rsa),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newVerifier(t, Config{RSAPublicKeys: []string{text}}).Verify(token); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSeveralKeysOfAKindAreForRotation has tokens of the old and the new key.
func TestSeveralKeysOfAKindAreForRotation(t *testing.T) {
	k := testKeys()
	v := newVerifier(t, Config{HMACSecretKeys: []string{k.secret, k.otherSecret}, RSAPublicKeys: []string{publicPEM(k.rsa), publicPEM(k.otherRSA)}})
	for name, token := range map[string]string{
		"first secret":                sign(t, "HS256", []byte(k.secret), object{}, nil),
		"second secret":               sign(t, "HS512", []byte(k.otherSecret), object{}, nil),
		"first RSA key":               sign(t, "RS256", k.rsa, object{}, nil),
		"second RSA key":              sign(t, "PS384", k.otherRSA, object{}, nil),
		"a kid says nothing of a key": sign(t, "HS256", []byte(k.otherSecret), object{}, object{"kid": "1"}),
	} {
		if _, err := v.Verify(token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

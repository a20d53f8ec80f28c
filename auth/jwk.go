package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// maxKeys bounds a key set: each of them may have to be tried.
const maxKeys = 256

// jwk is one key of a set (RFC 7517, section 4), as far as we use it.
type jwk struct {
	Kty    string   `json:"kty"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
	Alg    string   `json:"alg"`
	Kid    string   `json:"kid"`
	Crv    string   `json:"crv"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
}

// parseKeySet reads a key set. Keys that are for something else, or that we do
// not know, are skipped, and counted (RFC 7517, section 5); a set in which all
// were skipped is an error, for it would refuse everybody. One that says that
// it has no key has none.
func parseKeySet(text []byte) (keys []key, skipped int, err error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil || set.Keys == nil {
		return nil, 0, errors.New(`not a key set: no JSON object with the list "keys"`)
	}
	if len(set.Keys) > maxKeys {
		return nil, 0, fmt.Errorf("a key set of %d keys; at most %d are read", len(set.Keys), maxKeys)
	}
	var why error
	for _, raw := range set.Keys {
		k, err := parseJWK(raw)
		if err != nil {
			skipped++
			why = err
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 && skipped > 0 {
		return nil, skipped, fmt.Errorf("none of the %d keys of the set can be used; the last: %w", skipped, why)
	}
	return keys, skipped, nil
}

func parseJWK(raw []byte) (key, error) {
	var j jwk
	if err := json.Unmarshal(raw, &j); err != nil {
		return key{}, errors.New("not a key")
	}
	if j.Use != "" && j.Use != "sig" || j.KeyOps != nil && !slices.Contains(j.KeyOps, "verify") {
		return key{}, errors.New("not for verifying signatures")
	}
	if len(j.Kid) > maxKid {
		return key{}, fmt.Errorf("kid of %d bytes; at most %d", len(j.Kid), maxKid)
	}
	public, err := j.public()
	if err != nil {
		return key{}, err
	}
	k := key{family: familyOf(public), key: public, kid: j.Kid, alg: j.Alg}
	if k.family == noFamily || k.alg != "" && familyOfAlg[k.alg] != k.family {
		return key{}, fmt.Errorf("no use of a %.16s key for %.16q is known", j.Kty, j.Alg)
	}
	return k, nil
}

// public is the key itself. Secrets (oct) have no place in a set that is fetched.
func (j *jwk) public() (crypto.PublicKey, error) {
	switch j.Kty {
	case "RSA":
		return j.rsa()
	case "EC":
		return j.ec()
	case "OKP":
		x, err := base64.RawURLEncoding.DecodeString(j.X)
		if err != nil || j.Crv != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return nil, errors.New("not an Ed25519 key")
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("a key of the kind %.16q", j.Kty)
}

func (j *jwk) rsa() (crypto.PublicKey, error) {
	n, err := base64.RawURLEncoding.DecodeString(j.N)
	if err != nil || len(n) > maxRSABits/8+1 {
		return nil, errors.New("n is no modulus of an RSA key")
	}
	e, err := base64.RawURLEncoding.DecodeString(j.E)
	if err != nil || len(e) == 0 || len(e) > 4 {
		return nil, errors.New("e is no exponent of an RSA key")
	}
	exponent := 0
	for _, b := range e {
		exponent = exponent<<8 | int(b)
	}
	k := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: exponent}
	return k, checkRSA(k)
}

func (j *jwk) ec() (crypto.PublicKey, error) {
	curve, ok := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[j.Crv]
	if !ok {
		return nil, fmt.Errorf("a curve %.16q", j.Crv)
	}
	x, errX := base64.RawURLEncoding.DecodeString(j.X)
	y, errY := base64.RawURLEncoding.DecodeString(j.Y)
	size := (curve.Params().BitSize + 7) / 8
	if errX != nil || errY != nil || len(x) != size || len(y) != size {
		return nil, errors.New("x and y are no point of the curve")
	}
	return ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
}

package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Bounds of keys. Below the lower ones a key can be guessed or computed; the
// upper one bounds the work that a key set can make us do.
const (
	minHMACKey = 32 // bytes: RFC 7518, section 3.2
	minRSABits = 2048
	maxRSABits = 8192
)

// keysOf are the keys of the configuration.
func keysOf(c Config) ([]key, error) {
	var keys []key
	var errs []error
	for _, s := range c.HMACSecretKeys {
		if err := CheckHMACSecretKey(s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.Option("hmac-secret-key"), err))
			continue
		}
		keys = append(keys, key{family: familyHMAC, key: []byte(s)})
	}
	for _, kind := range []struct {
		option string
		pems   []string
		parse  func(string) ([]crypto.PublicKey, error)
	}{
		{"rsa-public-key", c.RSAPublicKeys, ParseRSAPublicKeys},
		{"ecdsa-public-key", c.ECDSAPublicKeys, ParseECDSAPublicKeys},
		{"eddsa-public-key", c.EdDSAPublicKeys, ParseEdDSAPublicKeys},
	} {
		for _, text := range kind.pems {
			list, err := kind.parse(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", c.Option(kind.option), err))
			}
			for _, k := range list {
				keys = append(keys, key{family: familyOf(k), key: k})
			}
		}
	}
	return keys, errors.Join(errs...)
}

// CheckHMACSecretKey says what is wrong with a secret, and never what it is.
func CheckHMACSecretKey(s string) error {
	if len(s) < minHMACKey {
		return fmt.Errorf("a secret of %d bytes is too short: who has one token could find it out; use at least %d, such as the output of: openssl rand -base64 48", len(s), minHMACKey)
	}
	return nil
}

// ParseRSAPublicKeys returns the keys of a PEM text.
func ParseRSAPublicKeys(text string) ([]crypto.PublicKey, error) {
	return parsePEM(text, "an RSA", func(k crypto.PublicKey) error {
		rk, ok := k.(*rsa.PublicKey)
		if !ok {
			return errOtherKey
		}
		return checkRSA(rk)
	})
}

// ParseECDSAPublicKeys returns the keys of a PEM text.
func ParseECDSAPublicKeys(text string) ([]crypto.PublicKey, error) {
	return parsePEM(text, "an ECDSA", func(k crypto.PublicKey) error {
		if _, ok := k.(*ecdsa.PublicKey); !ok {
			return errOtherKey
		}
		if familyOf(k) == noFamily {
			return errors.New("the key is on a curve that no algorithm uses; use P-256, P-384 or P-521")
		}
		return nil
	})
}

// ParseEdDSAPublicKeys returns the keys of a PEM text.
func ParseEdDSAPublicKeys(text string) ([]crypto.PublicKey, error) {
	return parsePEM(text, "an Ed25519", func(k crypto.PublicKey) error {
		if _, ok := k.(ed25519.PublicKey); !ok {
			return errOtherKey
		}
		return nil
	})
}

var errOtherKey = errors.New("is a key of another kind")

func checkRSA(k *rsa.PublicKey) error {
	switch bits := k.N.BitLen(); {
	case bits < minRSABits:
		return fmt.Errorf("the key has %d bits, which can be broken; use at least %d, such as the output of: openssl genrsa 3072", bits, minRSABits)
	case bits > maxRSABits:
		return fmt.Errorf("the key has %d bits; use at most %d", bits, maxRSABits)
	case k.E < 3 || k.E%2 == 0:
		return fmt.Errorf("the key's exponent %d is none that RSA can use", k.E)
	}
	return nil
}

// parsePEM reads all blocks of a text that check accepts. kind is the word for
// such a key, with its article.
func parsePEM(text, kind string, check func(crypto.PublicKey) error) ([]crypto.PublicKey, error) {
	if !strings.Contains(text, "\n") {
		// An environment variable or a flag in quotes often has \n for a new line.
		text = strings.NewReplacer(`\r\n`, "\n", `\n`, "\n").Replace(text)
	}
	var keys []crypto.PublicKey
	rest := bytes.TrimSpace([]byte(text))
	for len(rest) > 0 {
		block, next := pem.Decode(rest)
		if block == nil {
			break
		}
		k, err := parseBlock(block)
		if err != nil {
			return nil, err
		}
		if err := check(k); errors.Is(err, errOtherKey) {
			return nil, fmt.Errorf("%s where %s public key is expected", describe(k), kind)
		} else if err != nil {
			return nil, err
		}
		keys, rest = append(keys, k), bytes.TrimSpace(next)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("not %s public key in PEM; it begins with -----BEGIN PUBLIC KEY-----", kind)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes behind the last key that are no PEM; take them away", len(rest))
	}
	return keys, nil
}

func parseBlock(block *pem.Block) (crypto.PublicKey, error) {
	switch {
	case strings.Contains(block.Type, "PRIVATE"):
		return nil, errors.New("a private key where a public one is expected: nobody but who makes the tokens needs it; write the output of: openssl pkey -pubout")
	case block.Type == "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("a certificate that cannot be read")
		}
		return cert.PublicKey, nil
	}
	if k, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
		return k, nil
	}
	if k, err := x509.ParsePKCS1PublicKey(block.Bytes); err == nil {
		return k, nil
	}
	return nil, fmt.Errorf("a block %.40q that holds no public key", block.Type)
}

// describe names what was found.
func describe(k crypto.PublicKey) string {
	switch k.(type) {
	case *rsa.PublicKey:
		return "an RSA public key"
	case *ecdsa.PublicKey:
		return "an ECDSA public key"
	case ed25519.PublicKey:
		return "an Ed25519 public key"
	}
	return "a public key of a kind that is not known here"
}

// familyOf is the family whose algorithms use such a key.
func familyOf(k crypto.PublicKey) family {
	switch k := k.(type) {
	case *rsa.PublicKey:
		return familyRSA
	case ed25519.PublicKey:
		return familyEdDSA
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return familyES256
		case elliptic.P384():
			return familyES384
		case elliptic.P521():
			return familyES512
		}
	}
	return noFamily
}

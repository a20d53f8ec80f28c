package auth

import "github.com/golang-jwt/jwt/v5"

// family is a kind of key with the algorithms that may use it. The curve of an
// ECDSA key is part of it: ES256 is P-256 and nothing else (RFC 7518, section 3.4).
type family int

const (
	noFamily family = iota
	familyHMAC
	familyRSA
	familyES256
	familyES384
	familyES512
	familyEdDSA
	families
)

// algorithms of each family; it is never written. "none" is of no family.
var algorithms = [families][]string{
	familyHMAC:  {"HS256", "HS384", "HS512"},
	familyRSA:   {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
	familyES256: {"ES256"},
	familyES384: {"ES384"},
	familyES512: {"ES512"},
	familyEdDSA: {"EdDSA"},
}

// familyOfAlg is the family that an algorithm belongs to; it is never written.
var familyOfAlg = func() map[string]family {
	m := map[string]family{}
	for f, algs := range algorithms {
		for _, alg := range algs {
			m[alg] = family(f)
		}
	}
	return m
}()

// parsers has one for each family, which refuses the algorithms of all others:
// that the header chooses a parser gives it no say in how a key is used. They
// check the signature; the claims are checked by us, see claims.check.
var parsers = func() (list [families]*jwt.Parser) {
	for f := range list {
		list[f] = jwt.NewParser(jwt.WithValidMethods(append([]string{}, algorithms[f]...)), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
	}
	return list
}()

// key is one that may have signed a token.
type key struct {
	family family
	key    any    // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
	kid    string // of a key set; may be empty
	alg    string // if the key set binds it to one algorithm
}

// keySet is what tokens are verified by at one time, with what was verified by
// it: the verified tokens go with the keys. Static once made, but for the cache.
type keySet struct {
	byFamily [families][]key
	named    bool // a key set's: kid chooses the key
	cache    cache
}

func newKeySet(keys []key, named bool) *keySet {
	s := &keySet{named: named}
	for _, k := range keys {
		s.byFamily[k.family] = append(s.byFamily[k.family], k)
	}
	return s
}

// candidates are the keys by which a token with that header may be verified.
// In a key set a token that names its key has that one and no other, and one
// that names none must not leave a choice.
func (s *keySet) candidates(h header) (keys []jwt.VerificationKey, found bool) {
	for _, k := range s.byFamily[h.family] {
		if k.alg != "" && k.alg != h.alg || s.named && h.hasKid && k.kid != h.kid {
			continue
		}
		keys = append(keys, k.key)
	}
	if s.named && !h.hasKid && len(keys) > 1 {
		return nil, true
	}
	return keys, len(keys) > 0
}

// hasKid reports whether a key has the name, whatever may use it.
func (s *keySet) hasKid(kid string) bool {
	for _, list := range s.byFamily {
		for _, k := range list {
			if k.kid == kid {
				return true
			}
		}
	}
	return false
}

package auth

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"piko/fault"
)

// Verifier answers what the bearer of a token may do, for one auth section.
// It is safe for concurrent use.
type Verifier struct {
	// Static after construction.
	cfg    Config // without the keys
	fixed  *keySet
	source *source // in place of fixed: a key set that comes from elsewhere
}

// NewVerifier makes the Verifier of a section that is Enabled. Its errors name
// the option that is wrong and say what to write instead. A key set that has to
// be fetched is not: Run does that.
func NewVerifier(cfg Config, log *slog.Logger) (*Verifier, error) {
	err := cfg.check()
	keys, keyErr := keysOf(cfg)
	if err := errors.Join(err, keyErr); err != nil {
		return nil, err
	}
	v := &Verifier{cfg: cfg}
	v.cfg.HMACSecretKeys, v.cfg.RSAPublicKeys, v.cfg.ECDSAPublicKeys, v.cfg.EdDSAPublicKeys = nil, nil, nil, nil
	if cfg.JWKS.Endpoint == "" {
		v.fixed = newKeySet(keys, false)
		return v, nil
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	u, err := url.Parse(cfg.JWKS.Endpoint)
	if err != nil {
		return nil, err
	}
	v.source, err = newSource(cfg, u, log)
	return v, err
}

// Run keeps a key set fresh until ctx ends, and returns nil then.
func (v *Verifier) Run(ctx context.Context) error {
	if v.source != nil {
		v.source.run(ctx)
		return nil
	}
	<-ctx.Done()
	return nil
}

// Verify returns what the token allows. The error is a *fault.Error with the
// code invalid-token, expired-token or auth-unavailable. It blocks, for 5 s at
// most, if the token names a key that a key set may have got since it was last
// fetched.
func (v *Verifier) Verify(token string) (*Grant, error) {
	g, _, err := v.verify(nil, token)
	return g, err
}

// keys are those of now; nil while there is none.
func (v *Verifier) keys() *keySet {
	if v.source != nil {
		return v.source.set.Load()
	}
	return v.fixed
}

// seen is what a token grants that was verified before and is good still.
func (v *Verifier) seen(token string) *Grant {
	ks := v.keys()
	if ks == nil || len(token) > maxToken {
		return nil
	}
	if g := ks.cache.get(hashOf(token), token); g != nil && g.validAt(time.Now()) {
		return g
	}
	return nil
}

// verify is Verify; done ends its waiting. isNew says that the token was not
// seen before.
func (v *Verifier) verify(done <-chan struct{}, token string) (g *Grant, isNew bool, err error) {
	if g := v.seen(token); g != nil {
		return g, false, nil
	}
	h, err := parseHeader(token)
	if err != nil {
		return nil, true, err
	}
	ks := v.fixed
	if v.source != nil {
		if ks, err = v.source.keysFor(done, h); err != nil {
			return nil, true, err
		}
	}
	c, err := ks.verify(token, h)
	if err != nil {
		return nil, true, err
	}
	now := time.Now()
	if code, why := c.check(&v.cfg, now); why != "" {
		return nil, true, fault.New(code, &refusal{why, clean(c.subject, maxSubject)})
	}
	g = newGrant(token, c, &v.cfg)
	ks.cache.put(hashOf(token), token, g, now)
	return g, true, nil
}

// verify checks the signature and reads the claims.
func (s *keySet) verify(token string, h header) (*claims, error) {
	keys, found := s.candidates(h)
	switch {
	case !found:
		return nil, refuse(reasonNoKey)
	case len(keys) == 0:
		return nil, refuse(reasonKeyNotNamed)
	}
	var c claims
	_, err := parsers[h.family].ParseWithClaims(token, &c, func(*jwt.Token) (any, error) {
		return jwt.VerificationKeySet{Keys: keys}, nil
	})
	switch {
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return nil, refuse(reasonSignature)
	case err != nil:
		return nil, refuse(reasonMalformed)
	}
	return &c, nil
}

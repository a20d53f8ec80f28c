package auth

import (
	"sync/atomic"
	"time"
)

// A token that was good when something began with it may be none any more when that has gone on for a while: its key was
// taken away, its tenant, or what is asked of tokens has changed. Whoever has something go on by a Grant asks Holds from
// time to time, or whenever Generation has changed.

// generation counts what the keys and rules of a Guard were replaced by.
type generation struct{ commits atomic.Uint32 }

// Generation is a number that is another one once the keys or the rules have changed. It is 0 for a nil Guard.
func (g *Guard) Generation() uint64 {
	if g == nil {
		return 0
	}
	n := uint64(g.generation.commits.Load()) << 32
	for _, v := range g.verifiers() {
		if v.source != nil {
			n += v.source.loads.Load()
		}
	}
	return n
}

// Holds reports whether the token of a Grant of this Guard would be accepted again for this tenant, "" for none. That it
// has expired does not count: Grant.Expiry says when something ends for that. It does not block: where there is no key
// set to tell by, or no Guard, and for the nil Grant, the answer is yes. It costs as much as Check for a token that was
// seen before; the first time after the keys have changed the signature is verified.
func (g *Guard) Holds(tenant string, grant *Grant) bool {
	if g == nil || grant == nil {
		return true
	}
	r := g.rules.Load()
	v, ok := r.all, tenant == ""
	if len(r.tenants) > 0 {
		v, ok = r.tenants[tenant]
	}
	return ok && (v == nil || v.holds(grant))
}

func (v *Verifier) holds(g *Grant) bool {
	ks := v.keys()
	if ks == nil || ks.cache.get(hashOf(g.token), g.token) != nil {
		return true
	}
	h, err := parseHeader(g.token)
	if err != nil {
		return false
	}
	c, err := ks.verify(g.token, h)
	if err != nil {
		return false
	}
	now := time.Now()
	at := now
	if !g.validAt(now) {
		at = g.claims.expiry
	}
	if _, why := c.check(&v.cfg, at); why != "" {
		return false
	}
	ks.cache.put(hashOf(g.token), g.token, newGrant(g.token, c, &v.cfg), now)
	return true
}

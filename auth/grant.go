package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxSubject is how much of a subject is kept, in bytes.
const maxSubject = 64

// Grant is what a verified token allows. It is immutable and shared; a nil
// Grant, that of a port without authentication, allows everything for ever.
type Grant struct {
	claims  claims
	token   string // to verify it again; nothing shows it
	id      string
	subject string
	outlive bool // nothing ends with the token
}

func newGrant(token string, c *claims, cfg *Config) *Grant {
	sum := sha256.Sum256([]byte(token))
	return &Grant{claims: *c, token: token, id: hex.EncodeToString(sum[:8]), subject: clean(c.subject, maxSubject), outlive: cfg.DisableDisconnectOnExpiry}
}

// Expiry is when what the token has opened is to end: the moment from which
// Verify says that it has expired, 30 s after its exp. The zero time is never.
func (g *Grant) Expiry() time.Time {
	if g == nil || g.outlive || g.claims.expiry.IsZero() {
		return time.Time{}
	}
	return g.claims.expiry.Add(leeway)
}

// MayListen reports whether the bearer may serve an endpoint, whose name is in
// canonical form and without tenant.
func (g *Grant) MayListen(endpoint string) bool {
	return g == nil || g.may(&g.claims.listen, endpoint)
}

// MayConnect reports whether the bearer may send requests to an endpoint, whose
// name is in canonical form and without tenant.
func (g *Grant) MayConnect(endpoint string) bool {
	return g == nil || g.may(&g.claims.connect, endpoint)
}

func (g *Grant) may(own *names, endpoint string) bool {
	return !g.claims.hasListOfOurs || g.claims.endpoints.has(endpoint) || own.has(endpoint)
}

// ID is 16 hexadecimal digits of the token's hash: to count by and to log, for
// the token cannot be had from it. It is "" for a nil Grant.
func (g *Grant) ID() string {
	if g == nil {
		return ""
	}
	return g.id
}

// String is what fmt shows of a Grant: its ID, and not what else is in it.
func (g *Grant) String() string { return "token " + g.ID() }

// GoString is String.
func (g *Grant) GoString() string { return g.String() }

// Subject is the token's claim sub for logs: at most 64 bytes without any that
// do not print. It is "" for a nil Grant.
func (g *Grant) Subject() string {
	if g == nil {
		return ""
	}
	return g.subject
}

// validAt reports whether the token has not expired.
func (g *Grant) validAt(now time.Time) bool {
	return g.claims.expiry.IsZero() || now.Before(g.claims.expiry.Add(leeway))
}

// clean is s for a log line: at most limit bytes, and what does not print is ?.
func clean(s string, limit int) string {
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

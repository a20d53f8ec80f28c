package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"piko/fault"
)

// leeway is by how much clocks may differ.
const leeway = 30 * time.Second

// claims are those of a token that we read. It is a jwt.Claims for the parser's
// sake, which does not ask for them: see parsers.
type claims struct {
	jwt.Claims // nil

	parsed        bool
	expiry        time.Time // zero: none
	notBefore     time.Time // zero: none
	issuedAt      time.Time // zero: none
	issuer        string
	subject       string
	audience      []string
	endpoints     names
	listen        names
	connect       names
	hasListOfOurs bool // one of the three was there
}

// known are the claims that we read. One that differs from them by case alone
// is refused: v0.9.0 took Piko for piko, so that a list of endpoints which is
// overlooked would allow what it was to forbid.
var known = []string{"exp", "nbf", "iat", "iss", "aud", "sub", "piko"}

// knownOurs are those within piko.
var knownOurs = []string{"endpoints", "listen", "connect"}

var (
	errCase   = errors.New("a claim's name is in the wrong case")
	errTime   = errors.New("a time is not a number of seconds")
	errString = errors.New("a claim is no string")
	errList   = errors.New("a claim is no list of strings")
)

// UnmarshalJSON reads the claims; whatever has an unexpected form is an error.
func (c *claims) UnmarshalJSON(text []byte) error {
	fields, err := parseObject(text)
	if err != nil {
		return err
	}
	if err := checkCase(fields, known); err != nil {
		return err
	}
	var errs [7]error
	c.expiry, errs[0] = parseTime(fields["exp"])
	c.notBefore, errs[1] = parseTime(fields["nbf"])
	c.issuedAt, errs[2] = parseTime(fields["iat"])
	c.issuer, errs[3] = parseString(fields["iss"])
	c.subject, errs[4] = parseString(fields["sub"])
	c.audience, errs[5] = parseAudience(fields["aud"])
	errs[6] = c.parseOurs(fields["piko"])
	c.parsed = true
	return errors.Join(errs[:]...)
}

// parseOurs reads the claim piko.
func (c *claims) parseOurs(text json.RawMessage) error {
	if isNull(text) {
		return nil
	}
	fields, err := parseObject(text)
	if err != nil {
		return err
	}
	if err := checkCase(fields, knownOurs); err != nil {
		return err
	}
	for i, list := range []*names{&c.endpoints, &c.listen, &c.connect} {
		text := fields[knownOurs[i]]
		if isNull(text) {
			continue
		}
		var raw []*string
		if err := json.Unmarshal(text, &raw); err != nil || slices.Contains(raw, nil) {
			return errList
		}
		*list = newNames(raw)
		// An empty endpoints is none, as in v0.9.0; the others are new, and an
		// empty one means what it says.
		c.hasListOfOurs = c.hasListOfOurs || len(raw) > 0 || i > 0
	}
	return nil
}

func isNull(text json.RawMessage) bool { return text == nil || string(text) == "null" }

func checkCase(fields map[string]json.RawMessage, known []string) error {
	for name := range fields {
		for _, k := range known {
			if name != k && strings.EqualFold(name, k) {
				return errCase
			}
		}
	}
	return nil
}

// maxTime is the year 9999: a time beyond it is a mistake, and no number that
// int64 cannot hold.
const maxTime = 253402300799

// parseTime reads a NumericDate (RFC 7519, section 2), the zero time if there
// is none. It may have a fraction: libraries write what their clocks say. One with
// an exponent is a mistake, or meant for somebody who reads it otherwise.
func parseTime(text json.RawMessage) (time.Time, error) {
	if isNull(text) {
		return time.Time{}, nil
	}
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		if n < 0 || n > maxTime {
			return time.Time{}, errTime
		}
		return time.Unix(n, 0), nil
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || f < 0 || f > maxTime || bytes.ContainsAny(text, "eExX") {
		return time.Time{}, errTime
	}
	sec, frac := math.Modf(f)
	return time.Unix(int64(sec), int64(frac*float64(time.Second))), nil
}

func parseString(text json.RawMessage) (string, error) {
	if isNull(text) {
		return "", nil
	}
	var s string
	if json.Unmarshal(text, &s) != nil {
		return "", errString
	}
	return s, nil
}

// parseAudience reads aud: a string or a list of them.
func parseAudience(text json.RawMessage) ([]string, error) {
	if isNull(text) {
		return nil, nil
	}
	var list []string
	if json.Unmarshal(text, &list) == nil {
		return list, nil
	}
	s, err := parseString(text)
	return []string{s}, err
}

// check is what the configuration asks of a token whose signature is good: why
// it is refused, or "".
func (c *claims) check(cfg *Config, now time.Time) (fault.Code, reason) {
	switch {
	case !c.parsed: // the claims were null
		return fault.InvalidToken, reasonMalformed
	case c.expiry.IsZero() && cfg.RequireExpiry:
		return fault.InvalidToken, reasonNoExpiry
	case !c.expiry.IsZero() && !now.Before(c.expiry.Add(leeway)):
		return fault.ExpiredToken, reasonExpired
	case now.Add(leeway).Before(c.notBefore):
		return fault.InvalidToken, reasonNotYet
	case now.Add(leeway).Before(c.issuedAt):
		return fault.InvalidToken, reasonIssuedInFuture
	case len(cfg.Audience) > 0 && !slices.ContainsFunc(c.audience, func(s string) bool { return slices.Contains(cfg.Audience, s) }):
		return fault.InvalidToken, reasonAudience
	case len(cfg.Issuer) > 0 && !slices.Contains(cfg.Issuer, c.issuer):
		return fault.InvalidToken, reasonIssuer
	case cfg.RequireEndpoints && !c.hasListOfOurs:
		return fault.InvalidToken, reasonNoEndpoints
	}
	return "", ""
}

// names are endpoints that a token permits.
type names struct {
	exact    map[string]bool
	prefixes []string // of those that ended in *
}

func newNames(list []*string) names {
	n := names{exact: make(map[string]bool, len(list))}
	for _, s := range list {
		name := strings.ToLower(*s)
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			n.prefixes = append(n.prefixes, prefix)
		} else {
			n.exact[name] = true
		}
	}
	return n
}

// has reports whether an endpoint is among them.
func (n *names) has(endpoint string) bool {
	if n.exact[endpoint] {
		return true
	}
	for _, p := range n.prefixes {
		if strings.HasPrefix(endpoint, p) {
			return true
		}
	}
	return false
}

package auth

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Config is one auth section. It is read by NewVerifier and not kept.
type Config struct {
	// HMACSecretKeys are the secrets of HS256, HS384 and HS512, at least 32
	// bytes each. Several of a kind are for rotation: a token of any is good.
	HMACSecretKeys []string
	// RSAPublicKeys, ECDSAPublicKeys and EdDSAPublicKeys are PEM texts, each
	// with one public key or more. RSA keys have at least 2048 bits, ECDSA keys
	// are on P-256, P-384 or P-521, EdDSA keys on Ed25519.
	RSAPublicKeys, ECDSAPublicKeys, EdDSAPublicKeys []string
	// JWKS is where a set of public keys is, in place of those above.
	JWKS JWKS
	// Audience and Issuer, if not empty, are those of which a token must name one.
	Audience, Issuer []string
	// RequireExpiry refuses tokens without exp, which never expire.
	RequireExpiry bool
	// RequireEndpoints refuses tokens without a list of endpoints, which allow all.
	RequireEndpoints bool
	// DisableDisconnectOnExpiry lets what a token has opened outlive it.
	DisableDisconnectOnExpiry bool
	// Section is what errors put before the names of the options, such as
	// "--proxy.auth." or "proxy.tenants[0].auth.".
	Section string
}

// JWKS says where a set of keys is.
type JWKS struct {
	// Endpoint is an https, http or file URL; "" is none.
	Endpoint string
	// CacheTTL is how often the set is fetched again; 0 is what the server says
	// with max-age, but 5 minutes to 1 hour.
	CacheTTL time.Duration
	// Timeout is how long a fetch may take; 0 is 10 s.
	Timeout time.Duration
}

// Enabled reports whether there is something to verify tokens by.
func (c Config) Enabled() bool {
	return len(c.HMACSecretKeys)+len(c.RSAPublicKeys)+len(c.ECDSAPublicKeys)+len(c.EdDSAPublicKeys) > 0 || c.JWKS.Endpoint != ""
}

// Option is the full name of an option: that of a flag, or below a section of
// the file that of a key.
func (c Config) Option(name string) string {
	if !strings.HasPrefix(c.Section, "--") {
		name = strings.ReplaceAll(name, "-", "_")
	}
	return c.Section + name
}

// wrap is err with the name of the option that it is about.
func (c Config) wrap(name string, err error) error {
	return fmt.Errorf("%s: %w", c.Option(name), err)
}

var errNoKeys = errors.New("no key: give one, or a key set")

// check finds what no single key shows.
func (c Config) check() error {
	if !c.Enabled() {
		return fmt.Errorf("%s: %w", strings.TrimRight(c.Section, "."), errNoKeys)
	}
	if c.JWKS.Endpoint == "" {
		return nil
	}
	if len(c.HMACSecretKeys)+len(c.RSAPublicKeys)+len(c.ECDSAPublicKeys)+len(c.EdDSAPublicKeys) > 0 {
		return fmt.Errorf("%s: is in place of keys in the configuration; give one or the other", c.Option("jwks.endpoint"))
	}
	if err := checkEndpoint(c.JWKS.Endpoint); err != nil {
		return fmt.Errorf("%s: %w", c.Option("jwks.endpoint"), err)
	}
	return nil
}

// checkEndpoint says what is wrong with the URL of a key set, without repeating
// a password in it.
func checkEndpoint(endpoint string) error {
	const remedy = "write it like https://idp.example.com/.well-known/jwks.json or file:///etc/piko/jwks.json"
	u, err := url.Parse(endpoint)
	if err != nil {
		return fmt.Errorf("not a URL; %s", remedy)
	}
	switch u.Scheme {
	case "https", "http":
		if u.Hostname() == "" {
			return fmt.Errorf("%q names no host; %s", shown(u), remedy)
		}
	case "file":
		if filePath(u) == "" {
			return fmt.Errorf("%q names no file; %s", shown(u), remedy)
		}
	default:
		return fmt.Errorf("%q is none of https, http and file; %s", shown(u), remedy)
	}
	return nil
}

// filePath is the path of a file URL: file:///etc/keys, and as v0.9.0 had it
// also file://keys and file:keys.
func filePath(u *url.URL) string {
	if u.Opaque != "" {
		return u.Opaque
	}
	return u.Host + u.Path
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"piko/auth"
	"piko/tunnel"
)

// authConfig is the auth section of a port or of a tenant.
type authConfig struct {
	HMACSecretKey       []hmacSecret `name:"hmac-secret-key" list:"" sep:"none" placeholder:"SECRET" help:"Secret of tokens with HS256, HS384 or HS512, at least 32 bytes. May be repeated to replace one: tokens of all are accepted. Prefer the file: other users of the machine see command lines."`
	HMACSecretKeyFile   []string     `name:"hmac-secret-key-file" list:"" sep:"none" placeholder:"FILE" help:"File with such a secret, or several, one a line. Read again when it changes. May be repeated."`
	RSAPublicKey        []nonEmpty   `name:"rsa-public-key" list:"" sep:"none" placeholder:"PEM" help:"Public key, as PEM text, of tokens with RS256, RS384, RS512, PS256, PS384 or PS512; at least 2048 bits. A new line may be written as \\n. May be repeated."`
	RSAPublicKeyFile    []string     `name:"rsa-public-key-file" list:"" sep:"none" placeholder:"FILE" help:"PEM file with such a key, or several. Read again when it changes. May be repeated."`
	ECDSAPublicKey      []nonEmpty   `name:"ecdsa-public-key" list:"" sep:"none" placeholder:"PEM" help:"Public key, as PEM text, of tokens with ES256 (P-256), ES384 (P-384) or ES512 (P-521). May be repeated."`
	ECDSAPublicKeyFile  []string     `name:"ecdsa-public-key-file" list:"" sep:"none" placeholder:"FILE" help:"PEM file with such a key, or several. Read again when it changes. May be repeated."`
	EdDSAPublicKey      []nonEmpty   `name:"eddsa-public-key" list:"" sep:"none" placeholder:"PEM" help:"Public key, as PEM text, of tokens with EdDSA (Ed25519). May be repeated."`
	EdDSAPublicKeyFile  []string     `name:"eddsa-public-key-file" list:"" sep:"none" placeholder:"FILE" help:"PEM file with such a key, or several. Read again when it changes. May be repeated."`
	JWKS                jwksConfig   `embed:"" prefix:"jwks."`
	Audience            []nonEmpty   `list:"" sep:"none" placeholder:"AUD" help:"What a token's aud must name. May be repeated: one is enough."`
	Issuer              []nonEmpty   `list:"" sep:"none" placeholder:"ISS" help:"What a token's iss must be. May be repeated: one of them."`
	RequireExpiry       bool         `help:"Refuse tokens without exp, which never expire."`
	RequireEndpoints    bool         `help:"Refuse tokens without a list of endpoints, which are good for all of them."`
	DisconnectNotExpiry bool         `name:"disable-disconnect-on-expiry" help:"Let tunnels and connections go on when the token that opened them expires."`
}

// jwksConfig is an auth.jwks section.
type jwksConfig struct {
	Endpoint string        `placeholder:"URL" help:"Where the set of public keys (JWKS) is, in place of keys in the configuration: https, http or file. It is fetched again and again, so that keys are replaced and revoked there."`
	CacheTTL time.Duration `name:"cache-ttl" default:"0s" help:"How often the set is fetched again, 10s or more. 0s is what its server says, between 5m and 1h."`
	Timeout  time.Duration `default:"0s" help:"How long fetching the set may take. 0s is 10s."`
}

// nonEmpty is text that means nothing when it is empty: a variable that is not
// set must not leave a port open.
type nonEmpty string

// UnmarshalText accepts at least one byte.
func (s *nonEmpty) UnmarshalText(text []byte) error {
	if len(bytes.TrimSpace(text)) == 0 {
		return errors.New("is empty; give a value, or leave the option out")
	}
	*s = nonEmpty(text)
	return nil
}

// hmacSecret is a secret of tokens; no output shows it.
type hmacSecret string

// UnmarshalText accepts 32 bytes and more.
func (s *hmacSecret) UnmarshalText(text []byte) error {
	if err := auth.CheckHMACSecretKey(string(text)); err != nil {
		return err
	}
	*s = hmacSecret(text)
	return nil
}

// String hides the secret.
func (hmacSecret) String() string { return hidden }

// GoString hides the secret.
func (hmacSecret) GoString() string { return hidden }

// MarshalText hides the secret from JSON, too.
func (hmacSecret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// hidden stands where a secret is.
const hidden = "***"

// authConfig is what auth calls the section, with the files read. section is
// what errors put before the names of the options.
func (c *authConfig) load(section string) (auth.Config, error) {
	cfg := auth.Config{
		HMACSecretKeys:            texts(c.HMACSecretKey),
		RSAPublicKeys:             texts(c.RSAPublicKey),
		ECDSAPublicKeys:           texts(c.ECDSAPublicKey),
		EdDSAPublicKeys:           texts(c.EdDSAPublicKey),
		JWKS:                      auth.JWKS(c.JWKS),
		Audience:                  texts(c.Audience),
		Issuer:                    texts(c.Issuer),
		RequireExpiry:             c.RequireExpiry,
		RequireEndpoints:          c.RequireEndpoints,
		DisableDisconnectOnExpiry: c.DisconnectNotExpiry,
		Section:                   section,
	}
	var errs []error
	for _, f := range []struct {
		option string
		paths  []string
		keys   *[]string
		check  func(string) error
	}{
		{"hmac-secret-key-file", c.HMACSecretKeyFile, &cfg.HMACSecretKeys, nil},
		{"rsa-public-key-file", c.RSAPublicKeyFile, &cfg.RSAPublicKeys, checkPEM(auth.ParseRSAPublicKeys)},
		{"ecdsa-public-key-file", c.ECDSAPublicKeyFile, &cfg.ECDSAPublicKeys, checkPEM(auth.ParseECDSAPublicKeys)},
		{"eddsa-public-key-file", c.EdDSAPublicKeyFile, &cfg.EdDSAPublicKeys, checkPEM(auth.ParseEdDSAPublicKeys)},
	} {
		for _, path := range f.paths {
			keys, err := readKeys(path, f.check)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", cfg.Option(f.option), err))
			}
			*f.keys = append(*f.keys, keys...)
		}
	}
	return cfg, errors.Join(errs...)
}

// files are those that hold keys.
func (c *authConfig) files() []string {
	return slices.Concat(c.HMACSecretKeyFile, c.RSAPublicKeyFile, c.ECDSAPublicKeyFile, c.EdDSAPublicKeyFile)
}

func texts[T ~string](list []T) []string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}

func checkPEM[T any](parse func(string) ([]T, error)) func(string) error {
	return func(text string) error {
		_, err := parse(text)
		return err
	}
}

// readKeys reads the keys of a file: one PEM text that check accepts, or, if
// check is nil, a secret a line.
func readKeys(path string, check func(string) error) ([]string, error) {
	text, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	if check != nil {
		if err := check(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return []string{string(text)}, nil
	}
	var keys []string
	for i, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if err := auth.CheckHMACSecretKey(string(line)); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		keys = append(keys, string(line))
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s is empty; write a secret into it, such as the output of: openssl rand -base64 48", path)
	}
	return keys, nil
}

// readSmall reads a file that holds keys or secrets and nothing else.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSecretFile {
		return nil, fmt.Errorf("%s has more than %d bytes; it must have keys and nothing else", path, maxSecretFile)
	}
	return text, nil
}

// tenantsConfig is the tenants.* section.
type tenantsConfig struct {
	Isolated bool `help:"Give each tenant of upstream.tenants endpoints of its own, so that two may have the same names. It is so anyway when the file has proxy.tenants; without either all tenants share their endpoints' names, as in v0.9.0. All nodes must agree."`
}

// upstreamTenant is an entry of the file's upstream.tenants.
type upstreamTenant struct {
	ID   string     `name:"id" help:"Name of the tenant, as agents give it by --connect.tenant-id."`
	Auth authConfig `embed:"" prefix:"auth."`
}

// proxyTenant is an entry of the file's proxy.tenants.
type proxyTenant struct {
	ID      string     `name:"id" help:"Name of the tenant."`
	Auth    authConfig `embed:"" prefix:"auth."`
	Domains []domain   `list:"" help:"Domains whose direct subdomains are endpoints of this tenant."`
}

// check makes the ID canonical; errors begin with the key.
func (t *upstreamTenant) check() (err error) {
	t.ID, err = checkTenantID(t.ID)
	return err
}

// check is that of upstreamTenant.
func (t *proxyTenant) check() (err error) {
	t.ID, err = checkTenantID(t.ID)
	return err
}

func checkTenantID(id string) (string, error) {
	if id == "" {
		return "", errors.New("id: missing; write the name that x-piko-tenant-id has for this tenant")
	}
	canonical, err := tunnel.ParseTenant(id)
	if err != nil {
		return "", fmt.Errorf("id: %.80q: %w; use at most 64 of a-z, 0-9 and ._~:@-", id, errors.Unwrap(err))
	}
	return canonical, nil
}

// sections implements fileSections.
func (c *serverNodeCmd) sections() []string { return []string{upstreamTenants, proxyTenants} }

const (
	upstreamTenants = "upstream.tenants"
	proxyTenants    = "proxy.tenants"
)

// decodeSection implements fileSections.
func (c *serverNodeCmd) decodeSection(path, key string, n *yamlNode) (err error) {
	if key == upstreamTenants {
		c.Upstream.Tenants, err = decodeList(path, key, "tenant", n, (*upstreamTenant).check)
		return err
	}
	c.Proxy.Tenants, err = decodeList(path, key, "tenant", n, (*proxyTenant).check)
	return err
}

// isolated says whether tenants have endpoints of their own.
func (c *serverConfig) isolated() bool { return c.Tenants.Isolated || len(c.Proxy.Tenants) > 0 }

// tenantOption is the name of an entry of a list of tenants.
func tenantOption(list string, i int) string { return fmt.Sprintf("%s[%d].auth.", list, i) }

// trimOption is a section's name without the dot at its end.
func trimOption(section string) string { return strings.TrimSuffix(section, ".") }

package tunnel

import (
	"errors"
	"fmt"
	"strings"

	"piko/fault"
)

// Where tenants are isolated, each has a namespace of endpoints of its own. The
// name of an endpoint in the routing table, in what nodes tell one another and
// in the status is then "tenant/endpoint". Neither part can have a slash, so
// that no two pairs share a name, and no client can name another's: what
// clients send is an endpoint and goes through ParseEndpoint, never ParseName.

// maxTenant is the longest tenant in bytes.
const maxTenant = 64

// MaxName is the longest name in bytes: tenant, slash, endpoint.
const MaxName = maxTenant + 1 + maxEndpoint

const nameSeparator = "/"

var (
	errNoTenant     = errors.New("tenant is empty")
	errTenantLength = errors.New("tenant is longer than 64 bytes")
)

// JoinName returns the name of a tenant's endpoint, both in canonical form. An
// endpoint of no tenant, "", is its own name.
func JoinName(tenant, endpoint string) string {
	if tenant == "" {
		return endpoint
	}
	return tenant + nameSeparator + endpoint
}

// SplitName undoes JoinName.
func SplitName(name string) (tenant, endpoint string) {
	if tenant, endpoint, ok := strings.Cut(name, nameSeparator); ok {
		return tenant, endpoint
	}
	return "", name
}

// ParseName returns the canonical form of a name that JoinName made, with the
// errors of ParseEndpoint and ParseTenant. It is for what nodes tell one
// another: a client's endpoint is none. A name in canonical form is returned as
// it is, without allocation.
func ParseName(s string) (string, error) {
	tenant, endpoint, ok := strings.Cut(s, nameSeparator)
	if !ok {
		return ParseEndpoint(s)
	}
	t, err := ParseTenant(tenant)
	if err != nil {
		return "", err
	}
	e, err := ParseEndpoint(endpoint)
	if err != nil {
		return "", err
	}
	if t == tenant && e == endpoint {
		return s, nil
	}
	return JoinName(t, e), nil
}

// ParseTenant returns the canonical form of a tenant's id, in lower case: 1 to
// 64 bytes in the grammar of ParseEndpoint. The error is a *fault.Error with
// the code unknown-tenant: nobody can be such a tenant.
func ParseTenant(s string) (string, error) {
	switch {
	case s == "":
		return "", fault.New(fault.UnknownTenant, errNoTenant)
	case len(s) > maxTenant:
		return "", fault.New(fault.UnknownTenant, errTenantLength)
	}
	tenant, err := ParseEndpoint(s)
	if err != nil {
		return "", fault.New(fault.UnknownTenant, fmt.Errorf("parse tenant: %w", errors.Unwrap(err)))
	}
	return tenant, nil
}

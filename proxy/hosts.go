package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"piko/fault"
	"piko/tunnel"
)

// maxHost is how long a host may be that is looked for among the domains: that of a name in DNS.
const maxHost = 253

var errTwoValues = errors.New("more than one x-piko-endpoint")

// hosts says which hosts name endpoints, and which of them are a tenant's. It is not changed once it was made.
type hosts struct {
	tenants    map[string]string // by domain, in lower case; "" for one that is nobody's own
	restricted bool              // a host that is below no domain names no endpoint
}

func newHosts(domains []string, tenants []Tenant) (*hosts, error) {
	h := &hosts{tenants: make(map[string]string), restricted: len(domains) > 0}
	for _, d := range domains {
		if err := h.add(d, ""); err != nil {
			return nil, err
		}
	}
	for _, t := range tenants {
		id, err := tunnel.ParseTenant(t.ID)
		if err != nil {
			return nil, fmt.Errorf("tenant %q: %w", t.ID, err)
		}
		for _, d := range t.Domains {
			if err := h.add(d, id); err != nil {
				return nil, err
			}
		}
	}
	return h, nil
}

// id is the tenant's in canonical form; newHosts has seen that it has one.
func (t Tenant) id() string {
	id, _ := tunnel.ParseTenant(t.ID)
	return id
}

func (h *hosts) add(domain, tenant string) error {
	d := strings.ToLower(strings.Trim(domain, "."))
	if d == "" || len(d) > maxHost {
		return fmt.Errorf("bad domain %q", domain)
	}
	if other, known := h.tenants[d]; known && other != tenant {
		return fmt.Errorf("domain %q belongs to %s and to %s", domain, whose(other), whose(tenant))
	}
	h.tenants[d] = tenant
	return nil
}

func whose(tenant string) string {
	if tenant == "" {
		return "everybody"
	}
	return fmt.Sprintf("tenant %q", tenant)
}

// canonicalHost is the host of a Host header in lower case, without port and final dot: a name that says that it is
// complete is the same name.
func canonicalHost(hostport string) string {
	host, _ := splitHost(hostport)
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// tenant returns the tenant to whom a canonical host belongs: by the longest of the domains that the host is, or is
// below at any depth. known is false if it is in none of them.
func (h *hosts) tenant(host string) (tenant string, known bool) {
	if len(h.tenants) == 0 || len(host) > maxHost {
		return "", false
	}
	for name, ok := host, true; ok; _, name, ok = strings.Cut(name, ".") {
		if tenant, known = h.tenants[name]; known {
			return tenant, true
		}
	}
	return "", false
}

// endpoint returns the endpoint that a canonical host names: its first label, if it has a dot and is no IP address.
// Below a domain only its direct subdomains name any.
func (h *hosts) endpoint(host string) (string, error) {
	label, domain, ok := strings.Cut(host, ".")
	if !ok || isAddress(host) || !h.names(host, domain) {
		return "", fault.New(fault.MissingEndpoint, nil)
	}
	return tunnel.ParseEndpoint(label)
}

// NameOfHost returns what the table calls the endpoint that a host names: of its
// tenant, if the host is one's. It is not ok if the host names none.
func (p *Public) NameOfHost(host string) (name string, ok bool) {
	hosts, host := p.hosts.Load(), canonicalHost(host)
	endpoint, err := hosts.endpoint(host)
	if err != nil {
		return "", false
	}
	tenant, _ := hosts.tenant(host)
	return tunnel.JoinName(tenant, endpoint), true
}

// names reports whether a host that is a direct subdomain of domain names an endpoint. A tenant's domain does not name
// one of whoever has the domain above it.
func (h *hosts) names(host, domain string) bool {
	if len(h.tenants) == 0 {
		return true
	}
	owner, owned := h.tenant(host)
	if !owned {
		return !h.restricted
	}
	above, direct := h.tenants[domain]
	return direct && above == owner
}

// endpointOf returns the endpoint that a request is for, in canonical form: that of the header, or else that of the
// host. Something wrong in the header is an error, never a reason to look at the host.
func (h *hosts) endpointOf(r *http.Request, host string) (string, error) {
	switch values := r.Header[headerEndpoint]; len(values) {
	case 0:
		return h.endpoint(host)
	case 1:
		return tunnel.ParseEndpoint(values[0])
	}
	return "", fault.New(fault.InvalidEndpoint, errTwoValues)
}

// isAddress reports whether a host is an IP address. No name ends with a digit, so most need no parsing.
func isAddress(host string) bool {
	if host[0] == '[' {
		return true
	}
	if last := host[len(host)-1]; last < '0' || last > '9' {
		return false
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

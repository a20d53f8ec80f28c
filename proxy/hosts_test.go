package proxy

import (
	"net/http"
	"strings"
	"testing"

	"piko/fault"
	"piko/tunnel"
)

// Whose a host is, and which endpoint it names.
func TestHosts(t *testing.T) {
	tenants := []Tenant{
		{ID: "acme", Domains: []string{"acme.example.com", "Acme.Test."}},
		{ID: "Globex", Domains: []string{"globex.example.com", "eu.acme.test"}},
		{ID: "none"},
	}
	plain, err := newHosts([]string{"example.com"}, tenants)
	if err != nil {
		t.Fatal(err)
	}
	open, err := newHosts(nil, tenants)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		host, tenant, endpoint string
		elsewhere              bool // the endpoint counts only without plain domains
	}{
		{host: "e.acme.example.com", tenant: "acme", endpoint: "e"},
		{host: "E.ACME.Example.COM.:8000", tenant: "acme", endpoint: "e"},
		{host: "e.acme.test", tenant: "acme", endpoint: "e"},
		{host: "e.globex.example.com", tenant: "globex", endpoint: "e"},
		{host: "e.eu.acme.test", tenant: "globex", endpoint: "e"},
		{host: "eu.acme.test", tenant: "globex"},   // not acme's endpoint eu
		{host: "acme.example.com", tenant: "acme"}, // not nobody's endpoint acme
		{host: "a.b.acme.test", tenant: "acme"},    // the tenant's, but no direct subdomain
		{host: "a.b.eu.acme.test", tenant: "globex"},
		{host: "acme.test.", tenant: "acme"},
		{host: ".acme.test", tenant: "acme"},
		{host: "e.example.com", endpoint: "e", elsewhere: true},
		{host: "e.other.net", endpoint: "e", elsewhere: true},
		{host: "e.xacme.test", endpoint: "e", elsewhere: true},
		{host: "e.acme.test.evil.net", endpoint: "e", elsewhere: true},
		{host: "e.acme.test..", endpoint: "e", elsewhere: true}, // no name in DNS
		{host: "acme"},
		{host: "127.0.0.1"},
		{host: "[::1]:80"},
		{host: strings.Repeat("a.", 200) + "acme.test", endpoint: "a", elsewhere: true}, // no name in DNS
	} {
		for name, h := range map[string]*hosts{"plain": plain, "open": open} {
			host := canonicalHost(tt.host)
			tenant, _ := h.tenant(host)
			endpoint, err := h.endpoint(host)
			want := tt.endpoint
			if h == plain && tt.elsewhere && tt.host != "e.example.com" {
				want = ""
			}
			if tenant != tt.tenant || endpoint != want || (err == nil) != (want != "") {
				t.Errorf("%s: %q is %q of %q, %v; want %q of %q", name, tt.host, endpoint, tenant, err, want, tt.tenant)
			}
		}
	}
}

func TestHostsAreRefused(t *testing.T) {
	for name, try := range map[string]struct {
		domains []string
		tenants []Tenant
	}{
		"a domain without a name":        {domains: []string{"."}},
		"a tenant's without a name":      {tenants: []Tenant{{ID: "a", Domains: []string{""}}}},
		"a domain of two":                {tenants: []Tenant{{ID: "a", Domains: []string{"x.net"}}, {ID: "b", Domains: []string{"X.net."}}}},
		"a tenant's that is anybody's":   {domains: []string{"x.net"}, tenants: []Tenant{{ID: "b", Domains: []string{"x.net"}}}},
		"a tenant with a slash":          {tenants: []Tenant{{ID: "a/b"}}},
		"a tenant without a name":        {tenants: []Tenant{{}}},
		"a domain that is no name's":     {domains: []string{strings.Repeat("a", 254)}},
		"a tenant that is a path's step": {tenants: []Tenant{{ID: ".."}}},
	} {
		if _, err := newHosts(try.domains, try.tenants); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := newHosts([]string{"x.net", "X.net"}, []Tenant{{ID: "a", Domains: []string{"y.net", "y.net."}}}); err != nil {
		t.Errorf("a domain that is named twice: %v", err)
	}
}

// Whatever host is accepted, it names one endpoint, in the grammar that all ports share, and that of one tenant.
func FuzzHostEndpoint(f *testing.F) {
	for _, s := range []string{"e.example.com", "E.x.:80", "[::1]:80", "1.2.3.4", "a..b", "", ".", "é.x", "a,b.c", "a.b:99999", "[::1%25eth0]", "e.t.net", "t.net", "x.e.T.net.", "u.t.net"} {
		f.Add(s)
	}
	anybody, err := newHosts(nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	tenants, err := newHosts([]string{"net"}, []Tenant{{ID: "t", Domains: []string{"t.net"}}, {ID: "u", Domains: []string{"u.t.net"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, hostport string) {
		host, good := splitHost(hostport)
		if good && strings.ContainsAny(host, ",/@\\%# \r\n\t") {
			t.Errorf("%q: host %q", hostport, host)
		}
		if !good {
			return
		}
		host = canonicalHost(hostport)
		tenant, _ := tenants.tenant(host)
		if want := ownerOf(host); tenant != want {
			t.Errorf("%q is of tenant %q, want %q", hostport, tenant, want)
		}
		for _, h := range []*hosts{anybody, tenants} {
			endpoint, err := h.endpoint(host)
			if err != nil {
				if c := fault.From(err).Code; c != fault.MissingEndpoint && c != fault.InvalidEndpoint {
					t.Errorf("%q: %v", hostport, err)
				}
				continue
			}
			if again, err := tunnel.ParseEndpoint(endpoint); again != endpoint || err != nil || strings.Contains(endpoint, ".") {
				t.Errorf("%q: endpoint %q, again %q, %v", hostport, endpoint, again, err)
			}
			if h == tenants && host != endpoint+"."+map[string]string{"": "net", "t": "t.net", "u": "u.t.net"}[tenant] {
				t.Errorf("%q is endpoint %q of tenant %q", hostport, endpoint, tenant)
			}
			if viaHeader, err := h.endpointOf(&http.Request{Header: http.Header{headerEndpoint: {strings.ToUpper(endpoint)}}}, host); viaHeader != endpoint {
				t.Errorf("%q: %q from the host, %q, %v from the header", hostport, endpoint, viaHeader, err)
			}
		}
	})
}

// ownerOf is what FuzzHostEndpoint says of its tenants, in another way.
func ownerOf(host string) string {
	switch in := "." + host; {
	case len(host) > maxHost:
		return ""
	case strings.HasSuffix(in, ".u.t.net"):
		return "u"
	case strings.HasSuffix(in, ".t.net"):
		return "t"
	}
	return ""
}

package gossip

import (
	"net/netip"
	"testing"
)

// TestConnectionsAreCountedByHost: a host with an IPv6 network of its own has
// more addresses than there are connections.
func TestConnectionsAreCountedByHost(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"2001:db8::1", "2001:db8::ffff:1:2:3", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
	} {
		if a, b := countedAs(netip.MustParseAddr(c.a)), countedAs(netip.MustParseAddr(c.b)); (a == b) != c.same {
			t.Errorf("%s counts as %s, %s as %s", c.a, a, c.b, b)
		}
	}
}

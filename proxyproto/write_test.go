package proxyproto

import (
	"net/netip"
	"testing"
)

func TestHeader(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("[2001:db8::1]:4001")
	s4, s6 := netip.MustParseAddrPort("127.0.0.1:5432"), netip.MustParseAddrPort("[::1]:5433")
	const sig = "\r\n\r\n\x00\r\nQUIT\n"
	const ones = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, tt := range []struct {
		name            string
		version         string
		client, service netip.AddrPort
		want            string
	}{
		{"v1, IPv4", "v1", v4, s4, "PROXY TCP4 192.0.2.1 127.0.0.1 4000 5432\r\n"},
		{"v1, IPv6", "v1", v6, s6, "PROXY TCP6 2001:db8::1 ::1 4001 5433\r\n"},
		{"v1, IPv4 to IPv6", "v1", v4, s6, "PROXY TCP6 ::ffff:192.0.2.1 ::1 4000 5433\r\n"},
		{"v1, IPv4 written as IPv6", "v1", netip.MustParseAddrPort("[::ffff:192.0.2.1]:4000"), s4, "PROXY TCP4 192.0.2.1 127.0.0.1 4000 5432\r\n"},
		{"v1, zone", "v1", netip.MustParseAddrPort("[fe80::1%eth0]:1"), s6, "PROXY TCP6 fe80::1 ::1 1 5433\r\n"},
		{"v1, unknown", "v1", netip.AddrPort{}, s4, "PROXY UNKNOWN\r\n"},
		{"v2, IPv4", "v2", v4, s4, sig + "\x21\x11\x00\x0c\xc0\x00\x02\x01\x7f\x00\x00\x01\x0f\xa0\x15\x38"},
		{"v2, IPv6", "v2", v6, s6, sig + "\x21\x21\x00\x24" + "\x20\x01\x0d\xb8\x00\x00" + ones[:9] + "\x01" + ones + "\x00\x00\x00\x00\x00\x01" + "\x0f\xa1\x15\x39"},
		{"v2, IPv6 to IPv4", "v2", v6, s4, sig + "\x21\x21\x00\x24" + "\x20\x01\x0d\xb8\x00\x00" + ones[:9] + "\x01" + ones + "\xff\xff\x7f\x00\x00\x01" + "\x0f\xa1\x15\x38"},
		{"v2, unknown", "v2", netip.AddrPort{}, s4, sig + "\x20\x00\x00\x00"},
	} {
		if got := string(Header(tt.version, tt.client, tt.service)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

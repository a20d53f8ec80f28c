package agent

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The PROXY protocol (haproxy.org/download/3.0/doc/proxy-protocol.txt): what a
// TCP service is told of the client before the client's first byte.
const (
	proxyV1 = "v1" // a line of text
	proxyV2 = "v2" // binary
)

// proxySignature begins each header of version 2.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// Parts of version 2's header, section 2.2.
const (
	proxyLocal = 0x20 // version 2, no word about a client
	proxyProxy = 0x21 // version 2, the addresses follow
	proxyNone  = 0x00 // family and transport of proxyLocal
	proxyTCP4  = 0x11
	proxyTCP6  = 0x21
)

// proxyHeader is the header for a connection of the client to the service. If
// the client is not known it says so: UNKNOWN in version 1, LOCAL in version 2.
// If only one of the addresses is IPv4 it is written as IPv6, since both must be
// of one family.
func proxyHeader(version string, client, service netip.AddrPort) []byte {
	known := client.IsValid() && service.IsValid()
	src, dst := client.Addr().Unmap().WithZone(""), service.Addr().Unmap().WithZone("")
	if known && src.Is4() != dst.Is4() {
		src, dst = netip.AddrFrom16(src.As16()), netip.AddrFrom16(dst.As16())
	}
	v4 := src.Is4()
	if version == proxyV1 {
		switch {
		case !known:
			return []byte("PROXY UNKNOWN\r\n")
		case v4:
			return fmt.Appendf(nil, "PROXY TCP4 %s %s %d %d\r\n", src, dst, client.Port(), service.Port())
		}
		return fmt.Appendf(nil, "PROXY TCP6 %s %s %d %d\r\n", src, dst, client.Port(), service.Port())
	}
	b := []byte(proxySignature)
	switch {
	case !known:
		return append(b, proxyLocal, proxyNone, 0, 0)
	case v4:
		b = append(b, proxyProxy, proxyTCP4, 0, 12)
	default:
		b = append(b, proxyProxy, proxyTCP6, 0, 36)
	}
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, client.Port())
	return binary.BigEndian.AppendUint16(b, service.Port())
}

// Package proxyproto is the PROXY protocol, versions 1 and 2
// (haproxy.org/download/3.0/doc/proxy-protocol.txt): what is told of a client
// before the client's first byte. It writes headers and reads them, and does
// nothing else.
package proxyproto

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The versions.
const (
	V1 = "v1" // a line of text
	V2 = "v2" // binary
)

// signature begins each header of version 2.
const signature = "\r\n\r\n\x00\r\nQUIT\n"

// Parts of version 2's header, section 2.2.
const (
	local = 0x20 // version 2, no word about a client
	proxy = 0x21 // version 2, the addresses follow
	none  = 0x00 // family and transport of local
	tcp4  = 0x11
	tcp6  = 0x21

	head4 = 12 // bytes of addresses and ports
	head6 = 36
)

// Header is the header for a connection of the client to the service. If
// the client is not known it says so: UNKNOWN in version 1, LOCAL in version 2.
// If only one of the addresses is IPv4 it is written as IPv6, since both must be
// of one family.
func Header(version string, client, service netip.AddrPort) []byte {
	known := client.IsValid() && service.IsValid()
	src, dst := client.Addr().Unmap().WithZone(""), service.Addr().Unmap().WithZone("")
	if known && src.Is4() != dst.Is4() {
		src, dst = netip.AddrFrom16(src.As16()), netip.AddrFrom16(dst.As16())
	}
	v4 := src.Is4()
	if version == V1 {
		switch {
		case !known:
			return []byte("PROXY UNKNOWN\r\n")
		case v4:
			return fmt.Appendf(nil, "PROXY TCP4 %s %s %d %d\r\n", src, dst, client.Port(), service.Port())
		}
		return fmt.Appendf(nil, "PROXY TCP6 %s %s %d %d\r\n", src, dst, client.Port(), service.Port())
	}
	b := []byte(signature)
	switch {
	case !known:
		return append(b, local, none, 0, 0)
	case v4:
		b = append(b, proxy, tcp4, 0, head4)
	default:
		b = append(b, proxy, tcp6, 0, head6)
	}
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, client.Port())
	return binary.BigEndian.AppendUint16(b, service.Port())
}

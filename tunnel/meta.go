package tunnel

import (
	"context"
	"net/netip"
)

// With the feature "meta" each stream that the node opens begins with a
// preamble, which comes with the SYN:
//
//	n (1 byte) | kind (1 byte) | what the kind says
//
// n counts the bytes behind it and is 0 if there is nothing to say. Kind 1 is a
// client's TCP connection, of which the client's "ip:port" is said, if it is
// known; other kinds are skipped.
const (
	kindTCP = 1
	maxMeta = 64 // the most that n may be
)

// errBadMeta is why a stream is reset whose preamble is none.
var errBadMeta = &ProtocolError{Reason: "a stream's preamble is malformed"}

// appendMeta appends the preamble for a client, who may be unknown.
func appendMeta(b []byte, client netip.AddrPort) []byte {
	if !client.IsValid() {
		return append(b, 0)
	}
	at := len(b)
	b = append(b, 0, kindTCP)
	b = netip.AddrPortFrom(client.Addr().WithZone(""), client.Port()).AppendTo(b)
	b[at] = byte(len(b) - at - 1)
	return b
}

// parseMeta reads the preamble at the start of b. Its size is 0 if b is too
// short for it.
func parseMeta(b []byte) (client netip.AddrPort, size int, err error) {
	if len(b) == 0 {
		return client, 0, nil
	}
	n := int(b[0])
	if n > maxMeta {
		return client, 0, errBadMeta
	}
	if len(b) <= n {
		return client, 0, nil
	}
	if n > 1 && b[1] == kindTCP {
		if client, err = netip.ParseAddrPort(string(b[2 : 1+n])); err != nil {
			return client, 0, errBadMeta
		}
	}
	return client, 1 + n, nil
}

// clientAddrKey is the context key of WithClientAddr.
type clientAddrKey struct{}

// WithClientAddr returns a context for Session.Open that says for which client
// the stream is. An upstream that knows the feature "meta" is told, and gives it
// as the stream's ClientAddr and RemoteAddr.
func WithClientAddr(ctx context.Context, addr netip.AddrPort) context.Context {
	return context.WithValue(ctx, clientAddrKey{}, addr)
}

// ClientAddr is what WithClientAddr has put into ctx; not valid if nothing.
func ClientAddr(ctx context.Context) netip.AddrPort {
	addr, _ := ctx.Value(clientAddrKey{}).(netip.AddrPort)
	return addr
}

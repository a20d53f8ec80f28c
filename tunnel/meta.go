package tunnel

import (
	"context"
	"net/netip"
)

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

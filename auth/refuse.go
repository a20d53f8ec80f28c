package auth

import (
	"net/netip"
	"time"

	"piko/fault"
)

// Refuse counts and logs a refusal that the port's own handler decided on, such
// as that of an endpoint which b's Grant does not permit. Check has done it for
// its own. A nil Guard does nothing.
func (g *Guard) Refuse(client netip.Addr, b Bearer, err error) {
	if g == nil || err == nil {
		return
	}
	f := fault.From(err)
	why := refusalOf(err)
	g.metrics.refused(why.reason)
	switch f.Code {
	case fault.AuthUnavailable, fault.RateLimited, fault.Internal: // not the source's doing, or counted already
	default:
		g.sources.failed(client)
	}
	ok, dropped := g.lines.allow(time.Now())
	if !ok {
		return
	}
	subject := why.subject
	if b.Grant != nil {
		subject = b.Grant.Subject()
	}
	attrs := []any{"port", g.port, "code", string(f.Code), "reason", string(why.reason), "remote", client.String()}
	for _, a := range []struct{ key, value string }{{"tenant", b.Tenant}, {"subject", subject}, {"token", b.Grant.ID()}} {
		if a.value != "" {
			attrs = append(attrs, a.key, a.value)
		}
	}
	if dropped > 0 {
		attrs = append(attrs, "dropped", dropped)
	}
	g.log.Info("request refused", attrs...)
}

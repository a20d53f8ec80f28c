package proxy

import (
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"

	"piko/fault"
	"piko/relay"
)

// Names in canonical form.
const (
	headerEndpoint  = "X-Piko-Endpoint"
	headerError     = "X-Piko-Error"
	headerRequestID = "X-Request-Id"
	headerFor       = "X-Forwarded-For"
	headerProto     = "X-Forwarded-Proto"
	headerHost      = "X-Forwarded-Host"

	// Between nodes only: no client can send them to a node, and no service to a client.
	headerRoute    = "X-Piko-Route"    // the endpoint, as the entry node understood the request
	headerAttempts = "X-Piko-Attempts" // how many more the owner may make; in a miss, how many it made
	headerExpect   = "X-Piko-Expect"   // "hop": the Expect: 100-continue beside it is the entry node's own
	headerMiss     = "X-Piko-Miss"     // with 421: nothing of the request reached a service, and why
	headerLeft     = "X-Piko-Left"     // in a miss: the owner has upstreams that it was not to try
	headerClient   = "X-Piko-Client"   // for a raw stream: the client's address and port
	headerTrace    = "X-Piko-Trace"    // "1": the entry node has a span of the request, which traceparent names
	headerFailed   = "X-Piko-Failed"   // with 502: how the exchange with the service ended

	headerReason = "X-Piko-Reason" // in both: the owner's own words, for the entry node's log and status

	prefixPiko      = "X-Piko-"
	prefixForwarded = "X-Forwarded-"
)

// maxRequestID is how long a request id may be that a client made.
const maxRequestID = 128

// internal says which names only piko itself may use.
func internal(name string) bool { return strings.HasPrefix(name, prefixPiko) }

// claimed says which names speak for a client, and are believed only of trusted ones.
func claimed(name string) bool {
	return strings.HasPrefix(name, prefixForwarded) || name == "Forwarded" || name == "X-Real-Ip"
}

// dropTrusted says which fields of a request are not passed on; dropUntrusted those of a client that is not trusted.
func dropTrusted(name string) bool {
	return internal(name) && name != headerEndpoint || alias(name, false)
}

func dropUntrusted(name string) bool {
	return internal(name) && name != headerEndpoint || claimed(name) || alias(name, true)
}

// alias finds names that a CGI-like service cannot tell from one that we remove or set: X_Piko_Endpoint for
// X-Piko-Endpoint (CVE-2026-54763, CVE-2025-64484 and others).
func alias(name string, untrusted bool) bool {
	if strings.IndexByte(name, '_') < 0 {
		return false
	}
	name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
	switch name {
	case headerRequestID, "Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Proxy",
		"Authorization", "Proxy-Authorization":
		return true
	}
	return internal(name) || untrusted && claimed(name)
}

// outHeader is the header for the upstream.
func (f *forwarder) outHeader(r *http.Request) http.Header {
	ip := clientIP(r.RemoteAddr)
	trusted := f.trusts(ip)
	drop := dropUntrusted
	if trusted {
		drop = dropTrusted
	}
	h := relay.OutHeader(r.Header, drop)
	values := make([]string, 4) // in one piece, since each would be an allocation
	set := func(i int, name, value string) {
		values[i] = value
		h[name] = values[i : i+1 : i+1]
	}
	if ip != "" {
		if before := h[headerFor]; before != nil { // there is none unless trusted
			ip = strings.Join(before, ", ") + ", " + ip
		}
		set(0, headerFor, ip)
	}
	if h[headerHost] == nil && r.Host != "" {
		set(1, headerHost, r.Host)
	}
	if h[headerProto] == nil {
		set(2, headerProto, scheme(r))
	}
	if id := h[headerRequestID]; len(id) != 1 || !usableID(id[0]) {
		set(3, headerRequestID, newRequestID())
	}
	if endpoint := r.Header[headerEndpoint]; endpoint != nil {
		h[headerEndpoint] = endpoint // also if Connection named it
	}
	h[headerLoop] = addPass(r.Header[headerLoop]) // also if Connection named it
	return h
}

func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// clientIP is the address without port; "" if it is no IP address.
func clientIP(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return ""
	}
	return host
}

func (f *forwarder) trusts(ip string) bool {
	if len(f.opt.TrustedProxies) == 0 {
		return false
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	addr = addr.WithZone("").Unmap()
	for _, p := range f.opt.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// usableID takes a request id of visible ASCII that is not too long for a log.
func usableID(id string) bool {
	for i := range len(id) {
		if id[i] <= ' ' || id[i] >= 0x7f {
			return false
		}
	}
	return id != "" && len(id) <= maxRequestID
}

func newRequestID() string {
	var b [16]byte
	var s [32]byte
	for i, half := 0, rand.Uint64(); i < 16; i++ {
		if i == 8 {
			half = rand.Uint64()
		}
		b[i] = byte(half)
		half >>= 8
	}
	hex.Encode(s[:], b[:])
	return string(s[:])
}

// cleanResponse removes what only piko may say from what a service said. An agent's own error keeps its code: it can
// only be one of those that an agent has, with that code's status.
func cleanResponse(res *http.Response) {
	for name := range res.Header {
		if internal(name) && !(name == headerError && agentError(res)) {
			delete(res.Header, name)
		}
	}
}

// agentError reports whether a response is an agent's about its service, and not the service's own.
func agentError(res *http.Response) bool {
	values := res.Header[headerError]
	if len(values) != 1 {
		return false
	}
	return agentCode(res.StatusCode, values[0])
}

// agentCode reports whether an agent answers so.
func agentCode(status int, value string) bool {
	switch code := fault.Code(value); code {
	case fault.UpstreamUnreachable, fault.UpstreamTimeout:
		return status == code.Status()
	}
	return false
}

package relay

import (
	"errors"
	"net/http"
	"net/textproto"
	"strings"
)

// errUpgradeToken is what UpgradeType says to bytes that no protocol's name has.
var errUpgradeToken = errors.New("malformed Upgrade header")

// hopByHop says whether a field concerns one connection only (RFC 9110, section 7.6.1, and those before it), or must
// never cross a proxy: Proxy, which CGI programs take for their HTTP_PROXY, and HTTP2-Settings, which belongs to h2c.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings", "Proxy":
		return true
	}
	return false
}

// noTrailer says which fields must not come as a trailer: those that frame, route or authenticate (RFC 9110, section
// 6.5.1), and those that a proxy sets, in any spelling.
func noTrailer(name string) bool {
	if strings.IndexByte(name, '_') >= 0 {
		name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	switch name {
	case "Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "Host", "Expect", "Max-Forwards",
		"Authorization", "Cookie", "Set-Cookie", "Cache-Control", "Forwarded", "X-Real-Ip", "X-Request-Id":
		return true
	}
	return hopByHop(name) || strings.HasPrefix(name, "X-Piko-") || strings.HasPrefix(name, "X-Forwarded-") || !validToken(name)
}

// OutHeader copies a request's header for the other side: without hop-by-hop fields, those that Connection names, and
// those that drop, which may be nil and gets canonical names, says. The values are shared with in. TE stays as far as
// it says trailers; Upgrade stays, with its Connection, as far as UpgradeType lets it.
func OutHeader(in http.Header, drop func(name string) bool) http.Header {
	out := make(http.Header, len(in)+4)
	for name, values := range in {
		if !hopByHop(name) && (drop == nil || !drop(name)) {
			out[name] = values
		}
	}
	removeNamed(out, in["Connection"])
	if te := in["Te"]; te != nil && hasToken(te, "trailers") {
		out["Te"] = []string{"trailers"}
	}
	if in["Upgrade"] != nil {
		if protocol, err := UpgradeType(in); err == nil && protocol != "" {
			out["Upgrade"], out["Connection"] = []string{protocol}, []string{"Upgrade"}
		}
	}
	return out
}

// copyHeader puts the end-to-end fields of a response into dst.
func copyHeader(dst, src http.Header) {
	for name, values := range src {
		if !hopByHop(name) {
			dst[name] = values
		}
	}
	removeNamed(dst, src["Connection"])
}

// removeNamed deletes the fields that Connection names.
func removeNamed(h http.Header, connection []string) {
	for _, v := range connection {
		for token := range strings.SplitSeq(v, ",") {
			switch token = textproto.TrimString(token); token {
			case "", "close", "keep-alive", "Upgrade", "upgrade":
			default:
				delete(h, textproto.CanonicalMIMEHeaderKey(token))
			}
		}
	}
}

// hasToken reports whether a comma-separated list has the token, in any case and with any parameters.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			t, _, _ = strings.Cut(t, ";")
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}

// UpgradeType returns what a header asks to upgrade to, or agrees to: "" for nothing. h2c, HTTP and TLS are left out:
// behind them requests would pass by every rule of a proxy. Bytes that no protocol's name has are an error; the
// message is malformed.
func UpgradeType(h http.Header) (string, error) {
	values := h["Upgrade"]
	if values == nil || !hasToken(h["Connection"], "upgrade") {
		return "", nil
	}
	protocols := ""
	for _, v := range values {
		for p := range strings.SplitSeq(v, ",") {
			p = textproto.TrimString(p)
			switch {
			case p == "":
				continue
			case !validProtocol(p):
				return "", errUpgradeToken
			case refusedProtocol(p):
				continue
			case protocols == "":
				protocols = p
			default:
				protocols += ", " + p
			}
		}
	}
	return protocols, nil
}

func refusedProtocol(p string) bool {
	name, _, _ := strings.Cut(p, "/")
	return strings.EqualFold(name, "h2c") || strings.EqualFold(name, "HTTP") || strings.EqualFold(name, "TLS")
}

// validProtocol is name["/" version], both tokens.
func validProtocol(p string) bool {
	name, version, ok := strings.Cut(p, "/")
	return validToken(name) && (!ok || validToken(version))
}

// agreed reports whether a 101 response switches to something that the request offered.
func agreed(offered string, res http.Header) bool {
	protocol, err := UpgradeType(res)
	return err == nil && protocol != "" && hasToken([]string{offered}, protocol)
}

// tokenBytes marks the bytes of a token (RFC 9110, section 5.6.2).
var tokenBytes = func() (t [256]bool) {
	for c := range t {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0 && c < 0x80
	}
	return t
}()

func validToken(s string) bool {
	for i := range len(s) {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return s != ""
}

// validValue: any byte but controls, of which a tab may stand.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

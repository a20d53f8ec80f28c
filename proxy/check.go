package proxy

import (
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"piko/fault"
	"piko/relay"
)

// maxMethod is how long a method may be. Any token is a method, but services and logs know short ones.
const maxMethod = 32

// reserved is the prefix of the paths that are piko's own and never forwarded.
const reserved = "/_piko"

// Reasons of malformed-request, for logs.
var (
	errMethod    = errors.New("method is no token, or too long")
	errTarget    = errors.New("request target is neither a path nor an http URL")
	errFragment  = errors.New("request target has a fragment")
	errHost      = errors.New("malformed or empty host")
	errAuthority = errors.New("host is not what :authority says")
	errLength    = errors.New("content-length is not the body's")
)

func malformed(cause error) error { return fault.New(fault.MalformedRequest, cause) }

// checkRequest refuses what a service or a proxy in front of it could understand otherwise than we do, and what must
// not be forwarded. net/http has refused much already, but it lets these pass. It returns the target to forward, byte
// for byte as it came, and the protocols to upgrade to.
func checkRequest(r *http.Request) (target, upgrade string, err error) {
	if r.Method == http.MethodConnect {
		return "", "", fault.New(fault.MethodNotAllowed, nil)
	}
	if !validMethod(r.Method) {
		return "", "", malformed(errMethod)
	}
	if r.ProtoMajor >= 2 {
		if err := checkPseudo(r); err != nil {
			return "", "", malformed(err)
		}
	}
	if target, err = originForm(r); err != nil {
		return "", "", err
	}
	if _, ok := splitHost(r.Host); !ok && (r.Host != "" || r.ProtoAtLeast(1, 1)) {
		return "", "", malformed(errHost)
	}
	if r.Header["Upgrade"] != nil && r.ProtoMajor == 1 && r.ProtoMinor > 0 {
		if upgrade, err = relay.UpgradeType(r.Header); err != nil {
			return "", "", malformed(err)
		}
	}
	return target, upgrade, nil
}

// checkPseudo refuses what only HTTP/2 can say: there host, authority and length stand beside fields that say the same
// (RFC 9113, sections 8.1.1 and 8.3.1), and net/http believes one of them. It refuses whatever else is malformed itself.
func checkPseudo(r *http.Request) error {
	if hosts := r.Header["Host"]; len(hosts) > 1 || len(hosts) == 1 && !strings.EqualFold(hosts[0], r.Host) {
		return errAuthority
	}
	if lengths := r.Header["Content-Length"]; len(lengths) > 0 {
		// Of a request without a body ContentLength is 0, whatever the field says.
		if n, err := strconv.ParseUint(lengths[0], 10, 63); len(lengths) > 1 || err != nil || int64(n) != r.ContentLength {
			return errLength
		}
	}
	if !strings.HasPrefix(r.RequestURI, "/") && r.RequestURI != "*" {
		return errTarget
	}
	return nil
}

// validMethod takes any token of letters and such that is not too long. Of HTTP/1 net/http lets nothing else through.
func validMethod(method string) bool {
	for i := range len(method) {
		if c := method[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return method != "" && len(method) <= maxMethod
}

// originForm returns the path and query of a request's target as they came. An absolute URL (RFC 9112, section 3.2.2)
// loses scheme and host, which net/http has made the Host.
func originForm(r *http.Request) (string, error) {
	target := r.RequestURI
	if strings.IndexByte(target, '#') >= 0 {
		return "", malformed(errFragment)
	}
	switch {
	case strings.HasPrefix(target, "/"):
		return target, nil
	case target == "*" && r.Method == http.MethodOptions:
		return target, nil
	case r.URL.Host == "" || r.URL.User != nil || r.URL.Scheme != "http" && r.URL.Scheme != "https":
		return "", malformed(errTarget)
	}
	_, rest, _ := strings.Cut(target, "://")
	i := strings.IndexAny(rest, "/?")
	switch {
	case i < 0:
		return "/", nil
	case rest[i] == '?':
		return "/" + rest[i:], nil
	}
	return rest[i:], nil
}

func isReserved(path string) bool {
	return strings.HasPrefix(path, reserved) && (len(path) == len(reserved) || path[len(reserved)] == '/')
}

// splitHost returns the host of a Host header without its port, and whether the header is well-formed.
func splitHost(hostport string) (host string, ok bool) {
	host, port := hostport, ""
	if strings.HasPrefix(hostport, "[") {
		i := strings.IndexByte(hostport, ']')
		if i < 0 {
			return "", false
		}
		host, port = hostport[:i+1], hostport[i+1:]
		if addr, err := netip.ParseAddr(host[1:i]); err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", false
		}
	} else {
		if i := strings.IndexByte(hostport, ':'); i >= 0 {
			host, port = hostport[:i], hostport[i:]
		}
		if !validName(host) {
			return "", false
		}
	}
	return host, validPort(port)
}

// validName says whether a host has only bytes that names have: not those that some take for a second host.
func validName(host string) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '-', c == '_', c == '~':
		default:
			return false
		}
	}
	return host != ""
}

// validPort takes nothing, or a colon and up to 65535; RFC 3986 allows a colon alone.
func validPort(port string) bool {
	if port == "" {
		return true
	}
	n := 0
	for _, c := range port[1:] {
		if n = n*10 + int(c-'0'); c < '0' || c > '9' || n > 65535 {
			return false
		}
	}
	return port[0] == ':'
}

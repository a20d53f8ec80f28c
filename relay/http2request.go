package relay

import (
	"net/http"
	"net/url"
	"strings"
)

// outgoing is the request as net/http gets it: with the bytes of the target and the fields that x.req has, and no other.
func (x *http2Exchange) outgoing() (*http.Request, error) {
	req := x.req
	u, host, err := x.p.outURL(req)
	if err != nil {
		return nil, err
	}
	header, err := outHTTP2Header(req)
	if err != nil {
		return nil, err
	}
	out := req.WithContext(x)
	out.URL, out.Host, out.Header = u, host, header
	out.ContentLength = bodyLength(req)
	out.Body, out.GetBody, out.Trailer = nil, nil, nil
	out.Close = false // it would end the connection for others
	if x.body != nil {
		out.Body = x.body
		x.body.out = out
	}
	if out.ContentLength < 0 {
		out.Trailer = announced(req.Trailer)
	}
	return out, nil
}

// outURL is a URL of which net/http makes the target's bytes.
func (p *HTTP2Pool) outURL(req *http.Request) (*url.URL, string, error) {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	if !validAuthority(host) {
		return nil, "", unsendable("host %.40q", host)
	}
	target := requestTarget(req)
	if target != "*" && !strings.HasPrefix(target, "/") || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, "", unsendable("target %.40q", target)
	}
	if req.Method == http.MethodConnect {
		return nil, "", unsendable("method %.40q", req.Method)
	}
	u := &url.URL{Scheme: "http", Host: "service", Opaque: target}
	if p.TLS {
		u.Scheme = "https"
	}
	if strings.HasPrefix(target, "//") {
		// It would be taken for the beginning of a host; net/http takes this one off again.
		u.Opaque = "//" + host + target
	}
	return u, host, nil
}

// validAuthority takes what net/http passes on as it is.
func validAuthority(host string) bool {
	for i := range len(host) {
		if c := host[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"/<>?@\\^`{|}", c) >= 0 {
			return false
		}
	}
	return host != ""
}

// outHTTP2Header is the request's header without the fields that HTTP/2 has no place for. It is the same map if there
// are none.
func outHTTP2Header(req *http.Request) (http.Header, error) {
	drop := requestSkips(req)
	same := req.Header["User-Agent"] != nil
	for name, values := range req.Header {
		if !validToken(name) {
			return nil, unsendable("header name %.40q", name)
		}
		for _, v := range values {
			if !validValue(v) {
				return nil, unsendable("value of header %.40q", name)
			}
		}
		same = same && !drop(name) && !notHTTP2(name, values)
	}
	if same {
		return req.Header, nil
	}
	out := make(http.Header, len(req.Header)+1)
	for name, values := range req.Header {
		if !drop(name) && !notHTTP2(name, values) {
			out[name] = values
		}
	}
	if out["User-Agent"] == nil {
		out["User-Agent"] = nil // net/http has one of its own
	}
	return out, nil
}

// notHTTP2 says which fields are of a connection (RFC 9113, section 8.2.2).
func notHTTP2(name string, values []string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "Http2-Settings":
		return true
	case "Te":
		return len(values) != 1 || values[0] != "trailers"
	}
	return false
}

// announced are the names of trailers, without values yet; nil if there are none.
func announced(trailer http.Header) http.Header {
	names := outTrailer(trailer)
	for name := range names {
		names[name] = nil
	}
	return names
}

// outTrailer copies the trailers that may be such; nil if there are none.
func outTrailer(trailer http.Header) http.Header {
	var out http.Header
	for name, values := range trailer {
		if noTrailer(name) {
			continue
		}
		if out == nil {
			out = make(http.Header, len(trailer))
		}
		out[name] = values
	}
	return out
}

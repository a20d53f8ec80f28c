package relay

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// checkRequest refuses what cannot be sent. Nothing of it has left then.
func checkRequest(req *http.Request) error {
	switch {
	case req.URL == nil:
		return unsendable("no URL")
	case !validToken(req.Method) && req.Method != "":
		return unsendable("method %.40q", req.Method)
	case req.ContentLength < -1:
		return unsendable("content length %d", req.ContentLength)
	}
	return nil
}

// unsendable is the client's error: what it asked for cannot be written as HTTP/1.1.
func unsendable(format string, args ...any) error {
	return &ClientError{Op: "write request", Err: fmt.Errorf("malformed "+format, args...)}
}

// hasBody reports whether the request has a body to send, and bodyLength its length; -1 is unknown.
func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

func bodyLength(req *http.Request) int64 {
	switch {
	case !hasBody(req):
		return 0
	case req.ContentLength == 0:
		return -1
	}
	return req.ContentLength
}

// requestTarget is what stands in the request line: the bytes of URL.Opaque if there are any, so that a proxy can
// pass on what it got as it is.
func requestTarget(req *http.Request) string {
	if req.URL.Opaque != "" {
		return req.URL.Opaque
	}
	return req.URL.RequestURI()
}

// appendHead writes the request's head. It adds no field but those that frame the message.
func appendHead(b []byte, req *http.Request) ([]byte, error) {
	target := requestTarget(req)
	if strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return b, unsendable("target %.40q", target)
	}
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	if !validValue(host) {
		return b, unsendable("host %.40q", host)
	}
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\n"...)
	b, err := appendFields(b, req.Header, requestSkips(req))
	if err != nil {
		return b, err
	}
	b = appendFraming(b, req)
	return append(b, "\r\n"...), nil
}

// requestSkips says which fields of a request's header are not its to set.
func requestSkips(req *http.Request) func(string) bool {
	if hasBody(req) {
		return framingField
	}
	return func(name string) bool { return framingField(name) || name == "Expect" }
}

func framingField(name string) bool {
	switch name {
	case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
		return true
	}
	return false
}

func appendFraming(b []byte, req *http.Request) []byte {
	switch n := bodyLength(req); {
	case n > 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, n, 10)
		b = append(b, "\r\n"...)
	case n < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		b = appendTrailerNames(b, req.Trailer)
	case req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch ||
		req.Header["Content-Length"] != nil:
		b = append(b, "Content-Length: 0\r\n"...)
	}
	if req.Close {
		b = append(b, "Connection: close\r\n"...)
	}
	return b
}

// appendTrailerNames announces the trailers that are known already.
func appendTrailerNames(b []byte, trailer http.Header) []byte {
	sep := "Trailer: "
	for name := range trailer {
		if !noTrailer(name) {
			b = append(append(b, sep...), name...)
			sep = ", "
		}
	}
	if sep == ", " {
		b = append(b, "\r\n"...)
	}
	return b
}

// appendFields writes a header, without the fields that skip says. What would break the framing is an error.
func appendFields(b []byte, h http.Header, skip func(string) bool) ([]byte, error) {
	for name, values := range h {
		if skip(name) {
			continue
		}
		if !validToken(name) {
			return b, unsendable("header name %.40q", name)
		}
		for _, v := range values {
			if !validValue(v) {
				return b, unsendable("value of header %.40q", name)
			}
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, v...)
			b = append(b, "\r\n"...)
		}
	}
	return b, nil
}

// Idempotent says which methods may be sent twice (RFC 9110, section 9.2.2).
func Idempotent(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

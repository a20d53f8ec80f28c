package relay

import "bytes"

// laneHead is what the head of a request says that a Lane carries.
type laneHead struct {
	method  string
	length  int64 // of the body; -1: it is chunked
	close   bool  // the connection ends behind the response
	streams bool  // NeedsHTTP2 would say so
	kind    []byte
	hosts   int
	lengths int
	codings int
}

// laneField is a header field that a Lane looks at.
type laneField uint8

const (
	fieldOther   laneField = iota
	fieldDropped           // concerns one connection only
	fieldConnection
	fieldLength
	fieldCoding
	fieldHost
	fieldTE
	fieldType
	fieldTrailer
	fieldSlow // means something that a Lane does not do
)

// Plain reports whether p begins with the whole head of a request that a Lane carries, which has the filter; nil is none.
func Plain(p []byte, f LaneFilter) bool {
	n := headLength(p, 0)
	if n == 0 {
		return false
	}
	buf := laneBuffer(n + laneRoom)
	defer putLaneBuffer(buf)
	var h laneHead
	_, ok := h.scan((*buf)[:0], p[:n], "", "", f)
	return ok && !h.streams
}

// scan checks a request's head and appends it to out as it is sent on. raw ends with its empty line. ok is false if the
// request is not for a Lane: it asks for more, or net/http's server might mend or refuse it. What is taken here net/http
// takes, too, and understands in the same way. f, which may be nil, is asked about what the lane leaves to it.
func (h *laneHead) scan(out, raw []byte, prefix, query string, f LaneFilter) (_ []byte, ok bool) {
	*h = laneHead{}
	line, rest, ok := cutCRLF(raw)
	if !ok {
		return out, false
	}
	if out, ok = h.requestLine(out, line, prefix, query, f); !ok {
		return out, false
	}
	for {
		if line, rest, ok = cutCRLF(rest); !ok {
			return out, false
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := cutField(line)
		if !ok {
			return out, false
		}
		keep, ok := h.field(name, value, f)
		if !ok {
			return out, false
		}
		if keep {
			out = appendField(out, name, value)
		}
	}
	if len(rest) > 0 || h.hosts != 1 || h.codings > 0 && h.lengths > 0 {
		return out, false
	}
	switch {
	case h.codings > 0:
		h.length = unknownLength
		h.streams = h.method != "PUT" && h.method != "PATCH" && !upload(mediaTypeOf(string(h.kind)))
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	case h.lengths == 0 && (h.method == "POST" || h.method == "PUT" || h.method == "PATCH"):
		out = append(out, "Content-Length: 0\r\n"...)
	}
	h.kind = nil
	return append(out, "\r\n"...), true
}

// requestLine takes a method of capital letters, a target that begins with a path, and HTTP/1.1.
func (h *laneHead) requestLine(out, line []byte, prefix, query string, f LaneFilter) (_ []byte, ok bool) {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, ok := bytes.Cut(rest, []byte(" "))
	if !ok || string(version) != "HTTP/1.1" || len(method) == 0 || len(method) > 20 {
		return out, false
	}
	for _, c := range method {
		if c < 'A' || c > 'Z' {
			return out, false
		}
	}
	h.method = methodName(method)
	if h.method == "CONNECT" || h.method == "PRI" {
		return out, false
	}
	path, ok := pathLength(target)
	if !ok || f != nil && !f.Target(target) {
		return out, false
	}
	out = append(append(append(out, method...), ' '), prefix...)
	if query == "" {
		out = append(out, target...)
	} else {
		out = append(append(append(out, target[:path]...), '?'), query...)
		if len(target) > path+1 {
			out = append(append(out, '&'), target[path+1:]...)
		}
	}
	return append(out, " HTTP/1.1\r\n"...), true
}

// pathLength is where the query of a target begins, or how long the target is. ok is false for what is not a path in
// plain characters, or has escapes that are none.
func pathLength(target []byte) (n int, ok bool) {
	if len(target) == 0 || target[0] != '/' || len(target) > 1 && target[1] == '/' {
		return 0, false
	}
	n = -1
	for i, c := range target {
		switch {
		case c <= ' ' || c >= 0x7f:
			return 0, false
		case c == '?' && n < 0:
			n = i
		case c == '%' && n < 0:
			if i+2 >= len(target) || !hexDigit(target[i+1]) || !hexDigit(target[i+2]) {
				return 0, false
			}
		}
	}
	if n < 0 {
		n = len(target)
	}
	return n, true
}

func hexDigit(c byte) bool { return digit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

// methodName costs no allocation for the usual ones.
func methodName(b []byte) string {
	for _, m := range [...]string{"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"} {
		if string(b) == m {
			return m
		}
	}
	return string(b)
}

// field takes note of a field of a request, and says whether it is sent on. ok is false if the request is not for a Lane.
func (h *laneHead) field(name, value []byte, f LaneFilter) (keep, ok bool) {
	switch fieldOf(name) {
	case fieldOther:
		if f != nil {
			return f.RequestField(name, value)
		}
		return true, true
	case fieldDropped:
		return false, true
	case fieldHost:
		h.hosts++
		return true, plainHost(value)
	case fieldLength:
		h.lengths++
		h.length, ok = plainLength(value)
		return true, ok && h.lengths == 1
	case fieldCoding:
		h.codings++
		return false, h.codings == 1 && equalFold(value, "chunked")
	case fieldConnection:
		h.close = h.close || equalFold(value, "close")
		return false, h.close || equalFold(value, "keep-alive")
	case fieldTE:
		return true, string(value) == "trailers"
	case fieldType:
		if h.kind == nil {
			h.kind = value
		}
		return true, !grpcType(value)
	}
	return false, false
}

// fieldOf says which field a name is, in any case.
func fieldOf(name []byte) laneField {
	switch len(name) {
	case 2:
		return named(name, "te", fieldTE)
	case 4:
		return named(name, "host", fieldHost)
	case 5:
		return named(name, "proxy", fieldDropped)
	case 6:
		return named(name, "expect", fieldSlow)
	case 7:
		return max(named(name, "trailer", fieldTrailer), named(name, "upgrade", fieldSlow))
	case 10:
		return max(named(name, "connection", fieldConnection), named(name, "keep-alive", fieldDropped))
	case 12:
		return max(named(name, "content-type", fieldType), named(name, "grpc-timeout", fieldSlow))
	case 14:
		return max(named(name, "content-length", fieldLength), named(name, "http2-settings", fieldDropped))
	case 16:
		return named(name, "proxy-connection", fieldDropped)
	case 17:
		return named(name, "transfer-encoding", fieldCoding)
	case 18:
		return named(name, "proxy-authenticate", fieldDropped)
	case 19:
		return named(name, "proxy-authorization", fieldDropped)
	}
	return fieldOther
}

func named(name []byte, lower string, f laneField) laneField {
	if equalFold(name, lower) {
		return f
	}
	return fieldOther
}

// equalFold compares with letters in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range len(lower) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

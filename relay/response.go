package relay

import (
	"bytes"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

const (
	// maxInformational is how many 1xx responses may come before the final one.
	maxInformational = 16
	// maxFields is how many lines a header or trailer may have.
	maxFields = 4096
	// unknownLength is the length of a body that ends by itself; -1 in http.Response.
	unknownLength = -1
)

// How the end of a response's body is known.
type framing uint8

const (
	noBody     framing = iota
	byLength           // after ContentLength bytes
	byChunks           // after the last chunk and the trailers
	untilClose         // when the service ends the connection
)

// head is what the head of a response says.
type head struct {
	status    int
	text      string // status and reason
	minor     int    // of HTTP/1.minor
	header    http.Header
	trailer   http.Header // announced names; nil if none
	framing   framing
	length    int64
	keepAlive bool
}

// parseHead reads the head of a response to a request of the method. raw ends with its empty line. Whatever two
// readers could understand differently is an error, since a wrong guess here gives one client another's response.
func parseHead(raw []byte, method string) (h head, err error) {
	text := string(raw) // one allocation for all that is kept of it
	line, rest := cutLine(text)
	if err := h.parseStatusLine(line); err != nil {
		return h, err
	}
	if h.header, err = parseFields(rest, bytes.Count(raw, []byte("\n"))-2); err != nil {
		return h, err
	}
	if err := h.frame(method); err != nil {
		return h, err
	}
	connection := h.header["Connection"]
	h.keepAlive = h.minor > 0 || hasToken(connection, "keep-alive")
	if connection != nil && hasToken(connection, "close") {
		h.keepAlive = false
	}
	return h, nil
}

// cutLine splits off a line, without its end. A line may end with a bare LF, as RFC 9112 section 2.2 allows.
func cutLine(s string) (line, rest string) {
	line, rest, _ = strings.Cut(s, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

// parseStatusLine takes HTTP/1.x, three digits from 100, and any reason.
func (h *head) parseStatusLine(line string) error {
	version, status, ok := strings.Cut(line, " ")
	if !ok || len(version) != len("HTTP/1.1") || version[:len("HTTP/1.")] != "HTTP/1." || !digit(version[7]) {
		return malformed("status line %.40q", line)
	}
	code, _, _ := strings.Cut(status, " ")
	if len(code) != 3 || !digit(code[0]) || !digit(code[1]) || !digit(code[2]) || code[0] == '0' || !validValue(status) {
		return malformed("status line %.40q", line)
	}
	h.minor = min(int(version[7]-'0'), 1)
	h.status, _ = strconv.Atoi(code)
	h.text = status
	return nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// parseFields reads header or trailer fields up to the empty line. lines is how many there are, about.
func parseFields(s string, lines int) (http.Header, error) {
	if lines > maxFields {
		return nil, malformed("more than %d header lines", maxFields)
	}
	header := make(http.Header, max(lines, 0))
	values := make([]string, max(lines, 0))
	for {
		line, rest := cutLine(s)
		if line == "" && rest == "" {
			return header, nil
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !ok || !validToken(name) || !validValue(value) {
			return nil, malformed("header line %.40q", line)
		}
		name = canonical(name)
		if old, ok := header[name]; ok {
			header[name] = append(old, value)
		} else if len(values) > 0 {
			values[0] = value
			header[name], values = values[:1:1], values[1:]
		} else {
			header[name] = []string{value}
		}
		s = rest
	}
}

// canonical returns name itself if it is in canonical form already, which costs no allocation.
func canonical(name string) string {
	upper := true
	for i := range len(name) {
		c := name[i]
		if upper && 'a' <= c && c <= 'z' || !upper && 'A' <= c && c <= 'Z' {
			return textproto.CanonicalMIMEHeaderKey(name)
		}
		upper = c == '-'
	}
	return name
}

// frame finds out how the body ends (RFC 9112, section 6.3).
func (h *head) frame(method string) error {
	length, err := h.contentLength()
	if err != nil {
		return err
	}
	coding, chunked := h.header["Transfer-Encoding"]
	if chunked {
		switch {
		case len(coding) != 1 || !strings.EqualFold(coding[0], "chunked"):
			return malformed("transfer encoding %.40q", coding)
		case h.header["Content-Length"] != nil:
			return malformed("both Content-Length and Transfer-Encoding")
		case h.minor == 0:
			return malformed("Transfer-Encoding in HTTP/1.0")
		}
		delete(h.header, "Transfer-Encoding")
	}
	switch {
	case method == http.MethodHead || h.status < 200 || h.status == http.StatusNoContent || h.status == http.StatusNotModified:
		h.framing, h.length = noBody, length
		if h.status == http.StatusNoContent {
			delete(h.header, "Content-Length") // RFC 9110, section 8.6
			h.length = 0
		}
	case chunked:
		h.framing, h.length = byChunks, unknownLength
		h.trailer = announcedTrailers(h.header)
	case length == 0:
		h.framing = noBody
	case length > 0:
		h.framing, h.length = byLength, length
	default:
		h.framing, h.length = untilClose, unknownLength
	}
	delete(h.header, "Trailer")
	return nil
}

// contentLength returns the length that the header says, and leaves one field of it if there were equal ones.
func (h *head) contentLength() (int64, error) {
	values := h.header["Content-Length"]
	if len(values) == 0 {
		return unknownLength, nil
	}
	for _, v := range values {
		if v != values[0] || v == "" || strings.ContainsFunc(v, func(r rune) bool { return r < '0' || r > '9' }) {
			return 0, malformed("content length %.40q", values)
		}
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil {
		return 0, malformed("content length %.40q", values)
	}
	h.header["Content-Length"] = values[:1]
	return n, nil
}

// announcedTrailers returns the names in the Trailer field, without values yet.
func announcedTrailers(h http.Header) http.Header {
	var trailer http.Header
	for _, v := range h["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))
			if noTrailer(name) || len(trailer) >= maxFields {
				continue
			}
			if trailer == nil {
				trailer = make(http.Header)
			}
			trailer[name] = nil
		}
	}
	return trailer
}

// fill puts what the head says into a response.
func (h *head) fill(res *http.Response) {
	res.Status, res.StatusCode = h.text, h.status
	res.Proto, res.ProtoMajor, res.ProtoMinor = "HTTP/1.1", 1, h.minor
	if h.minor == 0 {
		res.Proto = "HTTP/1.0"
	}
	res.Header, res.Trailer = h.header, h.trailer
	res.ContentLength = h.length
	res.Close = !h.keepAlive
	if h.framing == byChunks {
		res.TransferEncoding = []string{"chunked"}
	}
}

package fault

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxText bounds in bytes what a client is told, whatever a Detail was made of.
const maxText = 512

// HeaderError is the response header with the code, in canonical form.
const HeaderError = "X-Piko-Error"

// Write answers the request with what From makes of err, and returns the HTTP
// status that it sent. Nothing may have been written to w before; headers that
// describe another body are removed, all others (such as Allow) stay.
//
// A gRPC request gets a trailers-only answer: status 200, grpc-status and
// grpc-message in the headers, no body, and no flush, which would split it.
func Write(w http.ResponseWriter, r *http.Request, err error) (status int) {
	e := From(err)
	if e == nil {
		e = New(Internal, nil)
	}
	code := e.Code
	if code == "" {
		code = Internal
	}
	h := w.Header()
	for _, name := range []string{"Content-Length", "Content-Encoding", "Content-Range", "Etag", "Last-Modified", "Trailer"} {
		h.Del(name)
	}
	h.Set(HeaderError, string(code))
	h.Set("Cache-Control", "no-store")
	if after, ok := e.retryAfter(); ok {
		h.Set("Retry-After", strconv.FormatInt(int64(after/time.Second), 10))
	}
	if closes(code) && (r == nil || r.ProtoMajor < 2) {
		// On HTTP/2 this header would end the connection of other requests.
		h.Set("Connection", "close")
	}
	text := cut(e.Text())
	if r != nil && IsGRPC(r.Header) {
		return writeGRPC(w, code, text)
	}
	if challenge := code.challenge(); challenge != "" {
		h.Set("Www-Authenticate", challenge)
	}
	return writeJSON(w, code, text)
}

func writeGRPC(w http.ResponseWriter, code Code, text string) int {
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(code.kind().grpc))
	h.Set("Grpc-Message", percentEncode(text))
	w.WriteHeader(http.StatusOK)
	return http.StatusOK
}

// answer is the JSON body of a refusal.
type answer struct {
	Error string `json:"error"`
	Code  Code   `json:"code"`
}

func writeJSON(w http.ResponseWriter, code Code, text string) int {
	// Two strings always marshal.
	body, _ := json.Marshal(answer{Error: text, Code: code})
	body = append(body, '\n')
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code.Status())
	_, _ = w.Write(body) // a client that is gone needs no answer
	return code.Status()
}

// challenge is the WWW-Authenticate of a code whose status is 401, and "" for
// others. A request that brought no token is told of no error (RFC 6750,
// section 3.1).
func (c Code) challenge() string {
	const bearer = `Bearer realm="piko"`
	switch c {
	case InvalidAuthorization:
		return bearer + `, error="invalid_request"`
	case InvalidToken, UnknownTenant:
		return bearer + `, error="invalid_token"`
	case ExpiredToken:
		return bearer + `, error="invalid_token", error_description="expired token"`
	case EndpointNotPermitted:
		return bearer + `, error="insufficient_scope"`
	}
	if c.Status() == http.StatusUnauthorized {
		return bearer
	}
	return ""
}

// closes reports whether the bytes behind the request cannot be trusted to be
// the next one.
func closes(c Code) bool { return c == MalformedRequest || c == RequestTimeout }

// retryAfter is in whole seconds, rounded up.
func (e *Error) retryAfter() (after time.Duration, ok bool) {
	if e.RetryAfter > 0 {
		return (e.RetryAfter + time.Second - 1).Truncate(time.Second), true
	}
	switch e.Code {
	case Draining:
		return 0, true
	case Overloaded, AuthUnavailable, RateLimited:
		return time.Second, true
	}
	return 0, false
}

// EndGRPC gives a gRPC response that has begun, and whose service will not end
// it, the trailers that say so. The handler must return then: the client would
// otherwise see a bare reset, or no status at all.
func EndGRPC(w http.ResponseWriter, err error) {
	e := From(err)
	if e == nil {
		e = New(Internal, nil)
	}
	h := w.Header()
	h[http.TrailerPrefix+"Grpc-Status"] = []string{strconv.Itoa(e.Code.kind().grpc)}
	h[http.TrailerPrefix+"Grpc-Message"] = []string{percentEncode(cut(e.Text()))}
}

// IsGRPC reports whether a header is that of a gRPC request. It excludes
// application/grpc-web, whose clients read HTTP statuses.
func IsGRPC(h http.Header) bool {
	const name = "application/grpc"
	ct := h.Get("Content-Type")
	if len(ct) < len(name) || !strings.EqualFold(ct[:len(name)], name) {
		return false
	}
	rest := ct[len(name):]
	return rest == "" || rest[0] == '+' || rest[0] == ';' || rest[0] == ' '
}

// percentEncode is the encoding of grpc-message: bytes outside of printable
// ASCII, and the percent sign, as %XX.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// cut bounds s without splitting a rune.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

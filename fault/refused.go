package fault

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Bounds on what is taken from an answer that may be anybody's.
const (
	maxRefusedBody = 4 << 10
	maxRefusedText = 256
	maxRetryAfter  = time.Hour
)

// Refused is an HTTP answer that refused a request of a client of ours: our
// JSON, or the page of something between us and a node.
type Refused struct {
	Status int
	// Code is the server's; "" if a node of ours did not write the answer.
	// What v0.9.0 says, which has no codes, is recognised by its text.
	Code Code
	// Text says why, without control characters and at most 256 bytes long. It
	// may be empty.
	Text string
	// RetryAfter is at most 1 h, and 0 if the answer gave no such advice.
	RetryAfter time.Duration
	Header     http.Header
}

// Error says what the server answered.
func (e *Refused) Error() string {
	status := strings.TrimSpace(strconv.Itoa(e.Status) + " " + http.StatusText(e.Status))
	switch {
	case e.Code != "" && e.Text != "":
		return fmt.Sprintf("server refused with %s: %s", status, e.Text)
	case e.Code != "":
		return fmt.Sprintf("server refused with %s: %s", status, e.Code)
	case e.Text != "":
		return fmt.Sprintf("server answered %s (not a piko error): %s", status, e.Text)
	}
	return fmt.Sprintf("server answered %s (not a piko error)", status)
}

// Is reports whether target is the answer's Code.
func (e *Refused) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code != "" && code == e.Code
}

// ReadRefused makes a Refused of an answer. It reads at most 4 KiB of the body,
// and leaves closing it to the caller. A body that cannot be read counts as
// none: the status alone says enough.
func ReadRefused(res *http.Response) *Refused {
	e := &Refused{Status: res.StatusCode, Header: res.Header, RetryAfter: parseRetryAfter(res.Header)}
	var body []byte
	if res.Body != nil {
		body, _ = io.ReadAll(io.LimitReader(res.Body, maxRefusedBody))
	}
	mediaType, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	var a answer
	switch {
	case json.Unmarshal(body, &a) == nil && (a.Error != "" || a.Code != ""):
		e.Code, e.Text = ourCode(e.Status, a), clean(a.Error)
	case mediaType == "text/html":
		e.Text = clean(pageTitle(body))
	case mediaType == "text/plain" || mediaType == "":
		e.Text = clean(string(body))
	}
	if code := Code(res.Header.Get(HeaderError)); e.Code == "" && validCode(code) {
		e.Code = code
	}
	return e
}

// ourCode is the code of the answer, or the one that v0.9.0 means by its text.
func ourCode(status int, a answer) Code {
	if validCode(a.Code) {
		return a.Code
	}
	for _, code := range []Code{
		MissingEndpoint, MissingAuthorization, InvalidAuthorization, UnsupportedAuthType, InvalidToken, ExpiredToken,
		UnknownTenant, EndpointNotPermitted, NoUpstream, UpstreamUnreachable, UpstreamTimeout,
	} {
		if code.Status() == status && code.Text() == a.Error {
			return code
		}
	}
	return ""
}

// validCode keeps odd bytes of a stranger's answer out of logs and terminals.
func validCode(c Code) bool {
	if c == "" || len(c) > 64 {
		return false
	}
	for i := range len(c) {
		if b := c[i]; (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' {
			return false
		}
	}
	return true
}

var titleTag = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title`)

// pageTitle is what an HTML page says in one line.
func pageTitle(page []byte) string {
	if m := titleTag.FindSubmatch(page); m != nil {
		return string(m[1])
	}
	return ""
}

// clean makes one short printable line of a stranger's text.
func clean(s string) string {
	if len(s) > 4*maxRefusedText {
		s = s[:4*maxRefusedText]
	}
	s = strings.ToValidUTF8(s, "")
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	for i, r := range s {
		if i+len(string(r)) > maxRefusedText {
			return s[:i]
		}
	}
	return s
}

// parseRetryAfter understands seconds and dates; a date is compared with the
// answer's own Date, so that a wrong clock here does no harm.
func parseRetryAfter(h http.Header) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

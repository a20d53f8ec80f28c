package strict

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// FuzzStrict compares three readers of the same bytes: a parser that takes nothing but what the RFC's grammar says, which
// is below; net/http, which gets what Conn lets through; and Conn. net/http must see the requests that the parser sees, with
// the same bodies, or fewer of them: never another one.
func FuzzStrict(f *testing.F) {
	for _, s := range []string{
		next + next,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + next,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello" + next,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0\r\nX: y\r\n\r\n" + next,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n" + next,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n" + next,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + next,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + next,
		"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab\r\n" + next,
		"POST / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\n" + next,
		"POST / HTTP/1.1\r\nHost: a\r\n\r\n\n\n" + next,
		"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\n\r\n\n" + next,
		"GET / HTTP/1.1\nHost: a\n\n" + next,
		"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n" + next,
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\n\r\n" + next,
		"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n" + next,
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello" + next,
		http2Preface + next,
		"PRI * HTTP/2.0\r\n\r\n" + next,
		"POST / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r*" + next,
		"0 * HTTP/0.1\r\nTransfer-Encoding: 0\r\n\r\n",
	} {
		f.Add([]byte(s), uint64(1))
		f.Add([]byte(s), uint64(2))
	}
	f.Fuzz(func(t *testing.T, sent []byte, seed uint64) {
		if len(sent) > 1<<16 {
			t.Skip("too long")
		}
		want := parseStrictly(sent)
		through := pass(t, sent, seed)
		got := readLikeServer(through)
		if len(got) > len(want) {
			t.Fatalf("net/http sees %d requests: %q\nthe client sent %d: %q", len(got), got, len(want), want)
		}
		for i, g := range got {
			if g != want[i] {
				t.Fatalf("request %d is %q for net/http, but is %q", i, g, want[i])
			}
		}
	})
}

// readLikeServer returns the requests that net/http's server would see, as far as their bodies come whole.
func readLikeServer(b []byte) (seen []string) {
	if bytes.HasPrefix(b, []byte(http2Preface)) {
		return nil // it speaks HTTP/2
	}
	br := bufio.NewReader(bytes.NewReader(b))
	posted := false
	for {
		if posted { // Server.readRequest is so kind to old clients
			for range 4 {
				if p, _ := br.Peek(1); len(p) == 0 || p[0] != '\r' && p[0] != '\n' {
					break
				}
				br.Discard(1)
			}
		}
		r, err := http.ReadRequest(br)
		if err != nil || r.ProtoMajor != 1 || !namesAreTokens(r.Header) {
			return seen
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return seen
		}
		seen = append(seen, fmt.Sprintf("%s %s %q", r.Method, r.RequestURI, body))
		if r.Close {
			return seen
		}
		posted = r.Method == http.MethodPost
	}
}

// namesAreTokens is what the server checks after http.ReadRequest, beside the version.
func namesAreTokens(h http.Header) bool {
	for name := range h {
		if !fieldLine.MatchString(name + ":") {
			return false
		}
	}
	return true
}

var (
	requestLine = regexp.MustCompile(`^([^ ]+) ([^ ]+) HTTP/(\d)\.(\d)$`)
	fieldLine   = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*?)[ \t]*$")
	sizeLine    = regexp.MustCompile(`^([0-9A-Fa-f]{1,16})(;[^\r\n]*)?$`)
)

// parseStrictly returns the requests that the bytes are, up to the first that is malformed or not whole. It is slow and
// plain, and shares nothing with Conn.
func parseStrictly(b []byte) (seen []string) {
	rest := string(b)
	takeLine := func() (string, bool) {
		line, after, ok := strings.Cut(rest, "\n")
		if !ok || !strings.HasSuffix(line, "\r") {
			return "", false
		}
		rest = after
		return strings.TrimSuffix(line, "\r"), true
	}
	for {
		rest = strings.TrimPrefix(rest, "\r\n")
		line, ok := takeLine()
		m := requestLine.FindStringSubmatch(line)
		if !ok || m == nil {
			return seen
		}
		fields, ok := parseFields(takeLine)
		if !ok {
			return seen
		}
		body := ""
		switch lengths, encodings := fields["content-length"], fields["transfer-encoding"]; {
		case len(encodings) > 0:
			if len(lengths) > 0 || len(encodings) > 1 || !strings.EqualFold(encodings[0], "chunked") || m[3]+m[4] != "11" {
				return seen
			}
			if body, rest, ok = parseChunks(rest); !ok {
				return seen
			}
		case len(lengths) > 0:
			n, err := strconv.ParseUint(lengths[0], 10, 63)
			if err != nil || len(lengths) > 1 || n > uint64(len(rest)) {
				return seen
			}
			body, rest = rest[:n], rest[n:]
		}
		seen = append(seen, fmt.Sprintf("%s %s %q", m[1], m[2], body))
	}
}

func parseFields(takeLine func() (string, bool)) (fields map[string][]string, ok bool) {
	fields = make(map[string][]string)
	for {
		line, ok := takeLine()
		if line == "" {
			return fields, ok
		}
		m := fieldLine.FindStringSubmatch(line)
		if m == nil {
			return nil, false
		}
		name := strings.ToLower(m[1])
		fields[name] = append(fields[name], m[2])
	}
}

func parseChunks(s string) (body, rest string, ok bool) {
	for {
		line, after, ok := strings.Cut(s, "\r\n")
		m := sizeLine.FindStringSubmatch(line)
		if !ok || m == nil {
			return "", "", false
		}
		n, err := strconv.ParseUint(m[1], 16, 63)
		if err != nil || n > uint64(len(after)) {
			return "", "", false
		}
		if n == 0 {
			s = after
			break
		}
		body += after[:n]
		if s, ok = strings.CutPrefix(after[n:], "\r\n"); !ok {
			return "", "", false
		}
	}
	for {
		line, after, ok := strings.Cut(s, "\r\n")
		if !ok || strings.Contains(line, "\n") {
			return "", "", false
		}
		s = after
		if line == "" {
			return body, s, true
		}
		if !fieldLine.MatchString(line) {
			return "", "", false
		}
	}
}

// FuzzValid makes requests that nobody could object to: not a byte of them is changed, however they come.
func FuzzValid(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var sent []byte
		for range 1 + rnd.IntN(8) {
			sent = appendValid(sent, rnd)
		}
		if got := pass(t, sent, seed); !bytes.Equal(got, sent) {
			i := 0
			for i < min(len(got), len(sent)) && got[i] == sent[i] {
				i++
			}
			t.Errorf("changed at byte %d: %q", i, sent)
		}
	})
}

func TestValidRequestsPassUnchanged(t *testing.T) {
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		sent := appendValid(appendValid(nil, rnd), rnd)
		if got := pass(t, sent, seed); !bytes.Equal(got, sent) {
			t.Fatalf("seed %d: %q became %q", seed, sent, got)
		}
	}
}

func pick(rnd *rand.Rand, of ...string) string { return of[rnd.IntN(len(of))] }

// appendValid appends a request.
func appendValid(b []byte, rnd *rand.Rand) []byte {
	b = append(b, pick(rnd, "", "", "\r\n")...)
	b = append(b, pick(rnd, "GET", "POST", "CONNECT", "OPTIONS", "M-SEARCH")+" "+pick(rnd, "/", "*", "/"+strings.Repeat("a", rnd.IntN(300)), "http://a/?b")...)
	encoding := rnd.IntN(3)
	version := "1.1"
	if encoding != 2 {
		version = pick(rnd, "1.1", "1.0")
	}
	b = append(b, " HTTP/"+version+"\r\n"...)
	body := make([]byte, rnd.IntN(200))
	for i := range body {
		body[i] = pick(rnd, "\r", "\n", " ", "a", "0", "\x00")[0]
	}
	fields := []string{"Host: a\r\n", "X-Long: " + strings.Repeat("x", rnd.IntN(300)) + "\r\n", "Content-Type: t\r\n", "TE: trailers\r\n", "T:\r\n", "C:c\r\n", "u: \t\r\n"}
	switch encoding {
	case 1:
		fields = append(fields, pick(rnd, "Content-Length: ", "content-length:", "CONTENT-LENGTH: \t")+fmt.Sprint(len(body))+pick(rnd, "", " ", "\t")+"\r\n")
	case 2:
		fields = append(fields, pick(rnd, "Transfer-Encoding: ", "transfer-encoding:")+pick(rnd, "chunked", "Chunked")+"\r\n")
	}
	if rnd.IntN(4) == 0 {
		fields = append(fields, pick(rnd, "Upgrade: websocket\r\n", "upgrade:x\r\n"))
	}
	rnd.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	b = append(b, strings.Join(fields, "")+"\r\n"...)
	switch encoding {
	case 1:
		return append(b, body...)
	case 2:
		return appendChunks(b, body, rnd)
	}
	return b
}

func appendChunks(b, body []byte, rnd *rand.Rand) []byte {
	extension := func() string {
		return pick(rnd, "", "", ";a", ";a=\"b;c\" ; d", ";"+strings.Repeat("e", rnd.IntN(200)))
	}
	for len(body) > 0 {
		n := 1 + rnd.IntN(len(body))
		b = fmt.Appendf(b, pick(rnd, "%x", "%X", "%04x", "%016x")+"%s\r\n%s\r\n", n, extension(), body[:n])
		body = body[n:]
	}
	b = append(b, pick(rnd, "0", "00", "0000000000000000")+extension()+"\r\n"...)
	return append(b, pick(rnd, "", "X-A: b\r\n", "X-A: b\r\nX-C: "+strings.Repeat("d", rnd.IntN(200))+"\r\n")+"\r\n"...)
}

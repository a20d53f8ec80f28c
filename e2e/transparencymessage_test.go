//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
)

// normalize takes away what may differ through piko. docs/protocols.md has the same list with
// the reasons.
func (m *message) normalize() {
	_, m.start, _ = strings.Cut(m.start, "HTTP/1.") // the version is each hop's own
	if !m.request {
		code, _, _ := strings.Cut(m.start[2:], " ") // so is the reason phrase
		m.start = code
	}
	for i, line := range m.fields { // names are in canonical form, in any order
		name, value, _ := strings.Cut(line, ":")
		m.fields[i] = textproto.CanonicalMIMEHeaderKey(name) + ": " + strings.TrimSpace(value)
	}
	m.fields = slices.DeleteFunc(m.fields, func(line string) bool {
		name, _, _ := strings.Cut(line, ":")
		switch name {
		case "Connection", "Keep-Alive": // are about one connection
			return true
		case "Date": // is added where the service has none
			return true
		case "X-Request-Id", "Cdn-Loop", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto": // are added
			return m.request
		case "Transfer-Encoding": // a body without length is chunked for who knows chunks
			return !m.request
		case "Content-Length": // or gets one if it is short
			return !m.request && (m.body || m.start == "304")
		case "Content-Type": // net/http takes what describes a body out of a 304
			return !m.request && m.start == "304"
		case "Trailer": // trailers need not be announced
			return true
		}
		return false
	})
	slices.Sort(m.fields)
}

// message is the head of a request or response.
type message struct {
	request bool
	body    bool // it is a response that has one
	start   string
	fields  []string
}

// readMessage reads a head, line by line as it comes.
func readMessage(r *bufio.Reader) (*message, error) {
	var lines []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if line = strings.TrimSuffix(line, "\r\n"); line == "" {
			break
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("an empty line instead of a head")
	}
	return &message{start: lines[0], fields: lines[1:], request: !strings.HasPrefix(lines[0], "HTTP/")}, nil
}

func (m *message) get(name string) string {
	for _, line := range m.fields {
		if n, v, _ := strings.Cut(line, ":"); strings.EqualFold(n, name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// normalized is the head as it is compared.
func (m *message) normalized() string {
	n := &message{request: m.request, body: m.body, start: m.start, fields: slices.Clone(m.fields)}
	if m.request {
		target, _, _ := strings.Cut(m.start, " HTTP/1.")
		n.normalize()
		return target + "\n" + strings.Join(n.fields, "\n")
	}
	n.normalize()
	return n.start + "\n" + strings.Join(n.fields, "\n")
}

// bodyReader reads a body as its head says, and notes its end.
type bodyReader struct {
	r       *bufio.Reader
	chunked bool
	left    int64 // -1: until the connection ends
	saw     *transcript
}

func newBodyReader(m *message, r *bufio.Reader, saw *transcript) *bodyReader {
	b := &bodyReader{r: r, saw: saw, left: -1}
	switch length, err := strconv.ParseInt(m.get("Content-Length"), 10, 64); {
	case !m.request && !m.body:
		b.left = 0
	case strings.EqualFold(m.get("Transfer-Encoding"), "chunked"):
		b.chunked, b.left = true, 0
	case err == nil:
		b.left = length
	case m.request:
		b.left = 0
	}
	return b
}

// Read implements io.Reader; io.ErrUnexpectedEOF is a body that broke off.
func (b *bodyReader) Read(p []byte) (int, error) {
	if b.left == 0 && b.chunked {
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
	}
	switch {
	case b.left == 0:
		return 0, io.EOF
	case b.left < 0:
		return b.r.Read(p)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if b.left == 0 && b.chunked && err == nil {
		_, err = b.r.Discard(2)
	}
	return n, err
}

func (b *bodyReader) nextChunk() error {
	line, err := b.r.ReadString('\n')
	if err != nil {
		return io.ErrUnexpectedEOF
	}
	line, _, _ = strings.Cut(line, ";")
	if b.left, err = strconv.ParseInt(strings.TrimSpace(line), 16, 64); err != nil || b.left > 0 {
		return err
	}
	b.chunked = false
	m := &message{start: "HTTP/1.1 0"}
	for {
		line, err := b.r.ReadString('\n')
		if err != nil {
			return io.ErrUnexpectedEOF
		}
		if line = strings.TrimSpace(line); line == "" {
			break
		}
		m.fields = append(m.fields, line)
	}
	if len(m.fields) > 0 {
		b.saw.note("trailers %q", strings.TrimPrefix(m.normalized(), "0\n"))
	}
	return nil
}

// want reads n bytes.
func (b *bodyReader) want(n int) {
	p := make([]byte, n)
	n, err := io.ReadFull(b, p)
	b.saw.note("body %q %s", p[:n], broke(err))
}

// rest reads the rest.
func (b *bodyReader) rest() {
	p, err := io.ReadAll(b)
	if len(p) > 2000 {
		b.saw.note("body of %d bytes %s", len(p), broke(err))
		return
	}
	b.saw.note("body %q %s", p, broke(err))
}

// broke: however it breaks off, it must not look whole.
func broke(err error) string {
	if nerr, ok := err.(net.Error); ok && nerr.Timeout() {
		return "and then nothing for a long time"
	}
	if err != nil {
		return "broken off"
	}
	return ""
}

package strict

import "bytes"

const (
	// maxField bounds a line with a Content-Length, Transfer-Encoding or chunk size, without what may follow the size. Those
	// that mean something are far shorter.
	maxField = 64

	// maxLength bounds a length and a chunk's size.
	maxLength = 1<<63 - 1
)

// line is one line of a head or between chunks. One that comes in one read is looked at where it is; of others the first
// and the last bytes are kept.
type line struct {
	whole  []byte // while it is looked at, if it came in one read
	length int    // bytes so far

	first [maxField]byte
	last  [10]byte
}

// reset makes it the next line.
func (l *line) reset() { l.whole, l.length = nil, 0 }

// add takes a part of the line.
func (l *line) add(p []byte) {
	if l.length < len(l.first) {
		copy(l.first[l.length:], p)
	}
	l.length += len(p)
	if n := len(p); n < len(l.last) {
		copy(l.last[:], l.last[n:])
		copy(l.last[len(l.last)-n:], p)
	} else {
		copy(l.last[:], p[n-len(l.last):])
	}
}

// finish takes the part that the line ends with.
func (l *line) finish(p []byte) {
	if l.length == 0 {
		l.whole, l.length = p, len(p)
		return
	}
	l.add(p)
}

// start is the beginning of the line: all of it if it is not long.
func (l *line) start() []byte {
	if l.whole != nil {
		return l.whole[:min(len(l.whole), len(l.first))]
	}
	return l.first[:min(l.length, len(l.first))]
}

func (l *line) hasPrefix(s string) bool {
	b := l.start()
	return len(b) >= len(s) && string(b[:len(s)]) == s
}

func (l *line) hasSuffix(s string) bool {
	b := l.last[:]
	if l.whole != nil {
		b = l.whole
	}
	return l.length >= len(s) && string(b[len(b)-len(s):]) == s
}

// long reports whether start is not all of the line.
func (l *line) long() bool { return l.length > len(l.first) }

// ended reports whether the line ends as it must: a LF alone is the end of a line for some parsers and not for others.
func (l *line) ended() bool { return l.hasSuffix("\r\n") }

func (l *line) empty() bool { return l.length == 2 && l.ended() }

// folded reports whether the line goes on with the one before (RFC 9112, section 5.2).
func (l *line) folded() bool {
	c := l.start()[0]
	return c == ' ' || c == '\t'
}

// field is a header field that has to do with where messages end.
type field uint8

const (
	fieldOther field = iota
	fieldLength
	fieldEncoding
	fieldUpgrade
)

// field says which field the line is.
func (l *line) field() field {
	b := l.start()
	switch b[0] | 0x20 {
	case 'c':
		if isNamed(b, "content-length:") {
			return fieldLength
		}
	case 't':
		if isNamed(b, "transfer-encoding:") {
			return fieldEncoding
		}
	case 'u':
		if isNamed(b, "upgrade:") {
			return fieldUpgrade
		}
	}
	return fieldOther
}

// isNamed reports whether b begins with a name, which is in lower case and ends with its colon.
func isNamed(b []byte, name string) bool {
	if len(b) < len(name) || b[len(name)-1] != ':' {
		return false
	}
	for i := range len(name) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != name[i] {
			return false
		}
	}
	return true
}

// number is the value of a field that is one, and nothing else.
func (l *line) number() (n uint64, ok bool) {
	_, value, _ := bytes.Cut(l.start(), []byte(":"))
	value = bytes.Trim(bytes.TrimSuffix(value, []byte("\r\n")), " \t")
	for _, c := range value {
		if c < '0' || c > '9' || n > maxLength/10-1 {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, len(value) > 0 && !l.long()
}

// chunkSize is what a chunk's line says. Between the size and what may follow it there is nothing, not even a space,
// which the RFC tolerates (RFC 9112, section 7.1.1) and parsers do not agree on.
func (l *line) chunkSize() (n uint64, ok bool) {
	for i, c := range l.start() {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		case c == '\r' && l.length == i+2, c == ';':
			return n, i > 0 && n <= maxLength
		default:
			return 0, false
		}
		if i == 16 {
			return 0, false
		}
		n = n<<4 | uint64(c)
	}
	return 0, false
}

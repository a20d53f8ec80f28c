package strict

import "bytes"

// http2Preface is what a client of HTTP/2 with prior knowledge begins with (RFC 9113, section 3.4).
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// state is what the next byte belongs to.
type state uint8

const (
	stStart   state = iota // the request line, or one empty line before it
	stHeader               // a header line
	stBody                 // a body of known length
	stSize                 // the line with a chunk's size
	stData                 // a chunk's data
	stDataCR               // the CR behind it
	stDataLF               // the LF behind that
	stTrailer              // a line behind the last chunk
	stOpen                 // unknown: the request asked for another protocol and may have got it
)

// framing follows the messages of one client. The zero value is at the first of them. It allocates nothing.
type framing struct {
	state   state
	refused bool

	preface int    // bytes of the HTTP/2 preface that have come; -1 once it is something else
	left    uint64 // bytes of the body or chunk that are to come

	// Of the request under way.
	empty    bool // an empty line came before it
	old      bool // not HTTP/1.1
	chunked  bool
	lengths  bool   // it has a Content-Length
	length   uint64 // its value
	switches bool   // it asks for another protocol

	line line // as far as it has come in earlier reads

	// Only in stOpen.
	peeked bool
	peek   [1]byte
}

// follow follows the next bytes and returns how many of them may pass: all, or less if it refused something, whose last
// byte it has made one that net/http refuses, or if what follows may be another protocol.
func (f *framing) follow(p []byte) int {
	if f.preface >= 0 && f.matchPreface(p) {
		return len(p)
	}
	for i := 0; i < len(p); {
		switch f.state {
		case stBody, stData:
			i += f.skip(len(p) - i)
			continue
		case stDataCR, stDataLF:
			if p[i] != "\r\n"[f.state-stDataCR] {
				f.refused = true // net/http sees it, too; nothing behind it matters
				return i + 1
			}
			if f.state == stDataCR {
				f.state = stDataLF
			} else {
				f.state = stSize
			}
			i++
			continue
		case stOpen:
			return i
		}
		n := bytes.IndexByte(p[i:], '\n') + 1
		if n == 0 {
			f.line.add(p[i:])
			return len(p)
		}
		f.line.finish(p[i : i+n])
		i += n
		if !f.next() {
			f.refused = true
			p[i-1] = 0
			return i
		}
		f.line.reset()
	}
	return len(p)
}

// skip takes up to n bytes of a body or a chunk.
func (f *framing) skip(n int) int {
	if f.left > uint64(n) {
		f.left -= uint64(n)
		return n
	}
	n = int(f.left)
	f.left = 0
	if f.state == stBody {
		f.endMessage()
	} else {
		f.state = stDataCR
	}
	return n
}

// matchPreface reports whether the preface of HTTP/2 is complete; bytes of it are followed as others until then.
func (f *framing) matchPreface(p []byte) bool {
	n := min(len(p), len(http2Preface)-f.preface)
	if string(p[:n]) != http2Preface[f.preface:f.preface+n] {
		f.preface = -1
		return false
	}
	f.preface += n
	return f.preface == len(http2Preface)
}

// next judges the line that has come, and says what follows it. It is false if the line must not be.
func (f *framing) next() bool {
	l := &f.line
	if !l.ended() {
		return false
	}
	switch f.state {
	case stStart:
		if l.empty() {
			again := f.empty
			f.empty = true
			return !again
		}
		if l.start()[0] == '\r' {
			return false // behind a POST net/http skips it
		}
		if l.hasPrefix("CONNECT  ") {
			return false // net/http takes nothing for a target
		}
		f.old = !l.hasSuffix("HTTP/1.1\r\n")
		f.switches = l.hasPrefix("CONNECT ")
		f.chunked, f.lengths, f.length = false, false, 0
		f.state = stHeader
	case stHeader:
		if l.empty() {
			f.endHead()
			return true
		}
		return !l.folded() && f.header(l)
	case stSize:
		n, ok := l.chunkSize()
		if f.left, f.state = n, stData; n == 0 {
			f.state = stTrailer
		}
		return ok
	case stTrailer:
		if l.empty() {
			f.endMessage()
			return true
		}
		return !l.folded()
	}
	return true
}

// header takes note of what says where the message ends. It is false if two fields, or a field and the version, say
// something that can be understood in two ways (RFC 9112, section 6).
func (f *framing) header(l *line) bool {
	switch l.field() {
	case fieldLength:
		n, ok := l.number()
		if f.lengths || f.chunked || !ok {
			return false
		}
		f.lengths, f.length = true, n
	case fieldEncoding:
		// Of what is not chunked net/http says that it does not know it, and closes the connection.
		if f.lengths || f.chunked || f.old || l.long() {
			return false
		}
		f.chunked = true
	case fieldUpgrade:
		f.switches = true
	}
	return true
}

// endHead says what follows the head.
func (f *framing) endHead() {
	f.empty = false
	switch {
	case f.chunked:
		f.state = stSize
	case f.length > 0:
		f.state, f.left = stBody, f.length
	default:
		f.endMessage()
	}
}

// endMessage says what follows the message.
func (f *framing) endMessage() {
	f.empty = false
	f.state = stStart
	if f.switches {
		f.state = stOpen
	}
}

package inspect

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"net/textproto"
	"strings"
	"time"
)

// parser takes apart bytes that pass, in pieces as they come. It keeps none of
// them, and has no state that grows with them. One goroutine feeds it.
type parser interface{ feed(p []byte) }

// messages is where the messages of one direction go.
type messages struct {
	s        *store
	x        *exchange
	response bool // from the service to the client
	current  *message
}

// begin starts a message.
func (o *messages) begin(kind string, size int64, compressed bool) {
	m := &message{at: time.Now(), out: o.response, kind: kind, size: size, compressed: compressed}
	o.current = m
	o.s.change(o.x, func() int { return o.s.begin(o.x, m) })
}

// add is more of it.
func (o *messages) add(p []byte) {
	if len(p) > 0 {
		o.s.change(o.x, func() int { return o.s.extend(o.x, o.current, p) })
	}
}

// raw keeps bytes that are no messages, as a body.
func (o *messages) raw(p []byte) {
	c := &o.x.request
	if o.response {
		c = &o.x.response
	}
	o.s.change(o.x, func() int { return o.s.body(c, p) })
}

// lengthPrefix collects a header whose length shows only while it is read.
type lengthPrefix struct {
	buf [14]byte
	n   int
}

// fill takes up to want bytes of p and reports whether they are all there.
func (h *lengthPrefix) fill(p []byte, want int) (rest []byte, ok bool) {
	n := copy(h.buf[h.n:want], p)
	h.n += n
	return p[n:], h.n == want
}

// socketParser reads the frames of one direction of a WebSocket (RFC 6455,
// section 5.2). Bytes that are none end it.
type socketParser struct {
	out    messages
	head   lengthPrefix
	left   uint64 // of the payload
	key    [4]byte
	masked bool
	at     uint64 // in the payload, for the mask
	broken bool
}

// opcodes are the kinds of frames.
var opcodes = map[byte]string{0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}

func (s *socketParser) feed(p []byte) {
	for len(p) > 0 && !s.broken {
		if s.left > 0 {
			n := min(uint64(len(p)), s.left)
			s.payload(p[:n])
			p, s.left = p[n:], s.left-n
			continue
		}
		p = s.header(p)
	}
}

// header reads the header of a frame, and begins the frame when it is whole.
func (s *socketParser) header(p []byte) (rest []byte) {
	for {
		want := s.headerLength()
		if s.head.n == want {
			s.begin()
			return p
		}
		var ok bool
		if p, ok = s.head.fill(p, want); !ok {
			return nil
		}
	}
}

// headerLength is how long the header is, as far as that is known.
func (s *socketParser) headerLength() int {
	if s.head.n < 2 {
		return 2
	}
	n := 2
	switch s.head.buf[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if s.head.buf[1]&0x80 != 0 {
		n += 4
	}
	return n
}

func (s *socketParser) begin() {
	b := s.head.buf[:s.head.n]
	kind, known := opcodes[b[0]&0x0f]
	size := uint64(b[1] & 0x7f)
	key := b[2:]
	switch size {
	case 126:
		size, key = uint64(binary.BigEndian.Uint16(key)), key[2:]
	case 127:
		size, key = binary.BigEndian.Uint64(key), key[8:]
	}
	if !known || b[0]&0x30 != 0 || size>>63 != 0 {
		s.broken = true
		s.out.begin("no frame of a WebSocket", 0, false)
		return
	}
	s.masked = b[1]&0x80 != 0
	copy(s.key[:], key)
	s.left, s.at, s.head.n = size, 0, 0
	s.out.begin(kind, int64(size), b[0]&0x40 != 0)
}

// payload is a piece of a frame; it is unmasked in a copy.
func (s *socketParser) payload(p []byte) {
	at := s.at
	s.at += uint64(len(p))
	if s.masked {
		p = bytes.Clone(p[:min(len(p), s.out.s.maxBody)])
		for i := range p {
			p[i] ^= s.key[(at+uint64(i))%4]
		}
	}
	s.out.add(p)
}

// switchParser reads the head of a 101 answer, and what follows as its protocol.
type switchParser struct {
	w    *recorder
	out  messages
	head []byte
	next parser // once the head has ended
}

// maxSwitchHead bounds the head of a 101 answer; it is as long as one of ours.
const maxSwitchHead = 64 << 10

func (s *switchParser) feed(p []byte) {
	if s.next != nil {
		s.next.feed(p)
		return
	}
	s.head = append(s.head, p...)
	head, rest, ok := bytes.Cut(s.head, []byte("\r\n\r\n"))
	if !ok && len(s.head) < maxSwitchHead {
		return
	}
	status, h := switchHead(string(head))
	s.next = &rawParser{out: s.out}
	if status == http.StatusSwitchingProtocols && strings.EqualFold(h.Get("Upgrade"), "websocket") {
		s.next = &socketParser{out: s.out}
	}
	s.w.head(status, h)
	s.w.s.change(s.w.x, func() int {
		s.w.x.kind = kindUpgrade
		if _, ok := s.next.(*socketParser); ok {
			s.w.x.kind = kindWebSocket
		}
		return 0
	})
	s.head = nil
	s.next.feed(bytes.Clone(rest))
}

// switchHead reads the status and the fields of an answer's head.
func switchHead(head string) (status int, h http.Header) {
	h = make(http.Header)
	line, rest, _ := strings.Cut(head, "\r\n")
	if strings.HasPrefix(line, "HTTP/1.1 101") {
		status = http.StatusSwitchingProtocols
	}
	for field := range strings.SplitSeq(rest, "\r\n") {
		if name, value, ok := strings.Cut(field, ":"); ok {
			h.Add(textproto.TrimString(name), textproto.TrimString(value))
		}
	}
	return status, h
}

// rawParser is for protocols that are not known.
type rawParser struct{ out messages }

func (r *rawParser) feed(p []byte) {
	if len(p) > 0 {
		r.out.raw(p)
	}
}

package inspect

import (
	"encoding/binary"
	"net/http"
	"strings"
)

// isGRPC reports whether a message is one of gRPC, or of gRPC-Web in its binary
// form, which has the same frames.
func isGRPC(h http.Header) bool {
	media := mediaType(h.Get("Content-Type"))
	return media == "application/grpc" || strings.HasPrefix(media, "application/grpc+") ||
		media == "application/grpc-web" || strings.HasPrefix(media, "application/grpc-web+")
}

// mediaType is a Content-Type without its parameters.
func mediaType(v string) string {
	v, _, _ = strings.Cut(v, ";")
	return strings.ToLower(strings.TrimSpace(v))
}

// grpcParser reads the messages of one direction of a call: a byte that says
// whether it is compressed, four for the length, and the message.
type grpcParser struct {
	out  messages
	head lengthPrefix
	left uint32
}

func (g *grpcParser) feed(p []byte) {
	for len(p) > 0 {
		if g.left > 0 {
			n := min(uint64(len(p)), uint64(g.left))
			g.out.add(p[:n])
			p, g.left = p[n:], g.left-uint32(n)
			continue
		}
		var ok bool
		if p, ok = g.head.fill(p, 5); !ok {
			return
		}
		g.head.n = 0
		g.left = binary.BigEndian.Uint32(g.head.buf[1:5])
		kind := "message"
		if g.head.buf[0]&0x80 != 0 {
			kind = "trailers" // of gRPC-Web
		}
		g.out.begin(kind, int64(g.left), g.head.buf[0]&1 != 0)
	}
}

// eventParser reads server-sent events: lines up to an empty one.
type eventParser struct {
	out   messages
	event bool // the current event has a line
	line  bool // the current line has a byte
	cr    bool // the last byte was a CR
}

func (e *eventParser) feed(p []byte) {
	begin := 0 // of what was not handed on yet
	for i, b := range p {
		lf := b == '\n' && e.cr // belongs to the CR before it
		e.cr = b == '\r'
		switch {
		case lf:
		case b != '\n' && b != '\r':
			if !e.event {
				e.event = true
				e.out.begin("event", 0, false)
				begin = i
			}
			e.line = true
		case e.line:
			e.line = false
		case e.event: // the empty line
			e.piece(p[begin:i])
			e.event = false
		}
	}
	if e.event {
		e.piece(p[begin:])
	}
}

// piece is a part of the current event.
func (e *eventParser) piece(p []byte) {
	if len(p) == 0 {
		return
	}
	e.out.s.change(e.out.x, func() int {
		e.out.current.size += int64(len(p))
		return 0
	})
	e.out.add(p)
}

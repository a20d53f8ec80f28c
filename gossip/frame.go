package gossip

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"piko/tunnel"
)

// The stream of a node's log is a sequence of frames:
//
//	uvarint  length of what follows, at most 64 KiB
//	byte     kind
//	begin:     uvarint length, epoch; uvarint seq; uvarint number of entries, about
//	entries:   entry ...
//	end:       uvarint seq
//	changes:   uvarint seq before the first; entry ..., each the next change
//	heartbeat: uvarint seq; 8 bytes digest; uvarint number of entries
//
// An entry is: uvarint length, endpoint as tunnel.JoinName has it; byte class of its
// weight, 0 for gone.
const (
	frameBegin frameKind = 1 + iota
	frameEntries
	frameEnd
	frameChanges
	frameHeartbeat
)

type frameKind byte

const (
	maxFrame = 64 << 10
	maxEpoch = 128
)

// frameWriter writes one frame. The length is filled in at its end, in three bytes:
// a uvarint may have more than it needs.
type frameWriter struct {
	b     []byte
	start int
}

const lengthBytes = 3 // 21 bits

func beginFrame(b []byte, kind frameKind) frameWriter {
	return frameWriter{append(b, 0, 0, 0, byte(kind)), len(b)}
}

func (f *frameWriter) number(n uint64) { f.b = binary.AppendUvarint(f.b, n) }

func (f *frameWriter) text(s string) {
	f.number(uint64(len(s)))
	f.b = append(f.b, s...)
}

func (f *frameWriter) entry(e entry) {
	f.text(e.endpoint)
	f.b = append(f.b, byte(e.class))
}

func (f *frameWriter) size() int { return len(f.b) - f.start }

func (f *frameWriter) end() []byte {
	n := f.size() - lengthBytes
	f.b[f.start] = byte(n) | 0x80
	f.b[f.start+1] = byte(n>>7) | 0x80
	f.b[f.start+2] = byte(n >> 14)
	return f.b
}

func appendBegin(b []byte, epoch string, seq uint64, count int) []byte {
	f := beginFrame(b, frameBegin)
	f.text(epoch)
	f.number(seq)
	f.number(uint64(count))
	return f.end()
}

func appendEnd(b []byte, seq uint64) []byte {
	f := beginFrame(b, frameEnd)
	f.number(seq)
	return f.end()
}

func appendHeartbeat(b []byte, h head) []byte {
	f := beginFrame(b, frameHeartbeat)
	f.number(h.seq)
	f.b = binary.BigEndian.AppendUint64(f.b, uint64(h.digest))
	f.number(h.count)
	return f.end()
}

// appendHead appends what parseHead reads: uvarint length and epoch, uvarint seq,
// 8 bytes digest, uvarint count, uvarint upstreams.
func appendHead(b []byte, h head) []byte {
	b = binary.AppendUvarint(b, uint64(len(h.epoch)))
	b = append(b, h.epoch...)
	b = binary.AppendUvarint(b, h.seq)
	b = binary.BigEndian.AppendUint64(b, uint64(h.digest))
	b = binary.AppendUvarint(b, h.count)
	return binary.AppendUvarint(b, h.upstreams)
}

func parseHead(b []byte) (head, error) {
	p := parser{b: b}
	h := head{epoch: p.text(maxEpoch), seq: p.number(), digest: p.digest(), count: p.number(), upstreams: p.number()}
	return h, p.done()
}

// frame is one that was read. Which fields have a meaning depends on the kind.
type frame struct {
	kind    frameKind
	epoch   string
	seq     uint64
	count   uint64
	digest  digest
	entries []entry
}

// frameReader reads frames, and errors for whatever is none. It belongs to one
// goroutine.
type frameReader struct {
	r   *bufio.Reader
	buf []byte
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 16<<10)}
}

// next reads a frame. What it returns is not changed later.
func (r *frameReader) next() (frame, error) {
	n, err := binary.ReadUvarint(r.r)
	if err != nil {
		return frame{}, fmt.Errorf("read frame: %w", err)
	}
	if n == 0 || n > maxFrame {
		return frame{}, violation("read frame: length of %d bytes, want 1 to %d", n, maxFrame)
	}
	if uint64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, fmt.Errorf("read frame: %w", err)
	}
	return parseFrame(r.buf)
}

// parseFrame reads what is behind the length.
func parseFrame(b []byte) (frame, error) {
	f := frame{kind: frameKind(b[0])}
	p := parser{b: b[1:]}
	switch f.kind {
	case frameBegin:
		f.epoch, f.seq, f.count = p.text(maxEpoch), p.number(), p.number()
	case frameEntries:
		f.entries = p.entries()
	case frameEnd:
		f.seq = p.number()
	case frameChanges:
		f.seq, f.entries = p.number(), p.entries()
	case frameHeartbeat:
		f.seq, f.digest, f.count = p.number(), p.digest(), p.number()
	default:
		return f, violation("parse frame: unknown kind %d", f.kind)
	}
	if err := p.done(); err != nil {
		return f, violation("%w", err)
	}
	return f, nil
}

// parser takes apart a frame or a head. After an error all is zero.
type parser struct {
	b   []byte
	err error
}

var errShort = errors.New("parse frame: it is cut short")

func (p *parser) number() uint64 {
	n, size := binary.Uvarint(p.b)
	if size <= 0 {
		p.fail(errShort)
		return 0
	}
	p.b = p.b[size:]
	return n
}

func (p *parser) bytes(n uint64) []byte {
	if n > uint64(len(p.b)) {
		p.fail(errShort)
		return nil
	}
	taken := p.b[:n]
	p.b = p.b[n:]
	return taken
}

func (p *parser) text(limit uint64) string {
	n := p.number()
	if n > limit {
		p.fail(fmt.Errorf("parse frame: name of %d bytes, want at most %d", n, limit))
	}
	return string(p.bytes(n))
}

func (p *parser) digest() digest {
	if b := p.bytes(8); len(b) == 8 {
		return digest(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (p *parser) entries() []entry {
	var entries []entry
	for len(p.b) > 0 {
		endpoint := p.text(tunnel.MaxName)
		c := p.bytes(1)
		if p.err != nil {
			return nil
		}
		if canonical, err := tunnel.ParseName(endpoint); err != nil || canonical != endpoint {
			p.fail(fmt.Errorf("parse frame: %.80q is no endpoint in canonical form", endpoint))
			return nil
		}
		if class(c[0]) > maxClass {
			p.fail(fmt.Errorf("parse frame: unknown class of weight %d", c[0]))
			return nil
		}
		entries = append(entries, entry{endpoint, class(c[0])})
	}
	return entries
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
	p.b = nil
}

// done reports what was wrong; bytes that are left over are.
func (p *parser) done() error {
	if p.err == nil && len(p.b) > 0 {
		p.err = fmt.Errorf("parse frame: %d bytes too many", len(p.b))
	}
	return p.err
}

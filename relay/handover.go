package relay

import (
	"io"
)

// offering is a source that offers what arrives while nobody but ReadOr waits for it, in the goroutine in which it
// arrives. So a message can reach its destination without that the goroutine is woken which copies: as it is with the
// streams of a tunnel.
type offering interface {
	// ReadOr is Read for what take has left. Calls of take, which must not wait, are over when it returns.
	ReadOr(p []byte, take func(p []byte) (n int)) (int, error)
}

// trying is a destination that says how much it takes without waiting.
type trying interface {
	// TryWrite returns how much of p was written, or will be; the next Write says what went wrong.
	TryWrite(p []byte) (n int)
}

// pumpAtOnce is pump, but what src can offer goes to dst at once as far as dst takes it.
func pumpAtOnce(dst io.Writer, src io.Reader) (n int64, readErr, writeErr error) {
	dst = socketWriter(dst)
	from, ok := src.(offering)
	if !ok {
		return pump(dst, src)
	}
	to, ok := dst.(trying)
	if !ok {
		return pump(dst, src)
	}
	h := &handover{from: from, to: to}
	h.take = h.pass
	n, readErr, writeErr = pumpPieces(dst, &growing{src: h, buf: make([]byte, idleBuffer)})
	return n + h.n, readErr, writeErr
}

// handover reads what could not be passed on.
type handover struct {
	// Static after construction.
	from offering
	to   trying
	take func(p []byte) int // pass; made once, since it costs an allocation

	n int64 // bytes passed; belongs to take during Read
}

func (h *handover) Read(p []byte) (int, error) { return h.from.ReadOr(p, h.take) }

func (h *handover) pass(p []byte) int {
	n := h.to.TryWrite(p)
	h.n += int64(n)
	return n
}

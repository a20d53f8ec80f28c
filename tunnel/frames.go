package tunnel

import "encoding/binary"

// The wire of the mux is yamux': each frame is a header of twelve bytes, all
// big endian, and for data frames a body of as many bytes as the header says.
//
//	0        1        2                 4                                   8                                   12
//	+--------+--------+-----------------+-----------------------------------+-----------------------------------+
//	| version| type   | flags           | stream id                         | length                            |
//	+--------+--------+-----------------+-----------------------------------+-----------------------------------+
//
// Stream ids are odd for streams that the upstream opened (yamux' client), even
// for those of the node (its server), and 0 for the session. A stream may carry
// 256 KiB each way until a window update says more. SYN and ACK may say more
// too: they travel on window updates, whose length is added to the window.
const (
	muxHeader  = 12
	muxVersion = 0
)

// Types of frames, and what their length field is.
const (
	kindData   = 0 // bytes that follow
	kindWindow = 1 // bytes that may be sent on top of what was allowed
	kindPing   = 2 // opaque, comes back in the answer
	kindGoAway = 3 // one of the codes below
)

// Flags. On a ping SYN marks the question and ACK the answer.
const (
	flagSYN = 1 << 0 // opens the stream
	flagACK = 1 << 1 // accepts it
	flagFIN = 1 << 2 // nothing follows from this side
	flagRST = 1 << 3 // the stream is gone, both ways
)

// Codes of GoAway.
const (
	goAwayNormal   = 0 // open no more streams
	goAwayProtocol = 1 // you broke the protocol
	goAwayInternal = 2 // we are broken; v0.9.0 agents reconnect after it
)

// rstOverloaded is the length of a window update that resets a stream because too
// many bytes wait for readers. It is ours.
const rstOverloaded = 1

const (
	// initialWindow is what either side may send on a new stream before it
	// hears anything.
	initialWindow = 256 << 10

	// maxBody bounds the body of the frames that we send, so that streams take
	// turns. Peers send up to a whole window in one.
	maxBody = 32 << 10
)

// muxFrame is a decoded header.
type muxFrame struct {
	version uint8
	kind    uint8
	flags   uint16
	id      uint32
	length  uint32
}

// decodeMuxFrame reads the header at the start of b.
func decodeMuxFrame(b []byte) muxFrame {
	_ = b[muxHeader-1]
	return muxFrame{
		version: b[0],
		kind:    b[1],
		flags:   binary.BigEndian.Uint16(b[2:]),
		id:      binary.BigEndian.Uint32(b[4:]),
		length:  binary.BigEndian.Uint32(b[8:]),
	}
}

// append appends the header's twelve bytes to b.
func (f muxFrame) append(b []byte) []byte {
	b = append(b, f.version, f.kind)
	b = binary.BigEndian.AppendUint16(b, f.flags)
	b = binary.BigEndian.AppendUint32(b, f.id)
	return binary.BigEndian.AppendUint32(b, f.length)
}

func (f muxFrame) has(flag uint16) bool { return f.flags&flag != 0 }

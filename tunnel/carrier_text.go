package tunnel

import "errors"

// eofPayload is the text message that ends a direction of a Conn.
var eofPayload = []byte("eof")

// errEOFMessage is what a carrier's Read returns once for that message. Reading
// may go on, for what is not data.
var errEOFMessage = errors.New("end of data")

// checkText judges a text frame by its header: only the end of a Conn's data is
// one, and comes once and whole.
func (c *carrier) checkText(h frameHeader) error {
	f := &c.in
	switch {
	case !f.ends:
		return &ProtocolError{Reason: "a text message came where only binary ones are taken", CloseCode: closeUnsupported}
	case f.fragmented:
		return violation("a message began within another one")
	case f.ended:
		return violation("data came behind its end")
	case !h.fin || h.length != uint64(len(eofPayload)):
		return errBadText
	}
	return nil
}

// errBadText is a text message that means nothing.
var errBadText = &ProtocolError{Reason: "a text message is not the end of data", CloseCode: closeUnsupported}

// endOfData takes the payload of a frame that checkText has let pass.
func (c *carrier) endOfData(h frameHeader, payload []byte) error {
	maskBytes(payload, h.key)
	if string(payload) != string(eofPayload) {
		return errBadText
	}
	c.in.ended = true
	return errEOFMessage
}

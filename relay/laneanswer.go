package relay

import (
	"net/http"
)

// laneAnswer is what the head of a response says.
type laneAnswer struct {
	status    int
	framing   framing
	length    int64
	keepAlive bool
}

// scan checks the head of a response to a request of the method, and appends it to out as it is sent on, without its end.
// ok is false for what needs more than a look at each line, which is not to say that it is wrong: parse is for that.
// drop is a field that is not sent on, and f, which may be nil, is asked about the others.
func (a *laneAnswer) scan(out, raw []byte, method, drop string, f LaneFilter) (_ []byte, ok bool) {
	line, rest, ok := cutCRLF(raw)
	if !ok || len(line) < len("HTTP/1.1 200 ") || string(line[:9]) != "HTTP/1.1 " || line[12] != ' ' {
		return out, false
	}
	status := line[9:]
	if !digit(status[0]) || !digit(status[1]) || !digit(status[2]) || status[0] < '2' {
		return out, false
	}
	for _, c := range status {
		if c < ' ' && c != '\t' || c == 0x7f {
			return out, false
		}
	}
	*a = laneAnswer{
		status: int(status[0]-'0')*100 + int(status[1]-'0')*10 + int(status[2]-'0'),
		length: unknownLength, keepAlive: true,
	}
	out = append(append(out, line...), "\r\n"...)
	chunked := false
	for lines := 0; ; lines++ {
		if line, rest, ok = cutCRLF(rest); !ok || lines > maxFields {
			return out, false
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := cutField(line)
		if !ok {
			return out, false
		}
		switch fieldOf(name) {
		case fieldLength:
			if a.length != unknownLength {
				return out, false
			}
			if a.length, ok = plainLength(value); !ok {
				return out, false
			}
		case fieldCoding:
			if chunked || !equalFold(value, "chunked") {
				return out, false
			}
			chunked = true
			continue
		case fieldConnection:
			switch {
			case equalFold(value, "close"):
				a.keepAlive = false
			case !equalFold(value, "keep-alive"):
				return out, false
			}
			continue
		case fieldDropped, fieldTE:
			continue
		case fieldTrailer, fieldSlow:
			return out, false
		default:
			if keep, ok := a.field(name, value, drop, f); !ok {
				return out, false
			} else if !keep {
				continue
			}
		}
		out = appendField(out, name, value)
	}
	if len(rest) > 0 || chunked && a.length != unknownLength {
		return out, false
	}
	return out, a.frame(method, chunked)
}

// field says whether a field is sent on that means nothing to the lane.
func (a *laneAnswer) field(name, value []byte, drop string, f LaneFilter) (keep, ok bool) {
	switch {
	case len(name) == len(drop) && foldedEqual(name, drop):
		return false, true
	case f != nil:
		return f.ResponseField(a.status, name, value)
	}
	return true, true
}

// foldedEqual compares names of the same length, whatever the case of both.
func foldedEqual(a []byte, b string) bool {
	for i, c := range a {
		d := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if 'A' <= d && d <= 'Z' {
			d |= 0x20
		}
		if c != d {
			return false
		}
	}
	return true
}

// frame finds out how the body ends, as head.frame does. It is false if fields have to be taken out for that.
func (a *laneAnswer) frame(method string, chunked bool) bool {
	switch {
	case a.status == http.StatusNoContent:
		a.framing = noBody
		return a.length == unknownLength
	case method == http.MethodHead || a.status == http.StatusNotModified:
		a.framing = noBody
	case chunked:
		a.framing = byChunks
	case a.length == 0:
		a.framing = noBody
	case a.length > 0:
		a.framing = byLength
	default:
		a.framing = untilClose
	}
	return true
}

// parse does what scan does for every head that RoundTrip takes, at its cost. A 1xx head is sent on with its end.
func (a *laneAnswer) parse(out, raw []byte, method, drop string, f LaneFilter) ([]byte, error) {
	h, err := parseHead(raw, method)
	if err != nil {
		return out, err
	}
	*a = laneAnswer{status: h.status, framing: h.framing, length: h.length, keepAlive: h.keepAlive}
	if drop != "" {
		delete(h.header, drop)
	}
	if f != nil {
		f.ResponseHeader(h.status, h.header)
	}
	header := make(http.Header, len(h.header)+1)
	copyHeader(header, h.header)
	announceTrailers(header, h.trailer)
	out = append(append(append(out, "HTTP/1.1 "...), h.text...), "\r\n"...)
	if len(h.text) == 3 {
		out = append(out[:len(out)-2], " \r\n"...)
	}
	if out, err = appendFields(out, header, func(string) bool { return false }); err != nil {
		return out, malformed("header: %v", err)
	}
	if h.status < 200 {
		out = append(out, "\r\n"...)
	}
	return out, nil
}

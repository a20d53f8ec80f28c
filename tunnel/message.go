package tunnel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// The control stream carries JSON objects, one a line, both ways. Types that
// we do not know are skipped, so that either side may learn new ones first.
const (
	typeDrain   = "drain"
	typeDrained = "drained"
	typeCluster = "cluster"
	typeWeight  = "weight"
	typeToken   = "token"

	maxControlLine   = 4 << 10 // without the newline
	maxTokenLine     = MaxToken + 64
	maxReason        = 200
	maxReconnectTime = 10 * time.Minute
	maxWeight        = 100
)

// MaxToken is the longest token in bytes that SendToken sends and a node takes.
const MaxToken = 8 << 10

// tokenStart is how a line begins that may be longer than the others are.
const tokenStart = `{"type":"token",`

// message is a line on the control stream.
type message struct {
	Type            string `json:"type"`
	Reason          string `json:"reason,omitempty"`              // drain
	ReconnectWithin int64  `json:"reconnect_within_ms,omitempty"` // drain
	Last            uint32 `json:"last_stream_id,omitempty"`      // drained
	Nodes           int    `json:"nodes,omitempty"`               // cluster
	Weight          *int   `json:"weight,omitempty"`              // weight
	Token           string `json:"token,omitempty"`               // token
}

func drainMessage(d DrainMessage) message {
	return message{
		Type:            typeDrain,
		Reason:          d.Reason[:min(len(d.Reason), maxReason)],
		ReconnectWithin: clampDuration(d.ReconnectWithin).Milliseconds(),
	}
}

// drain is the content of a drain message, within bounds whatever the peer said.
func (m message) drain() DrainMessage {
	within := min(max(m.ReconnectWithin, 0), maxReconnectTime.Milliseconds())
	return DrainMessage{
		Reason:          m.Reason[:min(len(m.Reason), maxReason)],
		ReconnectWithin: time.Duration(within) * time.Millisecond,
	}
}

func clampDuration(d time.Duration) time.Duration { return min(max(d, 0), maxReconnectTime) }

// appendMessage appends m's line.
func appendMessage(b []byte, m message) []byte {
	line, err := json.Marshal(m)
	if err != nil { // a message holds nothing that has no JSON
		panic(fmt.Sprintf("encode control message: %v", err))
	}
	return append(append(b, line...), '\n')
}

// parseMessage reads a line without its end.
func parseMessage(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, errBadMessage
	}
	if len(line) > maxControlLine && m.Type != typeToken {
		return message{}, errLineTooLong // it began as a token and became something else
	}
	return m, nil
}

// lineReader cuts a stream into lines of bounded length. It holds a buffer only
// while a line is incomplete.
type lineReader struct {
	tokens bool // may be longer than other lines
	part   []byte
}

// What a peer can do wrong on the control stream.
var (
	errLineTooLong = &ProtocolError{Reason: "control message is too long"}
	errBadMessage  = &ProtocolError{Reason: "control message is not a JSON object"}
)

// feed calls line for every line that b completes; an error of line's ends it.
// Empty lines are skipped.
func (r *lineReader) feed(b []byte, line func([]byte) error) error {
	for len(b) > 0 {
		head, tail, ended := bytes.Cut(b, []byte{'\n'})
		if n := len(r.part) + len(head); n > maxControlLine && (n > maxTokenLine || !r.tokens || !r.isToken(head)) {
			return errLineTooLong
		}
		if !ended {
			r.part = append(r.part, head...)
			return nil
		}
		b = tail
		if len(r.part) > 0 {
			head = append(r.part, head...)
			r.part = nil
		}
		if len(head) == 0 {
			continue
		}
		if err := line(head); err != nil {
			return err
		}
	}
	return nil
}

// isToken says whether the line of which head is the newest part is a token.
func (r *lineReader) isToken(head []byte) bool {
	n := min(len(r.part), len(tokenStart))
	return string(r.part[:n]) == tokenStart[:n] && bytes.HasPrefix(head, []byte(tokenStart[n:]))
}

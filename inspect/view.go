package inspect

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// summary is an exchange in the list.
type summary struct {
	ID            uint64    `json:"id"`
	Version       uint64    `json:"version"`
	Time          time.Time `json:"time"`
	Kind          string    `json:"kind"`
	Endpoint      string    `json:"endpoint"`
	Service       string    `json:"service"`
	Method        string    `json:"method"`
	Path          string    `json:"path"` // with the query
	Host          string    `json:"host"`
	Client        string    `json:"client"`
	Status        int       `json:"status"` // 0: none yet
	Done          bool      `json:"done"`
	Failure       string    `json:"failure,omitempty"`
	Duration      float64   `json:"duration"`   // seconds, so far if it is not done
	FirstByte     float64   `json:"first_byte"` // seconds until the head of the answer
	RequestBytes  int64     `json:"request_bytes"`
	ResponseBytes int64     `json:"response_bytes"`
	MessagesIn    int       `json:"messages_in"`
	MessagesOut   int       `json:"messages_out"`
	ReplayOf      uint64    `json:"replay_of,omitempty"`
	Edited        bool      `json:"edited,omitempty"`
}

// detail is all of an exchange.
type detail struct {
	summary
	Proto    string      `json:"proto"`
	Request  messageView `json:"request"`
	Response messageView `json:"response"`
	Messages []frameView `json:"messages"`
	Dropped  int         `json:"messages_dropped"`
	Replay   string      `json:"replay"` // why it cannot be sent again as it is; empty: it can
	Trailers [][2]string `json:"trailers"`
}

// messageView is a request or an answer.
type messageView struct {
	Headers [][2]string `json:"headers"`
	Body    bodyView    `json:"body"`
}

// bodyView is a body as it is shown: text without secrets, or bytes.
type bodyView struct {
	Size      int64  `json:"size"`      // bytes that have passed
	Kept      int    `json:"kept"`      // bytes of it that are kept
	Media     string `json:"media"`     // without parameters
	Decoded   string `json:"decoded"`   // the content coding that was undone
	Undecoded string `json:"undecoded"` // one that could not be
	Text      string `json:"text,omitempty"`
	Base64    string `json:"base64,omitempty"`
}

// frameView is a message of a WebSocket, of gRPC or of server-sent events.
type frameView struct {
	Time       time.Time `json:"time"`
	Direction  string    `json:"direction"` // in: from the client; out
	Kind       string    `json:"kind"`
	Size       int64     `json:"size"`
	Kept       int       `json:"kept"`
	Compressed bool      `json:"compressed,omitempty"`
	Text       string    `json:"text,omitempty"`
	Base64     string    `json:"base64,omitempty"`
}

// summarize is x in the list; x may be a snapshot, or the caller holds the lock.
func summarize(x *exchange) summary {
	took := x.took
	if !x.done {
		took = time.Since(x.start)
	}
	return summary{
		ID: x.id, Version: x.version, Time: x.start.UTC(), Kind: x.kind,
		Endpoint: x.to.endpoint, Service: x.to.service,
		Method: x.method, Path: x.shownTarget, Host: x.host, Client: x.client,
		Status: x.status, Done: x.done, Failure: x.failure,
		Duration: took.Seconds(), FirstByte: x.firstByte.Seconds(),
		RequestBytes: x.request.size, ResponseBytes: x.response.size,
		MessagesIn: x.in, MessagesOut: x.out, ReplayOf: x.replayOf, Edited: x.edited,
	}
}

// detail is x for the page. x is a snapshot.
func (i *Inspector) detail(x *exchange) detail {
	d := detail{
		summary: summarize(x), Proto: x.proto,
		Request:  messageView{i.headers(x.header), i.body(&x.request, x.header)},
		Response: messageView{i.headers(x.answer), i.body(&x.response, x.answer)},
		Messages: make([]frameView, 0, len(x.messages)),
		Dropped:  x.in + x.out - len(x.messages),
		Trailers: i.headers(x.trailer),
	}
	if err := replayable(x); err != nil {
		d.Replay = err.Error()
	}
	for _, m := range x.messages {
		v := frameView{Time: m.at.UTC(), Direction: "in", Kind: m.kind, Size: m.size, Kept: len(m.data), Compressed: m.compressed}
		if m.out {
			v.Direction = "out"
		}
		v.Text, v.Base64 = i.shown(m.data)
		if m.kind == "close" && len(m.data) >= 2 { // RFC 6455, section 5.5.1
			reason, _ := asText(m.data[2:])
			v.Text, v.Base64 = strings.TrimSpace(fmt.Sprint(binary.BigEndian.Uint16(m.data), " ", reason)), ""
		}
		d.Messages = append(d.Messages, v)
	}
	return d
}

// headers lists a header by name.
func (i *Inspector) headers(h http.Header) [][2]string {
	list := [][2]string{}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, value := range h[name] {
			if !i.cfg.ShowSecrets {
				value = redactHeader(name, value)
			}
			list = append(list, [2]string{name, value})
		}
	}
	return list
}

// body shows a body, decoded where that is possible.
func (i *Inspector) body(c *capture, h http.Header) bodyView {
	v := bodyView{Size: c.size, Kept: len(c.data), Media: mediaType(h.Get("Content-Type"))}
	data, coding, ok := decode(c.data, h.Get("Content-Encoding"))
	if ok {
		v.Decoded = coding
	} else {
		v.Undecoded = coding
	}
	v.Text, v.Base64 = i.shown(data)
	return v
}

// shown is text without secrets, or the bytes if they are no text.
func (i *Inspector) shown(data []byte) (text, b64 string) {
	if len(data) == 0 {
		return "", ""
	}
	t, ok := asText(data)
	if !ok {
		return "", base64.StdEncoding.EncodeToString(data)
	}
	if !i.cfg.ShowSecrets {
		t = redactText(t)
	}
	return t, ""
}

// asText is data as text, if it is; the last character may have been cut.
func asText(data []byte) (string, bool) {
	for cut := 0; cut < utf8.UTFMax && cut < len(data); cut++ {
		if t := data[:len(data)-cut]; utf8.Valid(t) {
			return string(t), bytes.IndexByte(t, 0) < 0
		}
	}
	return "", false
}

// maxDecoded bounds what a body that was compressed may become, in bytes.
const maxDecoded = 2 << 20

// decode undoes a content coding, as far as the data goes and within a bound. It
// says which one it was, and whether it is undone.
func decode(data []byte, coding string) (out []byte, name string, ok bool) {
	name = strings.ToLower(strings.TrimSpace(coding))
	if len(data) == 0 {
		return data, "", true
	}
	var r io.ReadCloser
	var err error
	switch name {
	case "", "identity":
		return data, "", true
	case "gzip", "x-gzip":
		r, err = gzip.NewReader(bytes.NewReader(data))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(data))
	default:
		return data, name, false
	}
	if err != nil {
		return data, name, false
	}
	// An error is where the data was cut off: what came before it is good.
	out, _ = io.ReadAll(io.LimitReader(r, maxDecoded))
	return out, name, true
}

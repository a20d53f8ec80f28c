package inspect

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// frame is a frame of a WebSocket.
func frame(first byte, masked bool, payload string) []byte {
	b := []byte{first, 0}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	p := []byte(payload)
	if masked {
		b[1] |= 0x80
		key := []byte{1, 2, 3, 4}
		b = append(b, key...)
		for i := range p {
			p[i] ^= key[i%4]
		}
	}
	return append(b, p...)
}

// call is a message of gRPC.
func call(flag byte, payload string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(payload))), payload...)
}

// parsed feeds bytes to a parser in pieces of a size, and says what it found.
func parsed(data []byte, piece int, make func(messages) parser) []string {
	s := newStore(1<<20, 4<<10)
	x := &exchange{}
	s.add(x)
	p := make(messages{s: s, x: x})
	for len(data) > 0 {
		n := min(piece, len(data))
		p.feed(bytes.Clone(data[:n]))
		data = data[n:]
	}
	var list []string
	for _, m := range x.messages {
		text := string(m.data)
		if m.size != int64(len(text)) {
			text = fmt.Sprintf("%d of %d bytes", len(text), m.size)
		}
		if m.compressed {
			text += " (compressed)"
		}
		list = append(list, m.kind+" "+text)
	}
	return list
}

func socket(o messages) parser { return &socketParser{out: o} }
func grpc(o messages) parser   { return &grpcParser{out: o} }
func events(o messages) parser { return &eventParser{out: o} }

func TestMessages(t *testing.T) {
	long := strings.Repeat("x", 70000)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, c := range []struct {
		name string
		data []byte
		make func(messages) parser
		want []string
	}{
		{"frames", join(frame(0x81, false, "hello"), frame(0x82, true, "\x00\x01"), frame(0x89, true, ""), frame(0x88, false, "\x03\xe8bye")), socket,
			[]string{"text hello", "binary \x00\x01", "ping ", "close \x03\xe8bye"}},
		{"a message in two frames", join(frame(0x01, true, "hel"), frame(0x80, true, "lo")), socket, []string{"text hel", "continuation lo"}},
		{"a compressed frame", frame(0xc1, false, "zip"), socket, []string{"text zip (compressed)"}},
		{"long frames", join(frame(0x82, true, long[:300]), frame(0x82, true, long), frame(0x81, true, "end")), socket,
			[]string{"binary " + long[:300], "binary 1024 of 70000 bytes", "text end"}},
		{"no frame", join(frame(0x81, false, "good"), []byte("GET / HTTP/1.1\r\n")), socket, []string{"text good", "no frame of a WebSocket "}},
		{"a length that cannot be", []byte{0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0, 1}, socket, []string{"no frame of a WebSocket "}},
		{"calls", join(call(0, "one"), call(1, "two"), call(0, ""), call(0x80, "grpc-status:0")), grpc,
			[]string{"message one", "message two (compressed)", "message ", "trailers grpc-status:0"}},
		{"events", []byte("data: a\n\nevent: b\ndata: c\n\n: ping\n\n"), events, []string{"event data: a\n", "event event: b\ndata: c\n", "event : ping\n"}},
		{"events with CRLF", []byte("data: a\r\n\r\ndata: b\r\n\r\n"), events, []string{"event data: a\r\n", "event data: b\r\n"}},
		{"events with CR", []byte("data: a\r\rdata: b\r\r"), events, []string{"event data: a\r", "event data: b\r"}},
		{"an event without an end", []byte("\n\ndata: a\ndata: b"), events, []string{"event data: a\ndata: b"}},
	} {
		for _, piece := range []int{1, 2, 3, 7, 1 << 20} {
			if got := parsed(c.data, piece, c.make); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.want) {
				t.Errorf("%s in pieces of %d: %.300q, want %.300q", c.name, piece, got, c.want)
			}
		}
	}
}

func TestMessagesAreBounded(t *testing.T) {
	s := newStore(1<<20, 16<<10)
	x := &exchange{}
	s.add(x)
	p := &socketParser{out: messages{s: s, x: x}}
	for n := range 5000 {
		p.feed(frame(0x81, true, fmt.Sprint(n, strings.Repeat("y", n))))
	}
	if len(x.messages) > maxMessages || x.kept > 16<<10 || x.in != 5000 || x.cost != s.total || x.cost > 200<<10 {
		t.Errorf("%d messages of %d, %d bytes, cost %d, total %d", len(x.messages), x.in, x.kept, x.cost, s.total)
	}
	if last := x.messages[len(x.messages)-1]; !strings.HasPrefix(string(last.data), "4999y") {
		t.Errorf("the last is %.10q", last.data)
	}
}

// hijackable is a server's connection that can be taken over.
type hijackable struct {
	http.ResponseWriter
	conn net.Conn
	r    *bufio.Reader
}

func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(h.r, bufio.NewWriter(h.conn)), nil
}

func TestWebSocketIsShown(t *testing.T) {
	i := start(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		c, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching")
		io.WriteString(c, " Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02hi")
		early := make([]byte, brw.Reader.Buffered())
		io.ReadFull(brw.Reader, early)
		buf := make([]byte, 1000)
		if _, err := c.Read(buf); err != nil {
			t.Error(err)
		}
		if _, ok := c.(interface{ NetConn() net.Conn }); ok {
			t.Error("the connection can be passed by")
		}
	})
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	r := bufio.NewReader(io.MultiReader(bytes.NewReader(frame(0x81, true, "early")), near))
	r.Peek(1)
	go func() {
		go far.Write(frame(0x81, true, `{"token":"abc"}`))
		io.Copy(io.Discard, far)
	}()
	req, _ := http.NewRequest("GET", "http://example.com/socket", nil)
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Connection", "Upgrade")
	i.next.ServeHTTP(&hijackable{httptest.NewRecorder(), near, r}, req)
	d := i.one("/api/exchanges/1")
	if d.Kind != kindWebSocket || d.Status != http.StatusSwitchingProtocols || d.MessagesIn != 2 || d.MessagesOut != 1 || d.Replay == "" || value(d.Response.Headers, "Upgrade") != "websocket" {
		t.Errorf("%+v", d.summary)
	}
	var got []string
	for _, m := range d.Messages {
		got = append(got, m.Direction+" "+m.Text)
	}
	if fmt.Sprint(got) != `[in early out hi in {"token":"[redacted]"}]` {
		t.Errorf("messages %q", got)
	}
}

func TestCallsAndEventsAreShown(t *testing.T) {
	i := start(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/events" {
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			io.WriteString(w, "data: 1\n\nda")
			io.WriteString(w, "ta: 2\n\n")
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Write(call(0, "answer"))
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	})
	i.send("POST", "/pkg.Service/Method", string(call(0, "question")), "Content-Type", "application/grpc+proto")
	i.send("GET", "/events", "")
	if d := i.one("/api/exchanges/1"); d.Kind != kindGRPC || d.MessagesIn != 1 || d.MessagesOut != 1 || d.Messages[0].Text != "question" || d.Messages[1].Text != "answer" || value(d.Trailers, "Grpc-Status") != "0" || d.Replay != "" {
		t.Errorf("%+v", d)
	}
	if d := i.one("/api/exchanges/2"); d.Kind != kindEvents || d.MessagesOut != 2 || d.Messages[1].Text != "data: 2\n" || d.Messages[1].Size != 8 {
		t.Errorf("%+v", d)
	}
}

// fuzzParser wants the same messages however the bytes are cut, and no more kept
// than is allowed.
func fuzzParser(f *testing.F, make func(messages) parser) {
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		whole := parsed(data, 1<<20, make)
		if cut := parsed(data, max(piece, 1), make); fmt.Sprintf("%q", cut) != fmt.Sprintf("%q", whole) {
			t.Fatalf("in pieces of %d: %q, as a whole: %q", piece, cut, whole)
		}
	})
}

func FuzzWebSocketFrames(f *testing.F) {
	f.Add(frame(0x81, true, "hello"), 1)
	f.Add(frame(0x82, false, strings.Repeat("x", 300)), 7)
	f.Add([]byte{0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0, 1}, 3)
	fuzzParser(f, socket)
}

func FuzzGRPCMessages(f *testing.F) {
	f.Add(append(call(0, "one"), call(1, "two")...), 2)
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1}, 1)
	fuzzParser(f, grpc)
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("data: a\r\n\r\nevent: b\rdata: c\n\n: ping\n\n"), 1)
	fuzzParser(f, events)
}

//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	other "golang.org/x/net/websocket"
)

// webSocketServices echo messages, each with a library of its own.
var webSocketServices = map[string]http.Handler{
	"gorilla": http.HandlerFunc(gorillaEcho),
	"other":   other.Server{Handler: otherEcho},
}

func gorillaEcho(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		kind, p, err := c.ReadMessage()
		if err != nil || c.WriteMessage(kind, p) != nil {
			return
		}
	}
}

func otherEcho(c *other.Conn) {
	type message struct {
		p    []byte
		kind byte
	}
	codec := other.Codec{
		Marshal: func(v any) ([]byte, byte, error) { m := v.(*message); return m.p, m.kind, nil },
		Unmarshal: func(p []byte, kind byte, v any) error {
			*v.(*message) = message{p, kind}
			return nil
		},
	}
	var m message
	for codec.Receive(c, &m) == nil && codec.Send(c, &m) == nil {
	}
}

// webSocketCases are what a client sends in frames, some of them malformed; it ends with a
// close frame of its own unless it did that before.
var webSocketCases = map[string]string{
	"text":                      lengths(frameText),
	"binary":                    lengths(frameBinary),
	"fragments":                 frame(0x01, "Hel") + frame(0x00, "lo, ") + frame(0x80, "world"),
	"empty fragments":           frame(0x02, "") + frame(0x00, "") + frame(0x80, ""),
	"ping between fragments":    frame(0x01, "Hel") + frame(framePing, "p") + frame(0x80, "lo"),
	"many fragments":            frame(0x02, "x") + strings.Repeat(frame(0x00, strings.Repeat("y", 1300)), 50) + frame(0x80, "z"),
	"pings":                     frame(framePing, "") + frame(framePing, "payload") + frame(framePing, strings.Repeat("p", 125)) + strings.Repeat(frame(framePing, "x"), 10),
	"pong that nobody asked":    frame(0x8a, "x") + frame(frameText, "x"),
	"long ping":                 frame(framePing, strings.Repeat("p", 126)),
	"fragmented ping":           frame(0x09, "x") + frame(0x80, "y"),
	"reserved bit":              frame(0xc1, "x"),
	"reserved operation":        frame(0x83, "x"),
	"reserved control":          frame(0x8b, "x"),
	"continuation of nothing":   frame(0x80, "x"),
	"message within a message":  frame(0x01, "x") + frame(frameText, "y"),
	"not masked":                "\x81\x01x",
	"no UTF-8":                  frame(frameText, "\xce\xba\xe1\xbd\xff"),
	"length that is too long":   "\x82\xff\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00hello",
	"length beyond all":         "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff",
	"close without code":        frame(frameClose, ""),
	"close with half a code":    frame(frameClose, "\x03"),
	"close with a reason":       closing(1000, strings.Repeat("r", 123)),
	"close with too much":       closing(1000, strings.Repeat("r", 124)),
	"close with bad UTF-8":      closing(1000, "\xff\xfe"),
	"close twice":               closing(1000, "") + closing(1001, ""),
	"data behind close":         closing(1000, "") + frame(frameText, "x"),
	"close within a message":    frame(0x01, "x") + closing(1000, ""),
	"half a frame and no more":  "\x82\x85\x00\x00\x00\x00he",
	"half a header and no more": "\x82\xfe\x00",
}

// largeWebSocketCases are held one after the other.
var largeWebSocketCases = map[string]string{
	"16 MiB of text":      frame(frameText, strings.Repeat("0123456789abcdef", 1<<20)),
	"16 MiB of bytes":     frame(frameBinary, strings.Repeat("0123456789abcde\xff", 1<<20)),
	"16 MiB in fragments": frame(0x02, "x") + strings.Repeat(frame(0x00, strings.Repeat("y", 1<<20)), 16) + frame(0x80, "z"),
}

func init() {
	for _, code := range []int{0, 999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1015, 1016, 2999, 3000, 3999, 4000, 4999, 5000, 65535} {
		webSocketCases[fmt.Sprintf("close %d", code)] = closing(code, "why")
	}
}

func lengths(first byte) (frames string) {
	for _, n := range []int{0, 1, 125, 126, 127, 128, 65535, 65536, 300_000} {
		frames += frame(first, strings.Repeat("0123456789", n/10+1)[:n])
	}
	return frames
}

func closing(code int, reason string) string {
	return frame(frameClose, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// talkFrames opens a WebSocket by hand, sends frames, ends, and returns all that comes behind
// the service's head.
func talkFrames(t testing.TB, addr, endpoint, frames string) []byte {
	c := dialRaw(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: e\r\nOrigin: http://e\r\n" + to(endpoint) + "\r\n" + upgradeHeaders + "\r\n")
	res, err := http.ReadResponse(c.r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("open a WebSocket: %v, %v", res, err)
		return nil
	}
	sent := make(chan struct{})
	defer func() { c.Close(); <-sent }()
	go func() {
		defer close(sent)
		c.send(frames + closing(1000, ""))
		c.Conn.(*net.TCPConn).CloseWrite() // of some cases the close frame is but a part
	}()
	got, err := io.ReadAll(c.r)
	if nerr, ok := err.(interface{ Timeout() bool }); ok && nerr.Timeout() {
		t.Error("the WebSocket does not end")
	}
	return got
}

// TestWebSocketCases holds that of every frame that a client sends, whole or not, the service
// makes what it makes of it directly.
func TestWebSocketCases(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		for library, h := range webSocketServices {
			s := httptest.NewServer(h)
			t.Cleanup(s.Close)
			w.agent(t, library, s.Listener.Addr().String())
			hold := func(t *testing.T, frames string) {
				want := talkFrames(t, s.Listener.Addr().String(), library, frames)
				if got := talkFrames(t, w.entry.proxy, library, frames); !bytes.Equal(got, want) {
					t.Errorf("directly came %d bytes, %.200q, and through piko %d, %.200q", len(want), want, len(got), got)
				}
			}
			for name, frames := range webSocketCases {
				t.Run(library+"/"+name, func(t *testing.T) {
					t.Parallel()
					hold(t, frames)
				})
			}
			for name, frames := range largeWebSocketCases {
				t.Run(library+"/"+name, func(t *testing.T) { hold(t, frames) })
			}
		}
	})
}

// TestWebSocketLargeMessages holds that messages of 16 MiB come back, which the client sends in
// fragments, while pings are answered.
func TestWebSocketLargeMessages(t *testing.T) {
	text := []byte(strings.Repeat("0123456789abcdef", 1<<20))
	overEach(t, func(t *testing.T, w *way) {
		s := httptest.NewServer(http.HandlerFunc(gorillaEcho))
		t.Cleanup(s.Close)
		w.agent(t, "e", s.Listener.Addr().String())
		for _, kind := range []int{websocket.TextMessage, websocket.BinaryMessage} {
			c := dialWebSocket(t, w.entry, "e", "/")
			c.SetReadDeadline(time.Now().Add(60 * time.Second))
			pong := false
			c.SetPongHandler(func(string) error { pong = true; return nil })
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				c.WriteControl(websocket.PingMessage, nil, time.Now().Add(10*time.Second))
				c.WriteMessage(kind, text)
			}()
			gotKind, got, err := c.ReadMessage()
			if gotKind != kind || !bytes.Equal(got, text) || err != nil || !pong {
				t.Errorf("got kind %d, %d bytes, pong %v, %v", gotKind, len(got), pong, err)
			}
			<-sent
			c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4000, ""), time.Now().Add(time.Second))
			if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 4000) {
				t.Errorf("the end came as %v", err)
			}
		}
	})
}

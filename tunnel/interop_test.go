package tunnel

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	xwebsocket "golang.org/x/net/websocket"
)

// carrierServer accepts WebSockets at any path and hands over the carriers.
func carrierServer(t testing.TB, reply Reply) (url string, accepted <-chan *carrier) {
	t.Helper()
	ch := make(chan *carrier, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := acceptHandshake(w, r, reply)
		if err != nil {
			return
		}
		t.Cleanup(func() { c.close(0, "") })
		ch <- c
	}))
	t.Cleanup(srv.Close)
	return srv.URL, ch
}

// dialCarrier connects a carrier of ours to a server of others.
func dialCarrier(t testing.TB, url string) *carrier {
	t.Helper()
	c, _, err := (&Dialer{URL: url}).dialWebSocket(t.Context(), "/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.close(0, "") })
	return c
}

// echoes checks that what is written to c comes back, in sizes around every
// bound of the framing.
func echoes(t *testing.T, c io.ReadWriter) {
	t.Helper()
	for _, n := range []int{1, 125, 126, 127, 4095, 4096, 4097, 32 << 10, 65535, 65536, 300_000} {
		sent, got := make([]byte, n), make([]byte, n)
		rand.Read(sent)
		done := make(chan error, 1)
		go func() {
			_, err := c.Write(sent)
			done <- err
		}()
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatalf("read %d bytes back: %v", n, err)
		}
		if err := <-done; err != nil {
			t.Fatalf("write %d bytes: %v", n, err)
		}
		if !bytes.Equal(sent, got) {
			t.Fatalf("%d bytes came back as others", n)
		}
	}
}

func TestInteropGorillaServer(t *testing.T) {
	upgrader := websocket.Upgrader{}
	ended := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		for {
			kind, r, err := ws.NextReader()
			if err != nil {
				ended <- err
				return
			}
			// Back in fragments, since gorilla's buffer is 4 KiB.
			w, err := ws.NextWriter(kind)
			if err == nil {
				_, err = io.Copy(w, r)
				err = errors.Join(err, w.Close())
			}
			if err != nil {
				t.Error(err)
			}
		}
	}))
	defer srv.Close()
	car := dialCarrier(t, srv.URL)
	echoes(t, car)
	before := car.lastRead()
	readDone := make(chan error, 1)
	go func() {
		_, err := car.Read(make([]byte, 1))
		readDone <- err
	}()
	if err := car.ping(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if !car.lastRead().After(before) {
			return errors.New("gorilla's pong is no sign of life")
		}
		return nil
	})
	car.close(closeGoingAway, "moving")
	if err := <-ended; !websocket.IsCloseError(err, websocket.CloseGoingAway) || !strings.Contains(err.Error(), "moving") {
		t.Errorf("gorilla saw %v, want our close frame", err)
	}
	if err := <-readDone; err == nil {
		t.Error("the read went on after close")
	}
}

func TestInteropGorillaClient(t *testing.T) {
	url, accepted := carrierServer(t, Reply{})
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(url, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	car := <-accepted
	go io.Copy(car, car)
	ws.EnableWriteCompression(true) // not negotiated, so without effect
	echoes(t, gorillaStream{ws})
	pong := make(chan string, 1)
	ws.SetPongHandler(func(s string) error { pong <- s; return nil })
	ws.WriteControl(websocket.PingMessage, []byte("hello"), time.Now().Add(time.Second))
	readDone := make(chan error, 1)
	go func() {
		_, _, err := ws.ReadMessage()
		readDone <- err
	}()
	if got := <-pong; got != "hello" {
		t.Errorf("the ping was answered with %q", got)
	}
	ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseServiceRestart, ""), time.Now().Add(time.Second))
	if err := <-readDone; !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
		t.Errorf("gorilla saw %v, want its close code back", err)
	}
}

// gorillaStream is v0.9.0's byte stream over gorilla/websocket: a message for
// each write, messages joined for reading.
type gorillaStream struct{ ws *websocket.Conn }

func (s gorillaStream) Write(p []byte) (int, error) {
	if err := s.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s gorillaStream) Read(p []byte) (int, error) {
	for {
		_, r, err := s.ws.NextReader()
		if err != nil {
			return 0, err
		}
		// The test reads in exact pieces, so the rest of a message is not lost
		// as long as the other side's messages are no longer than p.
		n, err := io.ReadFull(r, p)
		if n > 0 || err != io.EOF {
			if err == io.ErrUnexpectedEOF {
				err = nil
			}
			return n, err
		}
	}
}

func TestInteropGorillaTextMessageIsRefused(t *testing.T) {
	url, accepted := carrierServer(t, Reply{})
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(url, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	ws.WriteMessage(websocket.TextMessage, []byte("hello"))
	car := <-accepted
	if _, err := car.Read(make([]byte, 10)); err == nil || !strings.Contains(err.Error(), "text message") {
		t.Errorf("Read: %v", err)
	}
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseUnsupportedData) {
		t.Errorf("gorilla saw %v, want 1003", err)
	}
}

func TestInteropXNetServer(t *testing.T) {
	srv := httptest.NewServer(xwebsocket.Server{Handler: func(ws *xwebsocket.Conn) {
		ws.PayloadType = xwebsocket.BinaryFrame
		io.Copy(ws, ws)
	}})
	defer srv.Close()
	car := dialCarrier(t, srv.URL)
	echoes(t, car)
	before := car.lastRead()
	car.ping()
	go car.Read(make([]byte, 1))
	eventually(t, func() error {
		if !car.lastRead().After(before) {
			return errors.New("x/net's pong is no sign of life")
		}
		return nil
	})
}

func TestInteropXNetClient(t *testing.T) {
	url, accepted := carrierServer(t, Reply{})
	// It sends an Origin, always.
	ws, err := xwebsocket.Dial("ws"+strings.TrimPrefix(url, "http"), "", url)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	ws.PayloadType = xwebsocket.BinaryFrame
	car := <-accepted
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(car, car)
		ended <- err
	}()
	echoes(t, ws)
	ws.Close()
	if err := <-ended; err != nil {
		t.Errorf("after x/net's close: %v, want EOF", err)
	}
}

func TestInteropBothOurs(t *testing.T) {
	url, accepted := carrierServer(t, Reply{NodeID: "node-1"})
	car := dialCarrier(t, url)
	server := <-accepted
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(server, server)
	}()
	echoes(t, car)
	car.close(closeNormal, "")
	<-done
}

// Bytes may come in one packet with the handshake, in both directions: a fast
// peer does not wait.
func TestBytesSentWithTheHandshakeArrive(t *testing.T) {
	t.Run("by the client", func(t *testing.T) {
		url, accepted := carrierServer(t, Reply{})
		nc, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		early := testFrame{op: opBinary, masked: true, payload: bytes.Repeat([]byte("early"), 2000)}
		handshake := "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
		nc.Write(append([]byte(handshake), early.bytes()...))
		car := <-accepted
		got := make([]byte, len(early.payload))
		if _, err := io.ReadFull(car, got); err != nil || !bytes.Equal(got, early.payload) {
			t.Errorf("read other bytes, %v", err)
		}
	})
	t.Run("by the server", func(t *testing.T) {
		early := testFrame{op: opBinary, payload: bytes.Repeat([]byte("early"), 2000)}
		url := rawServer(t, func(nc net.Conn, r *http.Request) {
			nc.Write(append([]byte(switching(r)), early.bytes()...))
		})
		car := dialCarrier(t, url)
		got := make([]byte, len(early.payload))
		if _, err := io.ReadFull(car, got); err != nil || !bytes.Equal(got, early.payload) {
			t.Errorf("read other bytes, %v", err)
		}
	})
}

// switching is a 101 to r.
func switching(r *http.Request) string {
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Accept: " +
		acceptKey(r.Header.Get("Sec-WebSocket-Key")) + "\r\n\r\n"
}

// rawServer gives each connection to serve after its request was read, and
// closes it when the test ends.
func rawServer(t testing.TB, serve func(net.Conn, *http.Request)) (url string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { nc.Close() })
		serve(nc, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

var errLeaving = fmt.Errorf("the test stops: %w", ErrGoingAway)

// stoppable is a proxy for p whose requests end with stop.
func stoppable(t *testing.T, p *Pool) (addr string, stop context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := httptest.NewUnstartedServer(forwarder(p))
	s.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.Start()
	t.Cleanup(func() { cancel(nil); s.Close() })
	return s.Listener.Addr().String(), cancel
}

// wsService hands out the service's end of each WebSocket, which it closes when the test ends.
func wsService(t *testing.T) (*Pool, <-chan *websocket.Conn) {
	conns := make(chan *websocket.Conn, 10)
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		var up websocket.Upgrader
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { c.Close() })
		conns <- c
	})
	return p, conns
}

func dialWS(t *testing.T, addr string) *websocket.Conn {
	t.Helper()
	c, res, err := websocket.DefaultDialer.Dial("ws://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return c
}

func wantGoingAway(t *testing.T, who string, c *websocket.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, websocket.CloseGoingAway) {
				t.Errorf("the %s saw %v", who, err)
			}
			return
		}
	}
}

// Both sides of an idle WebSocket learn why it ends.
func TestWebSocketIsToldOfTheEnd(t *testing.T) {
	p, conns := wsService(t)
	addr, stop := stoppable(t, p)
	client := dialWS(t, addr)
	far := <-conns
	client.WriteMessage(websocket.TextMessage, []byte("hello"))
	if _, b, err := far.ReadMessage(); string(b) != "hello" {
		t.Errorf("got %q, %v", b, err)
	}
	stop(errLeaving)
	ends := make(chan bool)
	go func() { wantGoingAway(t, "service", far); close(ends) }()
	wantGoingAway(t, "client", client)
	<-ends
	wantIdle(t, p, 0)
}

// Between fragments a close frame may stand, and a frame that is under way gets time to end.
func TestWebSocketIsToldBetweenFrames(t *testing.T) {
	p, conns := wsService(t)
	addr, stop := stoppable(t, p)
	client := dialWS(t, addr)
	far := <-conns
	raw := client.NetConn()
	raw.Write(append(wsFrame(0x02, true, 10), wsFrame(0x80, true, 1<<20)[:1000]...))
	far.WriteMessage(websocket.TextMessage, []byte("hello"))
	if _, b, err := client.ReadMessage(); string(b) != "hello" {
		t.Errorf("got %q, %v", b, err)
	}
	_, r, err := far.NextReader()
	if err == nil {
		_, err = io.ReadFull(r, make([]byte, 500))
	}
	if err != nil {
		t.Fatal(err)
	}
	stop(errLeaving)
	wantGoingAway(t, "client", client)
	raw.Write(append(wsFrame(0x80, true, 1<<20)[1000:], wsFrame(0x82, true, 5)...))
	if n, err := io.Copy(io.Discard, r); n != 10+1<<20-500 || err != nil {
		t.Errorf("the service got %d bytes of the message, %v", n, err)
	}
	wantGoingAway(t, "service", far)
	wantIdle(t, p, 0)
}

// A frame that does not end is cut, visibly.
func TestWebSocketWithinAFrame(t *testing.T) {
	p, conns := wsService(t)
	addr, stop := stoppable(t, p)
	client := dialWS(t, addr)
	far := <-conns
	client.NetConn().Write(wsFrame(0x82, true, 1000)[:500])
	_, r, err := far.NextReader()
	if err == nil {
		_, err = io.ReadFull(r, make([]byte, 100))
	}
	if err != nil {
		t.Fatal(err)
	}
	stop(errLeaving)
	wantGoingAway(t, "client", client)
	if b, err := io.ReadAll(r); err == nil || websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("the service got %d more bytes, %v", len(b), err)
	}
	wantIdle(t, p, 0)
}

// What is no WebSocket just ends, and so does one whose frames are none; for both sides that is a failure.
func TestNothingIsSaidToOthers(t *testing.T) {
	for _, tt := range []struct{ protocol, first string }{{"chat", ""}, {"websocket", "no frames"}} {
		ends := make(chan net.Conn)
		p := rawService(t, func(c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+tt.protocol+"\r\n\r\n"+tt.first+"x")
			ends <- c
			<-ends
		})
		addr, stop := stoppable(t, p)
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: "+tt.protocol+"\r\n\r\n"+tt.first+"x")
		far := <-ends
		far.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(far, make([]byte, len(tt.first)+1)); err != nil {
			t.Error(err)
		}
		r := bufio.NewReader(c)
		if s, err := r.ReadString('x'); !strings.HasSuffix(s, "x") {
			t.Errorf("got %q, %v", s, err)
		}
		stop(errLeaving)
		if b, err := io.ReadAll(r); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the client got %q, %v", tt.protocol, b, err)
		}
		if b, err := io.ReadAll(far); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the service got %q, %v", tt.protocol, b, err)
		}
		ends <- nil
		wantIdle(t, p, 0)
	}
}

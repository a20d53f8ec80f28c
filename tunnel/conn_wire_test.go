package tunnel

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// newConnPeer makes a Conn in the given role over TCP, and its raw peer.
func newConnPeer(t testing.TB, client, half bool) (*Conn, *carrierPeer) {
	t.Helper()
	near, far := tcpPair(t)
	c := newConn(newCarrier(near, nil, client), half)
	t.Cleanup(func() { c.Reset(); c.Close() })
	return c, &carrierPeer{Conn: far}
}

func textFrame(s string) testFrame { return testFrame{op: opText, masked: true, payload: []byte(s)} }

func closeFrame(code uint16, reason string) testFrame {
	return testFrame{op: opClose, masked: true, payload: append([]byte{byte(code >> 8), byte(code)}, reason...)}
}

func TestConnHowAPeerEnds(t *testing.T) {
	hello := testFrame{op: opBinary, masked: true, payload: []byte("hello")}
	part := testFrame{op: opBinary, more: true, masked: true, payload: []byte("hello")}
	for _, c := range []struct {
		name   string
		frames []testFrame
		whole  error // with half-close; nil is io.EOF
		old    error // without
	}{
		{"end of data", []testFrame{hello, textFrame("eof")}, nil, errAny},
		{"close frame behind data", []testFrame{hello, closeFrame(1000, "")}, ErrStreamReset, nil},
		{"empty close frame", []testFrame{hello, {op: opClose, masked: true}}, ErrStreamReset, nil},
		{"close frame for a reason", []testFrame{hello, closeFrame(1011, "gone")}, ErrStreamReset, ErrStreamReset},
		{"close frame of who goes away", []testFrame{hello, closeFrame(1001, "")}, ErrStreamReset, ErrStreamReset},
		{"end of TCP", []testFrame{hello}, errCutShort, nil},
		{"end of TCP within a message", []testFrame{part}, errAny, errAny},
		{"close frame within a message", []testFrame{part, closeFrame(1000, "")}, ErrStreamReset, ErrStreamReset},
		{"another text", []testFrame{hello, textFrame("foe")}, errAny, errAny},
		{"longer text", []testFrame{hello, textFrame("eof!")}, errAny, errAny},
		{"end within a message", []testFrame{part, textFrame("eof")}, errAny, errAny},
		{"end in fragments", []testFrame{hello, {op: opText, more: true, masked: true, payload: []byte("eof")}}, errAny, errAny},
	} {
		t.Run(c.name, func(t *testing.T) {
			for half, want := range map[bool]error{true: c.whole, false: c.old} {
				conn, peer := newConnPeer(t, false, half)
				peer.send(t, c.frames...)
				peer.Conn.(*net.TCPConn).CloseWrite()
				b, err := io.ReadAll(conn)
				if string(b) != "hello" {
					t.Errorf("half-close %v: read %q", half, b)
				}
				switch {
				case want == nil && err == nil, want == errAny && err != nil, want != nil && errors.Is(err, want):
				default:
					t.Errorf("half-close %v: the end is %v, want %v", half, err, want)
				}
			}
		})
	}
}

// errAny stands for an error that is none of ours.
var errAny = errors.New("any")

// What follows the end of data is none.
func TestConnDataBehindTheEndIsAFailure(t *testing.T) {
	for name, f := range map[string]testFrame{
		"data": {op: opBinary, masked: true, payload: []byte("x")}, "another end": textFrame("eof"), "empty": {op: opBinary, masked: true},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := newConnPeer(t, false, true)
			peer.send(t, textFrame("eof"), f)
			if _, err := c.Read(make([]byte, 9)); err != io.EOF {
				t.Fatal(err)
			}
			<-c.Done()
			if f := peer.frame(t); f.op != opClose || f.payload[0] != 0x03 || f.payload[1] != 0xea {
				t.Errorf("the peer was sent %v, want 1002", f)
			}
		})
	}
}

// A peer that dies has ended its side in order, but not ours.
func TestConnEndOfTCPBehindTheEndOfData(t *testing.T) {
	for name, ended := range map[string]bool{"while we write": false, "when we have ended, too": true} {
		t.Run(name, func(t *testing.T) {
			c, peer := newConnPeer(t, false, true)
			peer.send(t, textFrame("eof"))
			if _, err := c.Read(make([]byte, 9)); err != io.EOF {
				t.Fatal(err)
			}
			if ended {
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			peer.Conn.(*net.TCPConn).CloseWrite()
			if ended {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			<-c.Done()
			if _, err := c.Write([]byte("x")); err == nil {
				t.Error("Write to nobody")
			}
		})
	}
}

func TestConnAnswersPingsBehindTheEndOfData(t *testing.T) {
	c, peer := newConnPeer(t, false, true)
	peer.send(t, textFrame("eof"))
	if _, err := c.Read(make([]byte, 9)); err != io.EOF {
		t.Fatal(err)
	}
	peer.send(t, testFrame{op: opPing, masked: true, payload: []byte("?")})
	if f := peer.frame(t); f.op != opPong || string(f.payload) != "?" {
		t.Errorf("got %v", f)
	}
}

func TestConnFramesOnTheWire(t *testing.T) {
	c, peer := newConnPeer(t, true, true)
	io.WriteString(c, "question")
	c.CloseWrite()
	for _, want := range []testFrame{{op: opBinary, masked: true, payload: []byte("question")}, textFrame("eof")} {
		if f := peer.frame(t); f.op != want.op || !f.masked || f.more || string(f.payload) != string(want.payload) {
			t.Errorf("got %+v, want %+v", f, want)
		}
	}
	peer.send(t, testFrame{op: opText, payload: []byte("eof")})
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.Close()
	}()
	if f := peer.frame(t); f.op != opClose || string(f.payload) != "\x03\xe8" {
		t.Errorf("got %+v, want a close frame with 1000", f)
	}
	peer.Close()
	<-closed
}

// A v0.9.0 client: no features, no close frames, gorilla below.
func TestConnWithAGorillaClient(t *testing.T) {
	url, accepted := connServer(t)
	ws, res, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(url, "http")+TCPPath+"db", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if f := res.Header.Get(HeaderFeatures); f != "" {
		t.Errorf("the client asked for nothing and got %q", f)
	}
	c := <-accepted
	if c.HalfClose() || !errors.Is(c.CloseWrite(), errors.ErrUnsupported) {
		t.Error("the client does not know half-close")
	}
	go io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	echoes(t, &gorillaReader{gorillaStream{ws}, nil})
	t.Run("is told the end", func(t *testing.T) {
		go c.Close()
		if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("gorilla saw %v", err)
		}
	})
	for name, want := range map[string]int{"failure": websocket.CloseInternalServerErr} {
		t.Run("is told a "+name, func(t *testing.T) {
			ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(url, "http")+TCPPath+"db", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ws.Close()
			(<-accepted).Reset()
			if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, want) {
				t.Errorf("gorilla saw %v", err)
			}
		})
	}
}

// A v0.9.0 node.
func TestConnWithAGorillaServer(t *testing.T) {
	upgrader := websocket.Upgrader{}
	ended := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		s := &gorillaReader{gorillaStream{ws}, nil}
		if r.URL.Path == TCPPath+"ends" {
			io.WriteString(s, "all")
			return
		}
		_, err = io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s})
		ended <- err
	}))
	defer srv.Close()
	d := &Dialer{URL: srv.URL}
	c, err := d.DialTCP(t.Context(), "db")
	if err != nil {
		t.Fatal(err)
	}
	if c.HalfClose() {
		t.Error("a v0.9.0 node does not know half-close")
	}
	echoes(t, c)
	c.Close()
	if err := <-ended; !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("gorilla saw %v", err)
	}
	if c, err = d.DialTCP(t.Context(), "ends"); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	readAll(t, c, "all") // it closes its socket, and says nothing
}

// gorillaReader reads messages of any length as a stream.
type gorillaReader struct {
	gorillaStream
	r io.Reader
}

func (s *gorillaReader) Read(p []byte) (int, error) {
	for {
		if s.r == nil {
			_, r, err := s.ws.NextReader()
			if err != nil {
				return 0, err
			}
			s.r = r
		}
		n, err := s.r.Read(p)
		if err == io.EOF {
			s.r = nil
			if n == 0 {
				continue
			}
			err = nil
		}
		return n, err
	}
}

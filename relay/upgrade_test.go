package relay

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

// upgrader is a service that switches protocols and hands out its end.
func upgrader(t *testing.T) (*Pool, chan net.Conn) {
	ends := make(chan net.Conn)
	return rawService(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nfirst")
		ends <- c
		<-ends
	}), ends
}

func upgradeRequest(t *testing.T) *http.Request {
	req := get(t, "/")
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"x"}}
	return req
}

func TestSwitchedConnection(t *testing.T) {
	p, ends := upgrader(t)
	res, err := p.RoundTrip(upgradeRequest(t))
	if err != nil {
		t.Fatal(err)
	}
	far := <-ends
	rw, ok := res.Body.(interface {
		io.ReadWriteCloser
		CloseWrite() error
	})
	if !ok || res.StatusCode != 101 {
		t.Fatalf("got %d, %T", res.StatusCode, res.Body)
	}
	io.WriteString(far, ", second")
	buf := make([]byte, 13)
	if _, err := io.ReadFull(rw, buf); string(buf) != "first, second" {
		t.Errorf("got %q, %v", buf, err)
	}
	io.WriteString(rw, "hello")
	rw.CloseWrite()
	if b, err := io.ReadAll(far); string(b) != "hello" || err != nil {
		t.Errorf("the service got %q, %v", b, err)
	}
	rw.Close()
	rw.Close()
	wantIdle(t, p, 0)
	close(ends)
}

// The request's context ends an upgraded connection, which nothing else does while it is idle.
func TestContextEndsSwitchedConnection(t *testing.T) {
	p, ends := upgrader(t)
	ctx, cancel := context.WithCancel(t.Context())
	res, err := p.RoundTrip(upgradeRequest(t).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	<-ends
	time.AfterFunc(10*time.Millisecond, cancel)
	if b, err := io.ReadAll(res.Body); string(b) != "first" || err == nil {
		t.Errorf("got %q, %v", b, err)
	}
	res.Body.Close()
	wantIdle(t, p, 0)
	close(ends)
}

// A service may only switch to what was offered, and only once it has the whole request.
func TestUnwantedSwitch(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: y\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
	} {
		p := answers(t, answer)
		_, err := p.RoundTrip(upgradeRequest(t))
		if _, ok := errors.AsType[*ProtocolError](err); !ok {
			t.Errorf("%q: got %v", answer, err)
		}
		wantIdle(t, p, 0)
	}
}

// Other answers than 101 to an upgrade are ordinary ones.
func TestRefusedUpgrade(t *testing.T) {
	p := service(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusUpgradeRequired) })
	if res, _ := mustDo(t, p, upgradeRequest(t)); res.StatusCode != 426 {
		t.Errorf("got %d", res.StatusCode)
	}
	wantIdle(t, p, 1)
}

// A connection that cannot be half-closed ends as a whole, rather than never.
func TestUpgradeWithoutHalfClose(t *testing.T) {
	p, ends := upgrader(t)
	dial := p.Dial
	p.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		return struct{ net.Conn }{c}, err
	}
	addr := front(t, forwarder(p))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	far := <-ends
	r := bufio.NewReader(c)
	if b, err := r.ReadString('f'); err != nil || !strings.HasSuffix(b, "\r\n\r\nf") {
		t.Errorf("got %q, %v", b, err)
	}
	c.(*net.TCPConn).CloseWrite()
	io.ReadAll(r)
	if _, err := io.ReadAll(far); err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the service saw %v", err)
	}
	close(ends)
	wantIdle(t, p, 0)
}

// Much data both ways at once, through the buffers that grow and shrink.
func TestUpgradeBulk(t *testing.T) {
	const size = 5 << 20
	p := rawService(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		io.Copy(c, r)
		c.(*net.TCPConn).CloseWrite()
	})
	addr := front(t, forwarder(p))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	r := bufio.NewReader(c)
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	go func() {
		io.CopyN(c, zeros{}, size)
		c.(*net.TCPConn).CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, r); n != size || err != nil {
		t.Errorf("got %d of %d bytes back, %v", n, size, err)
	}
	wantIdle(t, p, 0)
}

// The new protocol begins behind the whole request, however early a service switches.
func TestSwitchWaitsForTheRequest(t *testing.T) {
	p, ends := upgrader(t)
	in, out := io.Pipe()
	req := upgradeRequest(t)
	req.Method, req.Body, req.ContentLength = "POST", in, -1
	sent := make(chan struct{})
	go func() {
		<-ends // 101 was sent
		<-time.After(20 * time.Millisecond)
		close(sent)
		io.WriteString(out, "hello")
		out.Close()
	}()
	res, err := p.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-sent:
	default:
		t.Error("the connection was handed over before the request was out")
	}
	res.Body.Close()
	close(ends)
}

// A client whose connection cannot be taken over has said nothing: the service must not take that for an end in order.
func TestUpgradeThatCannotBeginResetsTheService(t *testing.T) {
	for name, w := range map[string]http.ResponseWriter{
		"hijack fails": httptest.NewRecorder(),
		"client gone":  &hijackable{httptest.NewRecorder(), goneConn{}},
	} {
		t.Run(name, func(t *testing.T) {
			p, ends := upgrader(t)
			req := upgradeRequest(t)
			res, err := p.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			far := <-ends
			defer close(ends)
			if _, _, err := Upgrade(w, req, res); !isClientErr(err) {
				t.Errorf("got %v", err)
			}
			if n, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the service got %d bytes, %v", n, err)
			}
			wantIdle(t, p, 0)
		})
	}
}

func isClientErr(err error) bool { _, ok := errors.AsType[*ClientError](err); return ok }

// hijackable gives its connection away.
type hijackable struct {
	*httptest.ResponseRecorder
	nc net.Conn
}

func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.nc, bufio.NewReadWriter(bufio.NewReader(h.nc), bufio.NewWriter(h.nc)), nil
}

// goneConn takes nothing.
type goneConn struct{ net.Conn }

func (goneConn) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
func (goneConn) Close() error              { return nil }

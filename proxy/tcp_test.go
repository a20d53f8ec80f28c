package proxy

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"piko/fault"
	"piko/relay"
	"piko/router"
	"piko/tunnel"
)

// dialTCP connects to an endpoint through the proxy port.
func (w *world) dialTCP(endpoint string) *tunnel.Conn {
	w.t.Helper()
	c, err := (&tunnel.Dialer{URL: "http://" + w.addr}).DialTCP(w.t.Context(), endpoint)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Reset(); c.Close() })
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return c
}

// Either side may end what it says, and goes on listening.
func TestTCPHalfClose(t *testing.T) {
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		asked := w.serveRaw("asked", func(c net.Conn, r *bufio.Reader) {
			b, err := io.ReadAll(r)
			if err == nil {
				fmt.Fprintf(c, "%s, you said", b)
			}
		})
		heard := make(chan string, 1)
		told := w.serveRaw("told", func(c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "that is all")
			c.(*net.TCPConn).CloseWrite()
			b, _ := io.ReadAll(r)
			heard <- string(b)
		})
		c := w.dialTCP("asked")
		io.WriteString(c, "hello")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); string(b) != "hello, you said" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		c.Close()
		c = w.dialTCP("told")
		if b, err := io.ReadAll(c); string(b) != "that is all" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		io.WriteString(c, "thank you")
		c.Close()
		if got := <-heard; got != "thank you" {
			t.Errorf("the service heard %q", got)
		}
		eventually(t, idle(asked))
		eventually(t, idle(told))
	})
}

func TestTCPBulkBothWays(t *testing.T) {
	t.Parallel()
	size := int64(64 << 20)
	if raceEnabled || testing.Short() {
		size = 8 << 20
	}
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		sums := make(chan [sha256.Size]byte, 4)
		both := func(c interface {
			io.ReadWriter
			CloseWrite() error
		}) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				sum := sha256.New()
				if n, err := io.Copy(sum, struct{ io.Reader }{c}); n != size || err != nil {
					t.Errorf("read %d bytes, %v", n, err)
				}
				sums <- [sha256.Size]byte(sum.Sum(nil))
			}()
			sum := sha256.New()
			if _, err := io.Copy(io.MultiWriter(c, sum), io.LimitReader(rand.Reader, size)); err != nil {
				t.Error(err)
			}
			c.CloseWrite()
			sums <- [sha256.Size]byte(sum.Sum(nil))
			<-done
		}
		w.serveRaw("e", func(c net.Conn, _ *bufio.Reader) { both(c.(*net.TCPConn)) })
		c := w.dialTCP("e")
		c.SetReadDeadline(time.Time{})
		both(c)
		seen := make(map[[sha256.Size]byte]int)
		for range 4 {
			seen[<-sums]++
		}
		for _, n := range seen {
			if n != 2 {
				t.Error("what arrived is not what was sent")
			}
		}
	})
}

// A side that does not read holds the other one up; nothing grows in between.
func TestTCPBackPressure(t *testing.T) {
	t.Parallel()
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		flood := func(c io.Writer, sent *atomic.Int64) {
			b := make([]byte, 64<<10)
			for {
				n, err := c.Write(b)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		}
		var down, up atomic.Int64
		l := w.serveRaw("floods", func(c net.Conn, _ *bufio.Reader) { flood(c, &down) })
		waits := make(chan struct{})
		defer close(waits)
		w.serveRaw("waits", func(net.Conn, *bufio.Reader) { <-waits })
		for endpoint, sent := range map[string]*atomic.Int64{"floods": &down, "waits": &up} {
			c := w.dialTCP(endpoint)
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				if endpoint == "waits" {
					flood(c, sent)
				}
			}()
			last, same := int64(0), 0
			eventually(t, func() error {
				now := sent.Load()
				if now == last && now > 0 {
					same++
				} else {
					last, same = now, 0
				}
				if same < 100 {
					return fmt.Errorf("%s: sent %d bytes to who does not read, and goes on", endpoint, now)
				}
				return nil
			})
			if last > 64<<20 {
				t.Errorf("%s: %d bytes are on their way", endpoint, last)
			}
			c.Reset()
			<-stopped
		}
		eventually(t, idle(l))
	})
}

// A failure is never an end: neither side takes a part for the whole.
func TestTCPFailuresAreNoEnds(t *testing.T) {
	t.Parallel()
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		ended := make(chan error, 1)
		l := w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
			what, _ := r.ReadString('\n')
			switch what {
			case "reset\n":
				c.(*net.TCPConn).SetLinger(0)
				return
			case "half\n":
				io.WriteString(c, "half an ans")
				r.ReadByte()
				c.(*net.TCPConn).SetLinger(0)
				return
			}
			io.Copy(io.Discard, r)
			_, err := io.Copy(c, r) // until it fails
			for err == nil {
				_, err = c.Write([]byte("x"))
			}
			ended <- err
		})
		for what, want := range map[string]string{"reset\n": "", "half\n": "half an ans"} {
			c := w.dialTCP("e")
			io.WriteString(c, what)
			b := make([]byte, len(want))
			if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
				t.Errorf("read %q, %v", b, err)
			}
			io.WriteString(c, "x")
			if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || err == io.EOF {
				t.Errorf("after %q: %d, %v, want a failure", want, n, err)
			}
		}
		for name, half := range map[string]bool{"client is gone": false, "client is gone behind its end": true} {
			c := w.dialTCP("e")
			io.WriteString(c, "go on\n")
			if half {
				c.CloseWrite()
			}
			c.Reset()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: the service was not told", name)
			}
		}
		eventually(t, idle(l))
	})
}

func TestTCPRefusals(t *testing.T) {
	t.Parallel()
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		var dials atomic.Int32
		w.add("down", refuse(&dials, errors.New("no tunnel")))
		d := &tunnel.Dialer{URL: "http://" + w.addr}
		for endpoint, code := range map[string]fault.Code{"nobody": fault.NoUpstream, "down": fault.UpstreamUnreachable} {
			if w.way != noHop && endpoint == "down" {
				code = fault.NoUpstream // as for requests: the owner has nothing for it
			}
			_, err := d.DialTCP(t.Context(), endpoint)
			refused, ok := errors.AsType[*fault.Refused](err)
			if !ok || refused.Code != code || refused.Status != http.StatusBadGateway {
				t.Errorf("%s: got %v, want %s", endpoint, err, code)
			}
		}
		if n := dials.Load(); n != 1 {
			t.Errorf("%d attempts at the only upstream", n)
		}
		upgrade := "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
		for name, c := range map[string][2]string{
			"no endpoint":  {"GET /_piko/v1/tcp/ HTTP/1.1\r\nHost: x\r\n" + upgrade, "400"},
			"a path":       {"GET /_piko/v1/tcp/a/b HTTP/1.1\r\nHost: x\r\n" + upgrade, "400"},
			"no handshake": {"GET /_piko/v1/tcp/e HTTP/1.1\r\nHost: x\r\n", "400"},
			"POST":         {"POST /_piko/v1/tcp/e HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + upgrade, "405"},
			"another site": {"GET /_piko/v1/tcp/e HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\n" + upgrade, "403"},
		} {
			if got := w.talk(c[0] + "\r\n" + closing); !strings.HasPrefix(got, "HTTP/1.1 "+c[1]+" ") || !strings.Contains(got, `{"error":`) {
				t.Errorf("%s: got %q", name, got)
			}
		}
	})
}

// What no upstream has seen is tried elsewhere.
func TestTCPIsTriedElsewhere(t *testing.T) {
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		var dials atomic.Int32
		w.add("e", refuse(&dials, fault.New(fault.UpstreamUnreachable, nil)))
		w.serveRaw("e", func(c net.Conn, r *bufio.Reader) { io.Copy(c, r) })
		for range 10 {
			c := w.dialTCP("e")
			io.WriteString(c, "x")
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		if dials.Load() == 0 {
			t.Error("the upstream that is down was never asked")
		}
	})
}

// A client of v0.9.0 has no half-close: the end of either side ends both.
func TestTCPWithAnOldClient(t *testing.T) {
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		heard := make(chan string, 2)
		l := w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
			word, _ := r.ReadString('\n')
			io.WriteString(c, "you said "+word)
			if word == "bye\n" {
				return
			}
			rest, err := io.ReadAll(r)
			heard <- fmt.Sprint(string(rest), err)
		})
		dial := func() *websocket.Conn {
			ws, _, err := websocket.DefaultDialer.Dial("ws://"+w.addr+"/_piko/v1/tcp/e", nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ws.Close() })
			return ws
		}
		ws := dial()
		ws.WriteMessage(websocket.BinaryMessage, []byte("bye\n"))
		if _, b, err := ws.ReadMessage(); string(b) != "you said bye\n" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("the end is %v", err)
		}
		ws = dial()
		ws.WriteMessage(websocket.BinaryMessage, []byte("more\n"))
		ws.WriteMessage(websocket.BinaryMessage, []byte("and all"))
		ws.ReadMessage()
		ws.Close() // which says nothing, as v0.9.0
		if got := <-heard; got != "and all<nil>" {
			t.Errorf("the service heard %q", got)
		}
		eventually(t, idle(l))
	})
}

// clientUpstream notes for whom its streams are opened.
type clientUpstream struct {
	upstream
	clients chan netip.AddrPort
}

func (u clientUpstream) Open(ctx context.Context) (net.Conn, error) {
	u.clients <- tunnel.ClientAddr(ctx)
	return u.upstream.Open(ctx)
}

func TestTCPClientAddr(t *testing.T) {
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		for name, c := range map[string]struct {
			trusted []netip.Prefix
			named   string
			want    string // "" is the connection's own
		}{
			"as it is":                {nil, "192.0.2.7", ""},
			"named by a proxy":        {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, "198.51.100.1, 192.0.2.7", "192.0.2.7:0"},
			"named by proxies":        {[]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, "198.51.100.1, 192.0.2.7", "198.51.100.1:0"},
			"nonsense from the proxy": {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, "unknown", ""},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, func(o *Options) { o.TrustedProxies = c.trusted })
				helper := newWorldFor(t, noHop, nil)
				dial := helper.serveRaw("e", func(net.Conn, *bufio.Reader) {}).Upstream().(upstream).Dial
				u := clientUpstream{upstream{&relay.Pool{Dial: dial}}, make(chan netip.AddrPort, 9)}
				l := router.NewLocal(u)
				t.Cleanup(w.table.Add("e", l))
				if w.way != noHop {
					w.ownerFor().add("e", l)
				}
				header := http.Header{"X-Forwarded-For": {c.named}, "X-Piko-Client": {"203.0.113.1:1"}}
				ws, _, err := websocket.DefaultDialer.Dial("ws://"+w.addr+"/_piko/v1/tcp/e", header)
				if err != nil {
					t.Fatal(err)
				}
				defer ws.Close()
				want := c.want
				if want == "" {
					want = ws.LocalAddr().String()
				}
				if got := <-u.clients; got.String() != want {
					t.Errorf("the upstream was told of %v, want %v", got, want)
				}
			})
		}
	})
}

package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"piko/fault"
	"piko/limit"
	"piko/relay"
	"piko/router"
	"piko/tunnel"
)

// limited are the options of a node with limits.
func limited(t testing.TB, l limit.Limits) func(*Options) {
	t.Helper()
	r, err := limit.NewRequests(l, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.Limits = r }
}

// holding serves requests until release is closed; begun gets one value for each.
func holding(begun chan<- struct{}, release <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			begun <- struct{}{}
			<-release
		}
		ok(w, "served")
	}
}

// hold sends n requests to the endpoint that are not answered until the channel that it waits for is closed.
func (w *world) hold(endpoint string, n int, begun <-chan struct{}) (statuses chan int) {
	w.t.Helper()
	statuses = make(chan int, n)
	for range n {
		go func() {
			answer := w.talk("GET /hold HTTP/1.1\r\nHost: x\r\nX-Piko-Endpoint: " + endpoint + "\r\nConnection: close\r\n\r\n")
			var status int
			_, _ = fmt.Sscanf(answer, "HTTP/1.1 %d", &status)
			statuses <- status
		}()
		<-begun
	}
	return statuses
}

// isRefused checks an answer of a limit.
func isRefused(t *testing.T, status int, body string, res *http.Response, code fault.Code) {
	t.Helper()
	if status != code.Status() || res.Header.Get("X-Piko-Error") != string(code) || res.Header.Get("Retry-After") == "" || !strings.Contains(body, string(code)) {
		t.Errorf("got %d %v %q, want %s with Retry-After", status, res.Header, body, code)
	}
}

// TestFullTunnelIsNoFailure: others of the endpoint get the requests; with none left the client gets 503, wherever it
// came in; and the tunnel is as good as any as soon as it has room.
func TestFullTunnelIsNoFailure(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		begun, release := make(chan struct{}), make(chan struct{})
		var locals []*router.Local
		for range 2 {
			l := w.serve("e", holding(begun, release))
			l.SetLimit(2)
			locals = append(locals, l)
		}
		statuses := w.hold("e", 4, begun)
		for _, l := range locals {
			if n := l.InFlight(); n != 2 {
				t.Errorf("%d requests in flight in a tunnel that may have 2", n)
			}
		}
		status, body, res := w.do("POST", "/", strings.NewReader("body"))
		isRefused(t, status, body, res, fault.Overloaded)
		close(release)
		for range 4 {
			if s := <-statuses; s != http.StatusOK {
				t.Errorf("a request that was in flight got %d", s)
			}
		}
		for _, l := range locals {
			eventually(t, idle(l))
		}
		picked := make(map[*router.Local]bool)
		for range 100 {
			picked[w.table.Lookup("e").Pick(time.Now(), rand.Uint64(), nil).Local] = true
		}
		if len(picked) != 2 {
			t.Error("a tunnel that was full is avoided")
		}
	})
}

// TestEndpointLimit counts where the request came in, whatever it is: a request, an upgraded or a TCP connection.
func TestEndpointLimit(t *testing.T) {
	everyWay(t, func(t *testing.T, newWorld worldMaker) {
		for name, start := range map[string]func(w *world) (end func()){
			"requests": func(w *world) func() {
				begun, release := make(chan struct{}), make(chan struct{})
				w.serve("e", holding(begun, release))
				statuses := w.hold("e", 1, begun)
				return func() {
					close(release)
					<-statuses
				}
			},
			"TCP": func(w *world) func() {
				w.serveRaw("e", func(c net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
				c := w.dialTCP("e")
				return func() { c.Close() }
			},
			"upgrades": func(w *world) func() {
				w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
					io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
					io.Copy(io.Discard, r)
				})
				c, err := net.Dial("tcp", w.addr)
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: e.x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				return func() { c.Close() }
			},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, limited(t, limit.Limits{PerEndpoint: 1}))
				w.serve("other", func(w http.ResponseWriter, r *http.Request) { ok(w, "other") })
				end := start(w)
				status, body, res := w.do("GET", "/", nil)
				isRefused(t, status, body, res, fault.Overloaded)
				_, err := (&tunnel.Dialer{URL: "http://" + w.addr}).DialTCP(t.Context(), "e")
				if refused, ok := errors.AsType[*fault.Refused](err); !ok || refused.Code != fault.Overloaded {
					t.Errorf("a TCP connection got %v", err)
				}
				if status, _, _ := w.do("GET", "/", nil, "X-Piko-Endpoint", "other"); status != 200 {
					t.Errorf("another endpoint got %d", status)
				}
				end()
				eventually(t, func() error {
					p, err := w.p.opt.Limits.Begin(time.Now(), "", "e")
					p.End()
					return err
				})
			})
		}
	})
}

// TestRateLimit answers 429 and says when to come back; gRPC reads a status.
func TestRateLimit(t *testing.T) {
	everyWay(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, limited(t, limit.Limits{EndpointRate: limit.Rate{PerSecond: 0.001, Burst: 2}}))
		var served atomic.Int32
		serve := func(w http.ResponseWriter, r *http.Request) { served.Add(1); ok(w, "") }
		w.serve("e", serve)
		w.serve("other", serve)
		for range 2 {
			if status, _, _ := w.do("GET", "/", nil); status != 200 {
				t.Errorf("within the burst: %d", status)
			}
		}
		status, body, res := w.do("POST", "/", strings.NewReader("body"))
		isRefused(t, status, body, res, fault.RateLimited)
		if after := res.Header.Get("Retry-After"); len(after) != 3 && after != "1000" { // just below 1,000 s
			t.Errorf("come back after %s s", after)
		}
		c := w.dialHTTP2()
		c.request(1, true, post("content-type", "application/grpc")...)
		if a := c.read(1); a.header.Get("Grpc-Status") != "8" {
			t.Errorf("gRPC got %+v", a)
		}
		if status, _, _ := w.do("GET", "/", nil, "X-Piko-Endpoint", "other"); status != 200 {
			t.Errorf("another endpoint got %d", status)
		}
		if n := served.Load(); n != 3 {
			t.Errorf("%d requests were served", n)
		}
	})
}

// TestUnknownNamesAreNotCounted (H10): they get what they get without limits, as often as they come.
func TestUnknownNamesAreNotCounted(t *testing.T) {
	w := newWorld(t, limited(t, limit.Limits{PerEndpoint: 1, EndpointRate: limit.Rate{PerSecond: 0.001}}))
	for range 5 {
		if status, _, _ := w.do("GET", "/", nil, "X-Piko-Endpoint", "nobody"); status != http.StatusBadGateway {
			t.Errorf("got %d", status)
		}
	}
}

// TestRequestLoopEnds: an agent whose service is the cluster's own proxy port makes no request go round for ever.
func TestRequestLoopEnds(t *testing.T) {
	everyWay(t, func(t *testing.T, newWorld worldMaker) {
		for name, request := range map[string]string{
			"plain":               "GET / HTTP/1.1\r\nHost: e.x\r\n",
			"with a body":         "POST / HTTP/1.1\r\nHost: e.x\r\nContent-Length: 3\r\n",
			"hidden by its words": "GET / HTTP/1.1\r\nHost: e.x\r\nConnection: cdn-loop\r\n",
			"an upgrade":          "GET / HTTP/1.1\r\nHost: e.x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
			"through others":      "GET / HTTP/1.1\r\nHost: e.x\r\nCDN-Loop: other; a=b, third\r\nCDN-Loop: fourth\r\n",
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, nil)
				var passed atomic.Int32
				var d net.Dialer
				w.add("e", func(ctx context.Context) (net.Conn, error) {
					passed.Add(1)
					return d.DialContext(ctx, "tcp", w.addr)
				})
				answer := w.talk(request + "X-Request-Id: id\r\n" + "\r\n" + "abc"[:strings.Count(request, "Content")*3] + closing)
				if !strings.HasPrefix(answer, "HTTP/1.1 508 ") || !strings.Contains(answer, `"code":"loop-detected"`) {
					t.Errorf("the client got %q", answer)
				}
				if n := passed.Load(); n != maxPasses {
					t.Errorf("the request came by %d times", n+1)
				}
			})
		}
	})
}

// TestLoopHeader is what a service sees, and what counts.
func TestLoopHeader(t *testing.T) {
	for _, tt := range []struct {
		header string
		want   string
		passes int
	}{
		{"", "piko", 0},
		{"other", "other, piko", 0},
		{"other|more; a=\"b\"", "other, more; a=\"b\", piko", 0},
		{"piko", "piko, piko", 1},
		{"pikolo, xpiko, a;piko", "pikolo, xpiko, a;piko, piko", 0},
		{" PIKO ;n=1,\tpiko|,piko,,", "", 3},
		{"piko,piko,piko,piko|piko,piko,piko", "", 7},
	} {
		var values []string
		if tt.header != "" {
			values = strings.Split(tt.header, "|")
		}
		if n := passes(values); n != tt.passes {
			t.Errorf("%q: %d passes, want %d", tt.header, n, tt.passes)
		}
		if got := addPass(values); tt.want != "" && (len(got) != 1 || got[0] != tt.want) {
			t.Errorf("%q: %q goes on, want %q", tt.header, got, tt.want)
		}
		if n := passes(addPass(values)); n != tt.passes+1 {
			t.Errorf("%q: %d passes after another one", tt.header, n)
		}
	}
}

// httpOnly is an upstream that carries no TCP, as a listener for HTTP.
type httpOnly struct {
	upstream
	opens *atomic.Int32
}

func (u httpOnly) Open(context.Context) (net.Conn, error) {
	u.opens.Add(1)
	return nil, fault.New(fault.WrongProtocol, nil)
}

// TestTCPToHTTPEndpointIsRefused with a clear word and at once, and nobody has failed.
func TestTCPToHTTPEndpointIsRefused(t *testing.T) {
	everyWay(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		helper := newWorldFor(t, noHop, nil)
		dial := helper.serve("e", func(w http.ResponseWriter, r *http.Request) { ok(w, "http") }).Upstream().(upstream).Dial
		var opens atomic.Int32
		pool := &relay.Pool{Dial: dial}
		t.Cleanup(pool.Close)
		l := router.NewLocal(httpOnly{upstream{pool}, &opens})
		t.Cleanup(w.table.Add("e", l))
		if w.way != noHop {
			w.ownerFor().add("e", l)
		}
		for range 10 {
			_, err := (&tunnel.Dialer{URL: "http://" + w.addr}).DialTCP(t.Context(), "e")
			refused, ok := errors.AsType[*fault.Refused](err)
			if !ok || refused.Code != fault.WrongProtocol || refused.Status != 400 || refused.Text != fault.WrongProtocol.Text() {
				t.Fatalf("got %v", err)
			}
			if status, _, _ := w.do("GET", "/", nil); status != 200 { // at once: it was neither ejected nor missed
				t.Fatalf("a request got %d", status)
			}
		}
		if n := opens.Load(); n != 10 {
			t.Errorf("the upstream was asked %d times", n)
		}
		eventually(t, idle(l))
	})
}

// TestClientsCannotHaveAServiceAvoided (I8): a service that resets a connection after what it was sent is not blamed, one
// that does so at once is.
func TestClientsCannotHaveAServiceAvoided(t *testing.T) {
	for name, avoided := range map[string]bool{"provoked": false, "by its own": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			var bad *router.Local
			if avoided {
				bad = w.tunnelled("e", func() (net.Conn, error) { return nil, errors.New("refused") })
			} else {
				bad = w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
					io.ReadFull(r, make([]byte, len("nonsense")))
					c.(*net.TCPConn).SetLinger(0)
				})
			}
			began := time.Now() // before any time for which it is avoided is over
			for range 5 {
				c := w.dialTCP("e")
				if !avoided {
					io.WriteString(c, "nonsense")
				}
				if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || err == io.EOF {
					t.Fatalf("read %d, %v", n, err)
				}
				c.Close()
				eventually(t, idle(bad))
			}
			t.Cleanup(w.table.Add("e", router.NewLocal(nil)))
			picked := false
			for rnd := range uint64(50) {
				picked = picked || w.table.Lookup("e").Pick(began, rnd, nil).Local == bad
			}
			if picked == avoided {
				t.Errorf("it is picked: %v", picked)
			}
		})
	}
}

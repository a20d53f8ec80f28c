package relay

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// forwarder is the least handler that forwards: what the agent's does.
func forwarder(p *Pool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				copyHeader(w.Header(), http.Header(h))
				w.WriteHeader(code)
				clear(w.Header())
				return nil
			},
		})
		out := r.WithContext(ctx)
		out.URL = &url.URL{Opaque: r.RequestURI}
		out.Header = OutHeader(r.Header, nil)
		out.Close = false // that is about the client's connection
		body := TakeBody(w, r, BodyOptions{Keep: 64 << 10})
		defer body.Finish()
		body.Attach(out)
		res, err := p.RoundTrip(out)
		if err != nil {
			w.Header().Set("X-Error", strings.Map(func(r rune) rune { return max(r, ' ') }, err.Error()))
			if _, ok := errors.AsType[*ClientError](err); ok {
				w.WriteHeader(400)
			} else {
				w.WriteHeader(502)
			}
			return
		}
		body.Release()
		if res.StatusCode == 101 {
			Upgrade(w, r, res)
			return
		}
		if _, err := CopyResponse(w, res); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// noPanics fails the test when net/http reports a panic, which the client would only see as a closed connection.
type noPanics struct{ t testing.TB }

func (n noPanics) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("panic")) {
		n.t.Errorf("%s", b)
	}
	return len(b), nil
}

// front is a server with the handler; it returns its address.
func front(t testing.TB, h http.Handler) string {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(noPanics{t}, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// talk sends text over a new connection and returns all that comes back until the server closes it, or for a moment
// when it does not.
func talk(t testing.TB, addr, text string, wait time.Duration) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, text)
	c.SetReadDeadline(time.Now().Add(wait))
	b, _ := io.ReadAll(c)
	return string(b)
}

// exactly sends text and returns the next n bytes, and what comes within a moment behind them.
func exactly(t *testing.T, addr, text string, n int) string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, text)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, n)
	m, _ := io.ReadFull(c, b)
	c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	rest, _ := io.ReadAll(c)
	return string(b[:m]) + string(rest)
}

// What comes between a client and a service: each answer must look to the client as it was meant.
func TestForwardedResponses(t *testing.T) {
	const chunked = "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n"
	for _, tt := range []struct{ name, request, answer, want string }{
		{"no Content-Type is made up", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 6\r\n\r\n<html>",
			"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nDate: x\r\n\r\n<html>"},
		{"hop-by-hop fields", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 1\r\nConnection: x-a, keep-alive\r\nX-A: 1\r\nX-B: 2\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nProxy: x\r\nProxy-Authenticate: Basic\r\n\r\nx",
			"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nDate: x\r\nX-B: 2\r\n\r\nx"},
		{"HEAD", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 500\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nDate: x\r\n\r\n"},
		{"204", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n", "HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n"},
		{"304", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nDate: x\r\nEtag: \"a\"\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nDate: x\r\nEtag: \"a\"\r\n\r\n"},
		{"order and bytes of values", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			"HTTP/1.1 200 OK\r\nDate: x\r\nSet-Cookie: b=1\r\nSet-Cookie: a=\xff\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: x\r\nSet-Cookie: b=1\r\nSet-Cookie: a=\xff\r\n\r\n"},
		{"trailers", "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
			chunked + "Trailer: X-A\r\n\r\n2\r\nok\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
			chunked[:len(chunked)-len("Transfer-Encoding: chunked\r\n")] + "Trailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"},
		{"trailers without a body", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", chunked + "\r\n0\r\nX-A: 1\r\n\r\n", chunked + "\r\n0\r\nX-A: 1\r\n\r\n"},
		{"forbidden trailers", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", chunked + "\r\n0\r\nContent-Length: 1\r\nX-Piko-Error: x\r\n\r\n",
			"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n"},
		{"early hints", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: x\r\n\r\n"},
		{"HTTP/1.0 client", "GET / HTTP/1.0\r\n\r\n", chunked + "\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.0 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := front(t, forwarder(answers(t, tt.answer)))
			got := exactly(t, addr, tt.request, len(tt.want))
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// An answer that dies half-way must not look whole.
func TestBrokenResponseLooksBroken(t *testing.T) {
	for name, answer := range map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
		"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			addr := front(t, forwarder(answers(t, answer)))
			res, err := http.Get("http://" + addr)
			if err == nil {
				defer res.Body.Close()
				_, err = io.ReadAll(res.Body)
			}
			if err == nil {
				t.Error("the client took half an answer for a whole one")
			}
		})
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// Whatever was given up of a request's body is never taken for the next request, and the connection closes.
func TestUnreadBodyIsNoRequest(t *testing.T) {
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, request := range map[string]string{
		"bad chunk":       "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + smuggled,
		"half a chunk":    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
		"half a body":     "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + smuggled,
		"no body":         "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
		"expected 100":    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
		"no length known": "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			p := rawService(t, func(c net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err == nil {
					requests.Add(1)
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
					io.Copy(io.Discard, r)
				}
			})
			addr := front(t, forwarder(p))
			start := time.Now()
			got := talk(t, addr, request, 5*time.Second)
			if n := strings.Count(got, "HTTP/1.1 "); n != 1 && !(n == 2 && name == "expected 100") {
				t.Errorf("%d answers: %q", n, got)
			}
			if n := requests.Load(); n > 1 {
				t.Errorf("the service got %d requests", n)
			}
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("the connection was closed after %v only", d)
			}
		})
	}
}

// Both directions go on at the same time, piece by piece.
func TestForwardedDuplex(t *testing.T) {
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	addr := front(t, forwarder(p))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	var body io.Reader
	buf := make([]byte, 100)
	for i := range 10 {
		fmt.Fprintf(c, "2\r\n%02d\r\n", i)
		if body == nil {
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body = res.Body
		}
		if n, err := body.Read(buf); string(buf[:n]) != fmt.Sprintf("%02d", i) || err != nil {
			t.Fatalf("message %d: got %q, %v", i, buf[:n], err)
		}
	}
	io.WriteString(c, "0\r\n\r\n")
	if _, err := body.Read(buf); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	wantIdle(t, p, 1)
}

// The end of a response must reach a client that still holds its request open.
func TestServiceEndsFirst(t *testing.T) {
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.ReadFull(r.Body, make([]byte, 5))
		w.Write([]byte("enough"))
	})
	addr := front(t, forwarder(p))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if b, err := io.ReadAll(res.Body); string(b) != "enough" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if d := time.Since(start); d > lingering/2 {
		t.Errorf("the end of the response took %v", d)
	}
}

// A client that goes away ends the exchange with the service, whatever stage it is in.
func TestClientGoesAway(t *testing.T) {
	gone := make(chan string, 1)
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/upload":
			_, err := io.Copy(io.Discard, r.Body)
			gone <- fmt.Sprint(err != nil)
		case "/download":
			var err error
			for err == nil {
				_, err = w.Write(make([]byte, 64<<10))
			}
			gone <- "true"
		default:
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
			gone <- "true"
		}
	})
	addr := front(t, forwarder(p))
	for _, request := range []string{
		"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /download HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello",
		"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 90_000),
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, request)
		time.AfterFunc(20*time.Millisecond, func() { c.Close() })
		select {
		case broken := <-gone:
			if broken != "true" {
				t.Errorf("%.20q: the service saw no failure", request)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%.20q: the service was not told", request)
		}
	}
	wantIdle(t, p, 0)
}

// Every part of a response comes through when it was sent, chunk by chunk, also where its length is known: a service
// may pause within any body.
func TestStreamingIsNotHeldBack(t *testing.T) {
	for name, pieces := range map[string][]string{
		"chunked": {
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
			"3\r\none\r\n", "3\r\ntwo\r\n5", "\r\nthree\r\n4\r\n", "four", "\r\n0\r\n\r\n",
		},
		"known length": {"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n", "one", "two", "three", "four", ""},
	} {
		t.Run(name, func(t *testing.T) { testNotHeldBack(t, pieces) })
	}
}

func testNotHeldBack(t *testing.T, pieces []string) {
	next := make(chan struct{})
	defer close(next)
	p := rawService(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		for _, piece := range pieces {
			<-next
			io.WriteString(c, piece)
		}
	})
	addr := front(t, forwarder(p))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	next <- struct{}{}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for _, want := range []string{"one", "two", "three", "four", ""} {
		next <- struct{}{}
		n, err := res.Body.Read(buf)
		if end := want == "four" || want == ""; string(buf[:n]) != want || err != nil && (err != io.EOF || !end) {
			t.Fatalf("got %q and %v, want %q", buf[:n], err, want)
		}
	}
}

var full = flag.Bool("full", false, "run the long versions of tests")

// Answers to POSTs are neither truncated nor lost. Without full duplex 3 in 1,000 were.
func TestEchoedPosts(t *testing.T) {
	requests := 1600
	if *full {
		requests = 30_000
	}
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Write(b)
	})
	addr := front(t, forwarder(p))
	tr := &http.Transport{MaxIdleConnsPerHost: 16}
	defer tr.CloseIdleConnections()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			sent := make([]byte, 64<<10)
			for i := range sent {
				sent[i] = byte(rand.Uint32())
			}
			for range requests / 16 {
				req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr, bytes.NewReader(sent))
				res, err := tr.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || !bytes.Equal(got, sent) {
					t.Errorf("got %d of %d bytes, %v", len(got), len(sent), err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := p.idleConns(); n > 16 || n < 1 {
		t.Errorf("%d connections for 16 clients", n)
	}
}

func TestProgressTimeout(t *testing.T) {
	saw := make(chan bool, 1)
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		saw <- err != nil
	})
	got := make(chan error, 1)
	addr := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := TakeBody(w, r, BodyOptions{Progress: 50 * time.Millisecond})
		defer body.Finish()
		out := post(t, "/", nil)
		body.Attach(out)
		_, err := p.RoundTrip(out)
		got <- err
		w.WriteHeader(408)
	}))
	start := time.Now()
	answer := talk(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhello", 5*time.Second)
	var ne net.Error
	if err := <-got; !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("got %v", err)
	}
	if !strings.HasPrefix(answer, "HTTP/1.1 408 ") || !strings.Contains(answer, "Connection: close") || time.Since(start) > 2*time.Second {
		t.Errorf("after %v: %q", time.Since(start), answer)
	}
	if !<-saw {
		t.Error("the service took the body for whole")
	}
}

package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/accesslog"
	"piko/auth"
	"piko/relay"
	"piko/router"
)

// memListener hands out connections in memory.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newMemListener() *memListener {
	l := &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error   { l.close(); return nil }
func (l *memListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

func (l *memListener) dial(context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	l.conns <- far
	return near, nil
}

// bubble is a proxy port and a service for "e" in virtual time.
type bubble struct {
	t     *testing.T
	ln    *memListener
	table *router.Table
	reg   *prometheus.Registry
	out   lines
	start time.Time
	guard *auth.Guard
	token string      // that is good for an hour
	ended chan string // what the service says of its connections' ends
}

// hour is what a token is good for, in a bubble.
const hour = time.Hour

// inHour runs a test with a proxy port that wants tokens. serve is the service: it says how it ended.
func inHour(t *testing.T, cfg auth.Config, serve func(c net.Conn, r *bufio.Reader) string, test func(b *bubble)) {
	runtime.GC() // alarms are pooled, and may not cross into a bubble
	runtime.GC()
	defer runtime.GC()
	defer runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, ln: newMemListener(), table: router.NewTable(), reg: prometheus.NewRegistry(), start: time.Now(), ended: make(chan string, 8)}
		b.token = mint(keyAll, expiresAt(b.start.Add(hour)))
		cfg.HMACSecretKeys = []string{keyAll}
		b.guard = newGuard(t, auth.Options{Default: cfg})
		p, err := NewPublic(Options{
			Lookup: b.table.Lookup, Auth: b.guard, Registerer: b.reg,
			Timeout: -1, ReadTimeout: -1, WriteTimeout: -1,
			AccessLog: accesslog.New(&b.out, accesslog.Config{}, accesslog.Options{}),
		})
		if err != nil {
			t.Fatal(err)
		}
		var services sync.WaitGroup
		pool := &relay.Pool{Dial: func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			services.Go(func() {
				defer far.Close()
				b.ended <- serve(far, bufio.NewReader(far))
			})
			return near, nil
		}}
		defer b.table.Add("e", router.NewLocal(upstream{pool}))()
		s := &http.Server{Handler: p, ErrorLog: log.New(noPanics{t}, "", 0), Protocols: new(http.Protocols)}
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
		var serving sync.WaitGroup
		serving.Go(func() { s.Serve(b.ln) })
		test(b)
		s.Close()
		serving.Wait()
		pool.Close()
		services.Wait()
	})
}

// ask opens a connection and writes a request for the endpoint, with more fields; body follows it.
func (b *bubble) ask(fields, body string) (net.Conn, *bufio.Reader) {
	b.t.Helper()
	c, err := b.ln.dial(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	b.write(c, "GET / HTTP/1.1\r\nHost: e.x\r\n"+fields+"\r\n"+body)
	return c, bufio.NewReader(c)
}

// write writes as far as somebody reads.
func (b *bubble) write(c net.Conn, text string) {
	go io.WriteString(c, text)
}

// at fails the test unless this is the time since its start.
func (b *bubble) at(what string, want time.Duration) {
	b.t.Helper()
	if got := time.Since(b.start); got != want {
		b.t.Errorf("%s after %v, want %v", what, got, want)
	}
}

// lapsed fails the test unless one request has ended with its token, and the log says so.
func (b *bubble) lapsed(want int) {
	b.t.Helper()
	synctest.Wait()
	if got := text(b.t, b.reg); !strings.Contains(got, fmt.Sprintf("piko_proxy_token_expiries_total %d\n", want)) {
		b.t.Errorf("the metrics do not have %d expiries: %s", want, got)
	}
	if !strings.Contains(text(b.t, b.reg), "piko_proxy_requests_in_flight 0\n") {
		b.t.Error("requests are still in flight")
	}
	if got := strings.Join(b.out.take(), ""); strings.Count(got, "expired token while it was in use") != want {
		b.t.Errorf("the log does not have %d expiries: %s", want, got)
	}
}

// swallow reads what comes until the end, and says how it ended.
func swallow(_ net.Conn, r *bufio.Reader) string {
	_, err := io.Copy(io.Discard, r)
	return fmt.Sprint(err)
}

// events answers, and says something every eleven minutes until nobody listens: not in the moment when an hour ends.
func events(c net.Conn, r *bufio.Reader) string {
	req, err := http.ReadRequest(r)
	if err != nil {
		return "no request"
	}
	kind := "text/event-stream"
	if strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc") {
		kind = "application/grpc"
	}
	io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: "+kind+"\r\nTransfer-Encoding: chunked\r\n\r\n")
	for {
		if _, err := io.WriteString(c, "5\r\nevent\r\n"); err != nil {
			return "nobody listens"
		}
		time.Sleep(11 * time.Minute)
	}
}

// A response that has not come by then is not for this client.
func TestWaitingRequestEndsWithItsToken(t *testing.T) {
	inHour(t, auth.Config{}, swallow, func(b *bubble) {
		c, r := b.ask(bearer(b.token), "")
		defer c.Close()
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != 401 || res.Header.Get("X-Piko-Error") != "expired-token" {
			t.Errorf("got %+v, %v", res, err)
		}
		b.at("the answer came", hour)
		<-b.ended
		b.lapsed(1)
	})
}

// One that is under way breaks off, so that nobody takes it for the whole.
func TestStreamEndsWithItsToken(t *testing.T) {
	inHour(t, auth.Config{}, events, func(b *bubble) {
		c, r := b.ask(bearer(b.token), "")
		defer c.Close()
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if string(body) != strings.Repeat("event", 6) || err != io.ErrUnexpectedEOF {
			t.Errorf("read %q, %v", body, err)
		}
		b.at("the response ended", hour)
		if got := <-b.ended; got != "nobody listens" {
			t.Errorf("the service: %s", got)
		}
		b.lapsed(1)
	})
}

// A client that reads nothing holds nothing up either.
func TestStreamThatNobodyReadsEndsWithItsToken(t *testing.T) {
	flood := func(c net.Conn, r *bufio.Reader) string {
		if _, err := http.ReadRequest(r); err != nil {
			return "no request"
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for chunk := "10000\r\n" + strings.Repeat("a", 1<<16) + "\r\n"; ; {
			if _, err := io.WriteString(c, chunk); err != nil {
				return "nobody listens"
			}
		}
	}
	inHour(t, auth.Config{}, flood, func(b *bubble) {
		c, _ := b.ask(bearer(b.token), "")
		defer c.Close()
		time.Sleep(hour + lapseGrace)
		<-b.ended
		b.at("the service was let go", hour+lapseGrace)
		b.lapsed(1)
	})
	inHour(t, auth.Config{}, flood, func(b *bubble) { // over HTTP/2, where a window is what is not opened
		tr := b.transport()
		defer tr.CloseIdleConnections()
		res, err := tr.RoundTrip(b.request("GET", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		time.Sleep(hour + lapseGrace)
		<-b.ended
		b.lapsed(1)
	})
}

// transport speaks HTTP/2.
func (b *bubble) transport() *http.Transport {
	tr := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return b.ln.dial(ctx) }}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return tr
}

func (b *bubble) request(method string, body io.Reader, header ...string) *http.Request {
	req, err := http.NewRequestWithContext(b.t.Context(), method, "http://e.x/", body)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+b.token)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

func TestHTTP2StreamEndsWithItsToken(t *testing.T) {
	inHour(t, auth.Config{}, events, func(b *bubble) {
		tr := b.transport()
		defer tr.CloseIdleConnections()
		res, err := tr.RoundTrip(b.request("GET", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if string(body) != strings.Repeat("event", 6) || err == nil {
			t.Errorf("read %q, %v", body, err)
		}
		b.at("the stream ended", hour)
		<-b.ended
		b.lapsed(1)
	})
}

// gRPC is told why, in trailers, or in place of a response.
func TestGRPCEndsWithItsToken(t *testing.T) {
	for name, serve := range map[string]func(net.Conn, *bufio.Reader) string{"waiting": swallow, "under way": events} {
		t.Run(name, func(t *testing.T) {
			inHour(t, auth.Config{}, serve, func(b *bubble) {
				tr := b.transport()
				defer tr.CloseIdleConnections()
				res, err := tr.RoundTrip(b.request("POST", nil, "Content-Type", "application/grpc", "TE", "trailers"))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if _, err := io.ReadAll(res.Body); err != nil {
					t.Error(err)
				}
				if status := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status"); status != "16" {
					t.Errorf("the status is %q", status)
				}
				b.at("the call ended", hour)
				<-b.ended
				b.lapsed(1)
			})
		})
	}
}

// upgraded answers with 101 and says what else it reads.
func upgraded(protocol string) func(c net.Conn, r *bufio.Reader) string {
	return func(c net.Conn, r *bufio.Reader) string {
		if _, err := http.ReadRequest(r); err != nil {
			return "no request"
		}
		io.WriteString(c, "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
		b, _ := io.ReadAll(r)
		return string(b)
	}
}

// A WebSocket is told, if it is between two frames; anything else just ends.
func TestUpgradedConnectionEndsWithItsToken(t *testing.T) {
	for _, protocol := range []string{"websocket", "other"} {
		t.Run(protocol, func(t *testing.T) {
			inHour(t, auth.Config{}, upgraded(protocol), func(b *bubble) {
				c, r := b.ask(bearer(b.token)+"Connection: Upgrade\r\nUpgrade: "+protocol+"\r\n", "")
				defer c.Close()
				if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 101 {
					t.Fatalf("got %+v, %v", res, err)
				}
				var said []byte
				if protocol == "websocket" {
					said = make([]byte, 4)
					if _, err := io.ReadFull(r, said); err != nil || string(said) != "\x88\x02\x03\xe9" {
						t.Errorf("read %q, %v; want a close frame of status 1001", said, err)
					}
					b.at("it was told", hour)
				}
				rest, _ := io.ReadAll(r)
				if len(rest) > 0 {
					t.Errorf("read %q as well", rest)
				}
				if got := time.Since(b.start); got < hour || got > hour+2*time.Second {
					t.Errorf("it ended after %v", got)
				}
				if got := <-b.ended; (got != "") != (protocol == "websocket") {
					t.Errorf("the service read %q", got)
				}
				b.lapsed(1)
			})
		})
	}
}

func TestTCPEndsWithItsToken(t *testing.T) {
	inHour(t, auth.Config{}, swallow, func(b *bubble) {
		c, err := b.ln.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b.write(c, "GET /_piko/v1/tcp/e HTTP/1.1\r\nHost: h\r\n"+webSocket+bearer(b.token)+"\r\n")
		r := bufio.NewReader(c)
		if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 101 {
			t.Fatalf("got %+v, %v", res, err)
		}
		io.ReadAll(r)
		b.at("the connection ended", hour)
		<-b.ended
		b.lapsed(1)
	})
}

// Nothing of it concerns a token that does not expire, a port that does not mind, or a request that is over: its
// connection goes on with the next token.
func TestWhatOutlivesItsToken(t *testing.T) {
	quick := func(c net.Conn, r *bufio.Reader) string {
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return "no more"
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
	inHour(t, auth.Config{}, quick, func(b *bubble) {
		c, r := b.ask(bearer(b.token), "")
		defer c.Close()
		for i := range 2 {
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != 200 {
				t.Fatalf("got %+v, %v", res, err)
			}
			io.Copy(io.Discard, res.Body)
			if i == 0 {
				time.Sleep(2 * hour)
				b.write(c, "GET / HTTP/1.1\r\nHost: e.x\r\n"+bearer(mint(keyAll, expiresAt(time.Now().Add(hour))))+"\r\n")
			}
		}
		b.lapsed(0)
	})
	for name, try := range map[string]struct {
		cfg   auth.Config
		token func(b *bubble) string
	}{
		"without exp":                  {auth.Config{}, func(*bubble) string { return mint(keyAll, nil) }},
		"disable-disconnect-on-expiry": {auth.Config{DisableDisconnectOnExpiry: true}, func(b *bubble) string { return b.token }},
	} {
		t.Run(name, func(t *testing.T) {
			inHour(t, try.cfg, events, func(b *bubble) {
				c, r := b.ask(bearer(try.token(b)), "")
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(res.Body, make([]byte, 5*30)); err != nil {
					t.Errorf("it ended after %v: %v", time.Since(b.start), err)
				}
				c.Close()
				<-b.ended
				b.lapsed(0)
			})
		})
	}
}

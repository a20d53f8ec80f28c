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
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually fails the test with the last error if f has not succeeded within 5 s.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if err = f(); err == nil {
			return
		}
		<-time.After(time.Millisecond)
	}
	t.Fatal(err)
}

// dialer makes a pool for a service at addr, which ends with the test.
func newPool(t testing.TB, addr string) *Pool {
	var d net.Dialer
	p := &Pool{Dial: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }}
	t.Cleanup(p.Close)
	return p
}

// service is a net/http service; it returns a pool for it.
func service(t testing.TB, h http.HandlerFunc) *Pool {
	s := httptest.NewServer(h)
	p := newPool(t, s.Listener.Addr().String())
	t.Cleanup(s.Close)
	return p
}

// rawService is a service that does what serve does with each connection.
func rawService(t testing.TB, serve func(c net.Conn, r *bufio.Reader)) *Pool {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	conns := make(chan net.Conn, 1000)
	go func() {
		defer close(done)
		var running []chan struct{}
		for {
			c, err := ln.Accept()
			if err != nil {
				break
			}
			conns <- c
			end := make(chan struct{})
			running = append(running, end)
			go func() {
				defer close(end)
				defer c.Close()
				serve(c, bufio.NewReader(c))
			}()
		}
		for _, end := range running {
			<-end
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		close(conns)
		for c := range conns {
			c.Close()
		}
		<-done
	})
	return newPool(t, ln.Addr().String())
}

// answers is a service that reads one request after the other and answers each with the next of the texts, then hangs up.
func answers(t testing.TB, texts ...string) *Pool {
	return rawService(t, func(c net.Conn, r *bufio.Reader) {
		for _, text := range texts {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, text)
		}
	})
}

func get(t testing.TB, url string) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://service.test"+url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func post(t testing.TB, url string, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://service.test"+url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// mustDo makes an exchange that has to succeed, and returns the response with its body read.
func mustDo(t testing.TB, p *Pool, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := p.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: read body: %v", req.Method, req.URL, err)
	}
	return res, string(b)
}

// idleConns is how many connections the pool holds.
func (p *Pool) idleConns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

func (p *Pool) busyConns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy
}

// wantIdle waits until the pool holds n idle connections and none is in use.
func wantIdle(t *testing.T, p *Pool, n int) {
	t.Helper()
	eventually(t, func() error {
		if i, b := p.idleConns(), p.busyConns(); i != n || b != 0 {
			return errors.New(strings.Join([]string{"connections idle, in use:", itoa(i), itoa(b), "want", itoa(n), "0"}, " "))
		}
		return nil
	})
}

func itoa(n int) string { return string(rune('0' + n)) }

package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"
)

// byteConn is a gorilla WebSocket as v0.9.0 uses it: a stream of bytes in
// binary messages.
type byteConn struct {
	*websocket.Conn
	r io.Reader
}

func (c *byteConn) Read(p []byte) (int, error) {
	for {
		if c.r == nil {
			kind, r, err := c.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("unexpected message type")
			}
			c.r = r
		}
		n, err := c.r.Read(p)
		if err == io.EOF {
			c.r = nil
			if err = nil; n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (c *byteConn) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

func (c *byteConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// oldServer is what a v0.9.0 server is to an upstream: gorilla/websocket, and
// yamux with its defaults, which opens a stream per request.
type oldServer struct {
	url      string
	sessions chan *oldTunnel
}

type oldTunnel struct {
	ws   *byteConn
	sess *yamux.Session
}

func startOldServer(t *testing.T) *oldServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &oldServer{url: "http://" + ln.Addr().String() + "/prefix", sessions: make(chan *oldTunnel, 16)}
	srv := &http.Server{Handler: s}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() {
		srv.Close()
		wg.Wait()
	})
	return s
}

func (s *oldServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/prefix/piko/v1/upstream/My-Endpoint" { // it tells cases apart
		http.NotFound(w, r)
		return
	}
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	tun := &oldTunnel{ws: &byteConn{Conn: ws}}
	if tun.sess, err = yamux.Server(tun.ws, cfg); err == nil {
		s.sessions <- tun
	}
}

// tunnel waits for the next tunnel.
func (s *oldServer) tunnel(t *testing.T) *oldTunnel {
	t.Helper()
	select {
	case tun := <-s.sessions:
		t.Cleanup(func() { tun.sess.Close() })
		return tun
	case <-time.After(5 * time.Second):
		t.Fatal("no tunnel within 5 s")
		return nil
	}
}

// post sends a request over a stream of its own.
func (tun *oldTunnel) post(body string) (string, error) {
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return tun.sess.Open() },
	}
	res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Post("http://endpoint/", "text/plain", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func TestOldServerIsServed(t *testing.T) {
	t.Parallel()
	s := startOldServer(t)
	serve(t, &Client{URL: s.url}, "My-Endpoint", echo)
	tun := s.tunnel(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			want := strings.Repeat("0123456789", 60000) // more than a window
			if got, err := tun.post(want); err != nil || got != want {
				t.Errorf("%d bytes came back, %v", len(got), err)
			}
		})
	}
	wg.Wait()
}

func TestListenerComesBackToAnOldServer(t *testing.T) {
	t.Parallel()
	s := startOldServer(t)
	var st states
	serve(t, &Client{URL: s.url, OnState: st.add}, "My-Endpoint", echo)
	for _, end := range []struct {
		how string
		f   func(tun *oldTunnel)
	}{
		{"closed, as its shutdown does", func(tun *oldTunnel) { tun.sess.Close() }},
		{"goaway and closed", func(tun *oldTunnel) { tun.sess.GoAway(); tun.sess.Close() }},
		{"reset", func(tun *oldTunnel) {
			tun.ws.NetConn().(*net.TCPConn).SetLinger(0)
			tun.ws.NetConn().Close()
		}},
		{"close frame", func(tun *oldTunnel) {
			tun.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1001, ""), time.Now().Add(time.Second))
		}},
		{"text frame", func(tun *oldTunnel) { tun.ws.NetConn().Write([]byte("\x81\x05hello")) }},
	} {
		tun := s.tunnel(t)
		if got, err := tun.post("hello"); err != nil || got != "hello" {
			t.Fatalf("before it was %s: %q, %v", end.how, got, err)
		}
		end.f(tun)
	}
	s.tunnel(t)
}

// What a v0.9.0 server opens before it has heard of our stop is served: of what
// it could open, nothing is lost.
func TestOldServerLosesNothingByOurShutdown(t *testing.T) {
	t.Parallel()
	s := startOldServer(t)
	for range 5 {
		ln := serve(t, &Client{URL: s.url}, "My-Endpoint", echo)
		tun := s.tunnel(t)
		var served atomic.Int64
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for {
					got, err := tun.post("hello")
					if errors.Is(err, yamux.ErrRemoteGoAway) || errors.Is(err, yamux.ErrSessionShutdown) {
						return // was not opened
					}
					if err != nil || got != "hello" {
						t.Errorf("after %d requests: %q, %v", served.Load(), got, err)
						return
					}
					served.Add(1)
				}
			})
		}
		eventually(t, func() error {
			if served.Load() < 50 {
				return errors.New("no requests")
			}
			return nil
		})
		if err := ln.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		clients.Wait()
	}
}

func TestShutdownFromAnOldServer(t *testing.T) {
	t.Parallel()
	s := startOldServer(t)
	begun, release := make(chan struct{}, 16), make(chan struct{})
	ln := serve(t, &Client{URL: s.url}, "My-Endpoint", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-release
		io.WriteString(w, "late")
	}))
	tun := s.tunnel(t)
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			got, err := tun.post("")
			if err == nil && got != "late" {
				err = errors.New("read " + got)
			}
			results <- err
		}()
	}
	for range cap(results) {
		<-begun
	}
	stopped := make(chan error, 1)
	go func() { stopped <- ln.Shutdown(t.Context()) }()
	eventually(t, func() error {
		st, err := tun.sess.Open()
		if err == nil {
			st.Close()
			return errors.New("the server can still open streams")
		}
		if !errors.Is(err, yamux.ErrRemoteGoAway) {
			t.Fatalf("the server was told %v", err)
		}
		return nil
	})
	close(release)
	for range cap(results) {
		if err := <-results; err != nil {
			t.Errorf("a request under way: %v", err)
		}
	}
	if err := <-stopped; err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

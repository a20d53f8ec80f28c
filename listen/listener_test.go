package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func prefixes(list ...string) (all []netip.Prefix) {
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestPlainPortHandsConnectionsOutAsTheyCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{})
		client := p.mem.dial("198.51.100.1")
		nc := p.next(t) // though it has said nothing yet
		say(client, "hello")
		if got, err := read(nc, 5); got != "hello" {
			t.Errorf("read %q, %v", got, err)
		}
		if got := nc.RemoteAddr().String(); got != "198.51.100.1:4000" {
			t.Errorf("the client is %s", got)
		}
		if got := p.count(t, "piko_port_connections", ""); got != 1 {
			t.Errorf("%d connections are open, want 1", got)
		}
		nc.Close()
		nc.Close()
		if got := p.count(t, "piko_port_connections", ""); got != 0 {
			t.Errorf("%d connections are open after the end of the only one", got)
		}
	})
}

func TestTLSPort(t *testing.T) {
	for _, tt := range []struct {
		name   string
		protos []string
		h2     bool
	}{
		{"HTTP/2", []string{"h2", "http/1.1"}, true},
		{"HTTP/1.1", []string{"http/1.1"}, false},
		{"no ALPN", nil, false},
	} {
		for _, wrapped := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opt := Options{TLS: serverTLS(t), AllowPlain: true}
					if wrapped {
						opt.Wrap = func(nc net.Conn) net.Conn { return &wrapper{nc} }
					}
					p := open(t, opt)
					client := tls.Client(p.mem.dial("198.51.100.1"), clientTLS(tt.protos...))
					if err := client.Handshake(); err != nil {
						t.Fatal(err)
					}
					nc := p.next(t)
					_, isTLS := nc.(*tls.Conn)
					if want := tt.h2 || !wrapped; isTLS != want {
						t.Errorf("net/http gets a *tls.Conn: %v, want %v", isTLS, want)
					}
					c := ConnState(ConnContext(t.Context(), nc))
					if c == nil || c.Plain() || c.Restricted() {
						t.Errorf("the connection is known as %+v", c)
					}
					go client.Write([]byte("hello"))
					if got, err := read(nc, 5); got != "hello" {
						t.Errorf("read %q, %v", got, err)
					}
				})
			})
		}
	}
}

// A handshake for another protocol, such as ACME's acme-tls/1, is made without a
// client certificate: nothing may come of it.
func TestHandshakesForOtherProtocolsLeadNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := serverTLS(t)
		cfg.NextProtos = append(cfg.NextProtos, "acme-tls/1")
		p := open(t, Options{TLS: cfg, AllowPlain: true})
		client := tls.Client(p.mem.dial("198.51.100.1"), clientTLS("acme-tls/1"))
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		if took := ended(t, client); took != 0 {
			t.Errorf("the connection ends after %v", took)
		}
		synctest.Wait()
		if len(p.accepted) > 0 {
			t.Error("the connection was handed out")
		}
	})
}

type wrapper struct{ net.Conn }

func (w *wrapper) NetConn() net.Conn { return w.Conn }

func TestPortWithTLSThatAllowsPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{TLS: serverTLS(t), AllowPlain: true})
		client := p.mem.dial("198.51.100.1")
		say(client, "GET / HTTP/1.1")
		nc := p.next(t)
		c := ConnState(ConnContext(context.Background(), nc))
		if !c.Plain() || c.TCPConn() != nil {
			t.Errorf("the connection is known as %+v", c)
		}
		if got, err := read(nc, 14); got != "GET / HTTP/1.1" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

// Whoever serves a port that requires TLS must not have to look.
func TestPortWithTLSHandsOutNoPlainConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{TLS: serverTLS(t)})
		client := p.mem.dial("198.51.100.1")
		say(client, "GET / HTTP/1.1\r\nHost: e.test\r\n\r\n")
		text, err := io.ReadAll(client)
		if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 400 Bad Request\r\n") || !strings.Contains(string(text), "this port speaks TLS") {
			t.Errorf("the client reads %q, %v", text, err)
		}
		if len(p.accepted) > 0 {
			t.Error("a connection without TLS was handed out")
		}
		if got := p.refusedAs(t, "plain"); got != 1 {
			t.Errorf("%d refused", got)
		}
	})
}

// A handshake that stalls, at whichever byte, costs 10 s and holds up nobody.
func TestHandshakesThatStall(t *testing.T) {
	hello := clientHello(t)
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{TLS: serverTLS(t), AllowPlain: true})
		var stalled []net.Conn
		for n := range len(hello) { // 0 is silence
			nc := p.mem.dial("198.51.100.1")
			say(nc, hello[:n])
			stalled = append(stalled, nc)
		}
		honest := tls.Client(p.mem.dial("198.51.100.2"), clientTLS("h2"))
		began := time.Now()
		if err := honest.Handshake(); err != nil || time.Since(began) > 0 {
			t.Errorf("another handshake took %v: %v", time.Since(began), err)
		}
		p.next(t)
		for n, nc := range stalled {
			ended(t, nc)
			if took := time.Since(began); took != DefaultHandshakeTimeout {
				t.Fatalf("a handshake that stalls at byte %d of %d ends after %v", n, len(hello), took)
			}
		}
		synctest.Wait()
		if got := p.count(t, "piko_port_handshakes_failed_total", "timeout"); got != len(hello) {
			t.Errorf("%d time-outs are counted, want %d", got, len(hello))
		}
	})
}

// clientHello is the first flight of a TLS client.
func clientHello(t *testing.T) string {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		tls.Client(client, clientTLS("h2", "http/1.1")).Handshake()
		client.Close()
	}()
	b := make([]byte, 4096)
	n, err := server.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// There is room for so many handshakes at a time; the oldest goes, for an
// honest one takes few round trips.
func TestTooManyHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{TLS: serverTLS(t)})
		oldest := p.mem.dial("198.51.100.1")
		synctest.Wait()
		for range maxLooking {
			p.mem.dial("198.51.100.1")
		}
		if took := ended(t, oldest); took != 0 {
			t.Errorf("the oldest ended after %v", took)
		}
		if got := p.refusedAs(t, "handshakes"); got != 1 {
			t.Errorf("%d made room, want 1", got)
		}
		honest := tls.Client(p.mem.dial("198.51.100.2"), clientTLS("h2"))
		if err := honest.Handshake(); err != nil {
			t.Error(err)
		}
		p.next(t)
	})
}

func TestCloseEndsWhatIsBeingLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{TLS: serverTLS(t)})
		silent := p.mem.dial("198.51.100.1")
		synctest.Wait()
		if got := p.Pending(); got != 1 {
			t.Errorf("%d connections are pending, want 1", got)
		}
		p.Close()
		if took := ended(t, silent); took != 0 {
			t.Errorf("ended after %v", took)
		}
	})
}

// Whoever connected in time is served, also while a node stops.
func TestConnectionsThatWaitAreAcceptedAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{TLS: serverTLS(t), AllowPlain: true})
		client := p.mem.dial("198.51.100.1")
		synctest.Wait()
		p.IgnoreNew(t.Context())
		p.StopAccepting()
		say(client, "G")
		p.next(t)
		<-p.done // Accept fails when there are no more
	})
}

func TestErrorsOfAccept(t *testing.T) {
	temporary := func(errno syscall.Errno) error {
		return &net.OpError{Op: "accept", Err: &netError{errno}}
	}
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{})
		for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ENETDOWN, syscall.EPROTO, syscall.EPERM} {
			p.mem.errs <- temporary(errno)
		}
		p.mem.dial("198.51.100.1")
		began := time.Now()
		p.next(t)
		if took := time.Since(began); took > 2*time.Second || took < 7*minPause {
			t.Errorf("the next connection was accepted after %v", took)
		}
		if d, o := p.count(t, "piko_port_accept_errors_total", "descriptors"), p.count(t, "piko_port_accept_errors_total", "other"); d != 2 || o != 5 {
			t.Errorf("%d and %d errors are counted, want 2 and 5", d, o)
		}
		p.mem.errs <- temporary(syscall.EBADF)
		<-p.done
	})
}

// netError is like os.SyscallError.
type netError struct{ error }

func (e *netError) Unwrap() error { return e.error }

// What belongs to a connection is let go of by whoever closes it.
func TestServerClosesAll(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := New(ln, Options{})
	srv := &http.Server{ConnContext: ConnContext, ConnState: SetState, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := ConnState(r.Context())
		if c == nil || c.Plain() || c.TCPConn() == nil {
			t.Errorf("the connection is known as %+v", c)
		}
	})}
	served := make(chan error)
	go func() { served <- srv.Serve(l) }()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for range 3 {
		res, err := (&http.Client{Transport: transport}).Get("http://" + ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	if got := l.Open(); got != 1 {
		t.Errorf("%d connections are open, want 1", got)
	}
	srv.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	if got := l.Open(); got != 0 {
		t.Errorf("%d connections are open after the end", got)
	}
}

package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"piko/listen"
)

// pipeListener is a listener in memory, so that time can be virtual.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 80} }

func (l *pipeListener) dial() net.Conn {
	here, there := net.Pipe()
	l.conns <- there
	return here
}

// slowPorts are the ports of a node as far as time-outs go.
func slowPorts(secure *tls.Config) map[string]func(net.Listener, http.Handler) *port {
	log := slog.New(slog.DiscardHandler)
	cfg := defaultServerConfig()
	return map[string]func(net.Listener, http.Handler) *port{
		"proxy": func(ln net.Listener, h http.Handler) *port {
			return newPort("", ln, newProxyServer(h, &cfg.Proxy, log), listen.Options{TLS: secure, AllowPlain: true, Peers: true})
		},
		"upstream": func(ln net.Listener, h http.Handler) *port {
			return newPort("", ln, newUpstreamServer(h, log), listen.Options{TLS: secure})
		},
		"admin": func(ln net.Listener, h http.Handler) *port {
			return newPort("", ln, newAdminServer(h, log), listen.Options{TLS: secure, WriteTimeout: adminWriteTimeout})
		},
	}
}

// onPort runs f with a port in a bubble.
func onPort(t *testing.T, open func(net.Listener, http.Handler) *port, h http.HandlerFunc, f func(t *testing.T, ln *pipeListener)) {
	synctest.Test(t, func(t *testing.T) {
		ln := &pipeListener{conns: make(chan net.Conn, 1000), closed: make(chan struct{})}
		p := open(ln, h)
		served := make(chan error, 1)
		go func() { served <- p.serve(t.Context()) }()
		f(t, ln)
		p.close(t.Context())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// over reads until the other side ends the connection, and says when that was.
func over(nc net.Conn) <-chan time.Duration {
	out, began := make(chan time.Duration, 1), time.Now()
	go func() {
		nc.SetReadDeadline(began.Add(time.Hour))
		_, err := io.Copy(io.Discard, nc)
		nc.Close()
		if errors.Is(err, net.ErrClosed) || err == nil || !strings.Contains(err.Error(), "timeout") {
			out <- time.Since(began)
			return
		}
		out <- time.Hour
	}()
	return out
}

func answer(http.ResponseWriter, *http.Request) {}

// slowLimit is what a client gets for the header of a request, and what net/http
// takes to end a connection.
const slowLimit = readHeaderTimeout + time.Second

const (
	slowRequest = "GET /piko/v1/upstream/e HTTP/1.1\r\nHost: e.test\r\nX: y\r\n\r\n"
	slowUpgrade = "GET /_piko/v1/tcp/e HTTP/1.1\r\nHost: e.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

// Whoever stops anywhere in the first header that a port waits for is gone after
// ten seconds, on every port, and holds up nobody.
func TestClientsThatStallInTheHeader(t *testing.T) {
	for name, open := range slowPorts(nil) {
		for what, whole := range map[string]string{"request": slowRequest, "WebSocket handshake": slowUpgrade, "HTTP/2 preface": http2.ClientPreface} {
			t.Run(name+" "+what, func(t *testing.T) {
				onPort(t, open, answer, func(t *testing.T, ln *pipeListener) {
					began := time.Now()
					var ends []<-chan time.Duration
					for n := range len(whole) {
						nc := ln.dial()
						ends = append(ends, over(nc))
						go io.WriteString(nc, whole[:n])
					}
					askPipe(t, ln.dial())
					if took := time.Since(began); took > 0 {
						t.Errorf("another request took %v", took)
					}
					for n, end := range ends {
						if took := <-end; took > slowLimit {
							t.Errorf("who stops at byte %d of %d is there for %v", n, len(whole), took)
						}
					}
				})
			})
		}
	}
}

// askPipe makes one request.
func askPipe(t *testing.T, nc net.Conn) {
	t.Helper()
	defer nc.Close()
	go io.WriteString(nc, slowRequest)
	b := make([]byte, 15)
	if _, err := io.ReadFull(nc, b); err != nil || string(b) != "HTTP/1.1 200 OK" {
		t.Errorf("another client reads %q, %v", b, err)
	}
}

// A byte now and then changes nothing: the time is for the whole header.
func TestClientsThatSendTheHeaderByteByByte(t *testing.T) {
	for name, open := range slowPorts(nil) {
		for _, whole := range []string{slowRequest, http2.ClientPreface} {
			t.Run(name, func(t *testing.T) {
				onPort(t, open, answer, func(t *testing.T, ln *pipeListener) {
					nc := ln.dial()
					end := over(nc)
					var writing sync.WaitGroup
					defer writing.Wait()
					writing.Go(func() {
						for i := range len(whole) {
							if _, err := io.WriteString(nc, whole[i:i+1]); err != nil {
								return
							}
							time.Sleep(900 * time.Millisecond)
						}
					})
					if took := <-end; took > slowLimit {
						t.Errorf("it goes on for %v", took)
					}
				})
			})
		}
	}
}

// The same inside TLS, where the handshake has had its ten seconds already.
func TestClientsThatStallBehindTheTLSHandshake(t *testing.T) {
	t.Parallel()
	cert, key := newCertificate(t)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}, Time: func() time.Time { return time.Unix(1<<31, 0) }}
	for name, open := range slowPorts(server) {
		for proto, whole := range map[string]string{"http/1.1": slowRequest, "h2": http2.ClientPreface} {
			t.Run(name+" "+proto, func(t *testing.T) {
				onPort(t, open, answer, func(t *testing.T, ln *pipeListener) {
					var ends []<-chan time.Duration
					for n := 0; n < len(whole); n += 7 {
						nc := tls.Client(ln.dial(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}})
						if err := nc.Handshake(); err != nil {
							t.Fatal(err)
						}
						ends = append(ends, over(nc))
						go io.WriteString(nc, whole[:n])
					}
					for n, end := range ends {
						if took := <-end; took > slowLimit {
							t.Errorf("who stops at byte %d is there for %v", 7*n, took)
						}
					}
				})
			})
		}
	}
}

// HTTP/2 that says no SETTINGS, and one that says nothing more at all.
func TestHTTP2ClientsThatStallAfterThePreface(t *testing.T) {
	var settings bytes.Buffer
	fr := http2.NewFramer(&settings, nil)
	fr.WriteSettings()
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "e.test"}, {Name: ":path", Value: "/"}} {
		enc.WriteField(f)
	}
	for _, tt := range []struct {
		name, more string
		within     time.Duration
	}{
		{"no SETTINGS", "", slowLimit},
		{"half of a frame", settings.String()[:4], slowLimit},
		{"nothing more, and no answer to a PING", settings.String(), h2PingAfter + h2PingTimeout + time.Second},
		{"half of a request", func() string {
			b := bytes.Clone(settings.Bytes())
			settings.Reset()
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndStream: true})
			return string(b) + settings.String()
		}(), h2PingAfter + h2PingTimeout + time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onPort(t, slowPorts(nil)["proxy"], answer, func(t *testing.T, ln *pipeListener) {
				nc := ln.dial()
				end := over(nc)
				go io.WriteString(nc, http2.ClientPreface+tt.more)
				if took := <-end; took > tt.within {
					t.Errorf("it is there for %v", took)
				}
			})
		})
	}
}

// Between two requests a client may be idle for as long as is configured.
func TestClientsThatAreIdleBetweenRequests(t *testing.T) {
	for name, open := range slowPorts(nil) {
		t.Run(name, func(t *testing.T) {
			onPort(t, open, answer, func(t *testing.T, ln *pipeListener) {
				nc := ln.dial()
				end := over(nc)
				go io.WriteString(nc, slowRequest)
				if took := <-end; took != idleTimeout {
					t.Errorf("it is there for %v, want %v", took, idleTimeout)
				}
			})
		})
	}
}

// A body that never comes costs a port that wants none ten seconds.
func TestBodiesThatNobodyWants(t *testing.T) {
	const request = "POST / HTTP/1.1\r\nHost: e.test\r\nContent-Length: 100\r\n\r\nx"
	for _, name := range []string{"upstream", "admin"} {
		t.Run(name, func(t *testing.T) {
			onPort(t, slowPorts(nil)[name], answer, func(t *testing.T, ln *pipeListener) {
				nc := ln.dial()
				end := over(nc)
				go io.WriteString(nc, request)
				if took := <-end; took > slowLimit {
					t.Errorf("it is there for %v", took)
				}
			})
		})
	}
}

// A client of the admin port that asks and reads nothing is given up.
func TestAdminClientsThatReadNothing(t *testing.T) {
	page := bytes.Repeat([]byte("x"), 1<<20)
	onPort(t, slowPorts(nil)["admin"], func(w http.ResponseWriter, _ *http.Request) { w.Write(page) }, func(t *testing.T, ln *pipeListener) {
		nc := ln.dial()
		began := time.Now()
		io.WriteString(nc, slowRequest)
		time.Sleep(adminWriteTimeout + time.Second)
		synctest.Wait()
		if n, err := io.Copy(io.Discard, nc); err != nil || n >= int64(len(page)) {
			t.Errorf("read %d bytes after %v, %v", n, time.Since(began), err)
		}
	})
}

package relay

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestSpeaksHTTP1(t *testing.T) {
	for name, tt := range map[string]struct {
		say  string // once it was asked
		want bool
		err  error
	}{
		"HTTP/1.1":                {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true, nil},
		"HTTP/1.1, no more":       {"HTTP/1.1", true, nil},
		"HTTP/1.0, an error":      {"HTTP/1.0 400 Bad Request\r\n\r\n", true, nil},
		"settings of HTTP/2":      {"\x00\x00\x00\x04\x00\x00\x00\x00\x00", false, nil},
		"settings that say a lot": {"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", false, nil},
		"another frame of HTTP/2": {"\x00\x00\x00\x06\x00\x00\x00\x00\x00", false, ErrNoAnswer},
		"nothing":                 {"", false, nil},
		"a part of an answer":     {"HTTP/1", false, ErrNoAnswer},
		"a part of settings":      {"\x00\x00\x00\x04\x00\x00\x00", false, ErrNoAnswer},
		"a greeting of a kind":    {"220 ready\r\n", false, ErrNoAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			asker, server := net.Pipe()
			go func() {
				b := make([]byte, 1<<10)
				n, _ := server.Read(b)
				if want := "OPTIONS * HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n"; string(b[:n]) != want {
					t.Errorf("asked %q, want %q", b[:n], want)
				}
				server.Write([]byte(tt.say))
				server.Close()
			}()
			if got, err := SpeaksHTTP1(t.Context(), asker, "e"); !errors.Is(err, tt.err) || got != tt.want {
				t.Errorf("got %v, %v; want %v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

// A connection that breaks says nothing of what the server speaks.
func TestSpeaksHTTP1BrokenConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		server.Read(make([]byte, 1))
		server.(*net.TCPConn).SetLinger(0)
		server.Close()
	}()
	if got, err := SpeaksHTTP1(t.Context(), conn, "e"); got || !errors.Is(err, ErrNoAnswer) {
		t.Errorf("got %v, %v; want %v", got, err, ErrNoAnswer)
	}
}

// A server that says nothing may speak anything.
func TestSpeaksHTTP1Silence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asker, server := net.Pipe()
		defer server.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, err := SpeaksHTTP1(ctx, asker, "e"); err != context.DeadlineExceeded {
			t.Errorf("got %v, %v; want a time-out", got, err)
		}
	})
}

// net/http answers by itself, and one that speaks only HTTP/2 hangs up; over TCP with a
// reset, as it has not read all.
func TestSpeaksHTTP1NetHTTP(t *testing.T) {
	for _, want := range []bool{true, false} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			t.Error("the handler was asked")
		})}
		srv.Protocols.SetUnencryptedHTTP2(true)
		srv.Protocols.SetHTTP1(want)
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := SpeaksHTTP1(t.Context(), conn, "e"); got != want || err != nil && (want || !errors.Is(err, ErrNoAnswer)) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
		srv.Close()
		<-served
	}
}

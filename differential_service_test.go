package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// diffScript is what the service of TestDifferential does with a request, which carries it in a header.
type diffScript struct {
	Read      bool   // the body, before it answers; otherwise behind the answer
	Early     int    // 103 answers
	Status    int    //
	Framing   string // length, chunks or close
	Pieces    []int  // lengths of the body's parts
	Trailers  int    // fields behind the last chunk
	Close     bool   // says Connection: close
	Break     string // "", head: before the answer, body: after the first part
	Reset     bool   // how it breaks
	Lowercase bool   // names of fields
}

// diffFill is what bodies are made of.
func diffFill(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(i%23)
	}
	return b
}

func (s *diffScript) body() (n int) {
	for _, k := range s.Pieces {
		n += k
	}
	return n
}

// startDiffService answers raw connections by the scripts, byte by byte.
func startDiffService(t *testing.T) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer nc.Close()
				nc.SetDeadline(time.Now().Add(time.Minute))
				for r := bufio.NewReader(nc); diffAnswer(nc, r); {
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	return ln.Addr().String()
}

// diffAnswer answers one request, and reports whether the connection goes on.
func diffAnswer(nc net.Conn, r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	var s diffScript
	if json.Unmarshal([]byte(req.Header.Get("Script")), &s) != nil {
		io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		return true
	}
	saw := diffSaw(req)
	if s.Read {
		saw += diffReadBody(req)
	}
	if s.Break == "head" {
		return diffBreak(nc, &s)
	}
	for range s.Early {
		io.WriteString(nc, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
	}
	var w strings.Builder
	fmt.Fprintf(&w, "HTTP/1.1 %d Whatever\r\nX-Saw: %s\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: 1\r\nX-Piko-Error: no\r\n", s.Status, saw)
	bodyless := req.Method == "HEAD" || s.Status == 204 || s.Status == 304
	switch {
	case s.Status == 204:
	case s.Framing == "length":
		fmt.Fprintf(&w, "Content-Length: %d\r\n", s.body())
	case s.Framing == "chunks":
		w.WriteString("Transfer-Encoding: chunked\r\n")
	}
	if s.Close || s.Framing == "close" {
		w.WriteString("Connection: close\r\n")
	}
	head := w.String() + "\r\n"
	if s.Lowercase {
		head = strings.NewReplacer("X-Saw", "x-saw", "Content-Length", "content-length", "Connection", "connection", "Set-Cookie", "set-cookie").Replace(head)
	}
	io.WriteString(nc, head)
	if !bodyless && !diffBody(nc, &s) {
		return diffBreak(nc, &s)
	}
	if !s.Read { // the client may send on; an end now would destroy the answer
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return false
		}
	}
	return !s.Close && (bodyless || s.Framing != "close") && !(bodyless && s.Framing == "close")
}

// diffBody is false if it breaks off.
func diffBody(nc net.Conn, s *diffScript) bool {
	all := diffFill(s.body())
	for i, n := range s.Pieces {
		if s.Break == "body" && i > 0 {
			return false
		}
		if s.Framing == "chunks" && n > 0 {
			fmt.Fprintf(nc, "%x;e=1\r\n%s\r\n", n, all[:n])
		} else {
			nc.Write(all[:n])
		}
		all = all[n:]
	}
	if s.Framing == "chunks" {
		var tail strings.Builder
		for i := range s.Trailers {
			fmt.Fprintf(&tail, "X-Trailer-%d: %d\r\n", i, i)
		}
		fmt.Fprintf(nc, "0\r\n%s\r\n", tail.String())
	}
	return true
}

func diffBreak(nc net.Conn, s *diffScript) bool {
	if s.Reset {
		nc.(*net.TCPConn).SetLinger(0)
	}
	return false
}

// diffSaw is what the service sees of a request, without what nodes add.
func diffSaw(r *http.Request) string {
	var fields []string
	for name, values := range r.Header {
		switch name {
		case "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Request-Id", "X-Piko-Endpoint", "Cdn-Loop", "Script", "Connection":
		default:
			fields = append(fields, fmt.Sprint(name, values))
		}
	}
	slices.Sort(fields)
	return fmt.Sprintf("%s %s %s %d %v %v", r.Method, r.RequestURI, r.Host, r.ContentLength, r.TransferEncoding, fields)
}

func diffReadBody(r *http.Request) string {
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	var trailers []string
	for name, values := range r.Trailer {
		trailers = append(trailers, fmt.Sprint(name, values))
	}
	slices.Sort(trailers)
	return fmt.Sprintf(" body %d %x %v trailers %v", n, h.Sum(nil)[:6], err != nil, trailers)
}

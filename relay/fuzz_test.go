package relay

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func parseless(target string) *url.URL { return &url.URL{Opaque: target} }

// script is a connection on which a fixed text comes, in pieces, and whatever is written is swallowed.
type script struct {
	net.Conn
	pieces [][]byte
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return len(p), nil }
func (s *script) Close() error                     { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// answer is what a client makes of a text that a service sends.
func answer(t *testing.T, method string, pieces ...[]byte) (*http.Response, []byte, error) {
	p := &Pool{Dial: func(context.Context) (net.Conn, error) { return &script{pieces: pieces}, nil }}
	defer p.Close()
	res, err := p.RoundTrip(&http.Request{Method: method, URL: parseless("/"), Host: "a", Header: http.Header{}})
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if n := p.busyConns(); n != 0 {
		t.Errorf("%d connections still in use", n)
	}
	return res, body, err
}

// Whatever a service sends: no panic; the same in one piece and byte for byte; and what we accept, net/http
// understands as we do, so that no two readers of one answer disagree on where it ends.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: a\r\n\r\nHTTP/1.1 204 No\r\n\r\nx",
		"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "HTTP/1.1 304 N\r\nContent-Length: 7\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\nTrailer: X\r\n\r\nx",
		"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, text string, head bool) {
		if len(text) > 1<<13 {
			return
		}
		method := map[bool]string{false: "GET", true: "HEAD"}[head]
		res, body, err := answer(t, method, []byte(text))
		single := bytes.SplitAfter([]byte(text), nil)
		res2, body2, err2 := answer(t, method, single...)
		if (err == nil) != (err2 == nil) || !bytes.Equal(body, body2) && err == nil {
			t.Fatalf("%q: got %q, %v in one piece; %q, %v byte for byte", text, body, err, body2, err2)
		}
		if err != nil {
			return
		}
		if res.StatusCode != res2.StatusCode || len(res.Header) != len(res2.Header) {
			t.Fatalf("%q: got %v in one piece, %v byte for byte", text, res, res2)
		}
		compareWithNetHTTP(t, text, method, res, body)
	})
}

func compareWithNetHTTP(t *testing.T, text, method string, res *http.Response, body []byte) {
	r := bufio.NewReader(strings.NewReader(text))
	for {
		std, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q: net/http says %v", text, err)
		}
		if std.StatusCode < 200 {
			continue
		}
		b, err := io.ReadAll(std.Body)
		if err != nil || !bytes.Equal(b, body) || std.StatusCode != res.StatusCode {
			t.Fatalf("%q: got %d %q, net/http %d %q, %v", text, res.StatusCode, body, std.StatusCode, b, err)
		}
		return
	}
}

// A chunked body, however it is cut, is what was sent.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("hello, world"), uint8(3), uint8(5))
	f.Add(bytes.Repeat([]byte("x"), 100), uint8(1), uint8(7))
	f.Fuzz(func(t *testing.T, data []byte, chunk, piece uint8) {
		if len(data) > 1<<13 {
			return
		}
		var text bytes.Buffer
		text.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for rest := data; len(rest) > 0; {
			n := min(len(rest), int(chunk)*16+1)
			buf := make([]byte, chunkRoom+n+2)
			copy(buf[chunkRoom:], rest[:n])
			text.Write(frameChunk(buf, n))
			rest = rest[n:]
		}
		text.WriteString("0\r\n\r\n")
		var pieces [][]byte
		for b := text.Bytes(); len(b) > 0; {
			n := min(len(b), int(piece)+1)
			pieces = append(pieces, b[:n])
			b = b[n:]
		}
		if _, body, err := answer(t, "GET", pieces...); err != nil || !bytes.Equal(body, data) {
			t.Errorf("got %d of %d bytes, %v", len(body), len(data), err)
		}
	})
}

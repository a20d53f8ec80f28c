package relay

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// FuzzLaneRequest: what a lane takes net/http takes, too, with the same bounds, and what it sends on means the same but for
// the fields that concern one connection.
func FuzzLaneRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /a%20b?c=%zz HTTP/1.1\r\nHost: a.b:80\r\nContent-Length: 3\r\n\r\nabc",
		"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
		"GET /%g HTTP/1.1\r\nHost: a\r\n\r\n", "GET // HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\nTE: trailers\r\nKeep-Alive: 1\r\nProxy: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nKeep-Alive: 1\r\nProxy: x\r\nProxy-Connection: y\r\nX-A: \t1 \r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		n := headLength(p, 0)
		if n == 0 {
			return
		}
		var h laneHead
		out, ok := h.scan(nil, p[:n], "", "", nil)
		if !ok {
			return
		}
		in, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(p)))
		if err != nil {
			t.Fatalf("taken, but net/http says %v: %q", err, p[:n])
		}
		sent, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(out), bytes.NewReader(p[n:]))))
		if err != nil {
			t.Fatalf("sent on as %q: %v", out, err)
		}
		if h.length != in.ContentLength || sent.ContentLength != in.ContentLength || h.method != in.Method || h.close != in.Close {
			t.Errorf("length %d, method %s, close %v; net/http says %d, %s, %v", h.length, h.method, h.close, in.ContentLength, in.Method, in.Close)
		}
		if sent.Method != in.Method || sent.RequestURI != in.RequestURI || sent.Host != in.Host || sent.Close {
			t.Errorf("%q sent on as %q", p[:n], out)
		}
		want := OutHeader(in.Header, framingField)
		delete(sent.Header, "Content-Length")
		delete(want, "Cache-Control") // net/http adds it beside Pragma
		delete(sent.Header, "Cache-Control")
		if !sameHeader(sent.Header, want) {
			t.Errorf("header %v, want %v", sent.Header, want)
		}
		if NeedsHTTP2(in) && !h.streams {
			t.Errorf("%q needs HTTP/2", p[:n])
		}
		body, err1 := io.ReadAll(in.Body)
		again, err2 := io.ReadAll(sent.Body)
		if !bytes.Equal(body, again) || (err1 == nil) != (err2 == nil) {
			t.Errorf("body %q %v, sent on %q %v", body, err1, again, err2)
		}
	})
}

func sameHeader(a, b http.Header) bool {
	for name, values := range a {
		if !slices.Equal(values, b[name]) {
			return false
		}
	}
	return len(a) == len(b)
}

// FuzzLaneAnswer: a response that a lane takes at a look has the bounds that parseHead sees, and is sent on as parse would.
func FuzzLaneAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Error: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nTE: x\r\nA: 1\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 200\r\n\r\n", "HTTP/1.1 200 OK\nA: b\n\n", "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: x-gone\r\nX-Gone: 1\r\nTrailer: X-A\r\n\r\n", "HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n",
	} {
		f.Add([]byte(s), "GET")
		f.Add([]byte(s), "HEAD")
	}
	f.Fuzz(func(t *testing.T, p []byte, method string) {
		n := headLength(p, 0)
		if n == 0 {
			return
		}
		var quick, full laneAnswer
		out, ok := quick.scan(nil, p[:n], method, "X-Error", nil)
		want, err := full.parse(nil, p[:n], method, "X-Error", nil)
		if err == nil {
			wantReadable(t, want, method)
		}
		if !ok {
			return
		}
		if err != nil {
			t.Fatalf("%q is taken, but %v", p[:n], err)
		}
		if quick.framing != full.framing || quick.framing == byLength && quick.length != full.length ||
			quick.keepAlive != full.keepAlive || quick.status != full.status {
			t.Errorf("%+v, want %+v", quick, full)
		}
		if got, want := fieldsOf(t, out), fieldsOf(t, want); !sameHeader(got, want) {
			t.Errorf("%q sent on as %v, want %v", p[:n], got, want)
		}
	})
}

// wantReadable fails if a head that is sent on cannot be read.
func wantReadable(t *testing.T, out []byte, method string) {
	text := strings.TrimSuffix(string(out), "\r\n\r\n")
	text = strings.TrimSuffix(text, "\r\n") + "\r\n\r\n"
	if _, err := parseHead([]byte(text), method); err != nil {
		t.Errorf("sent on as %q: %v", out, err)
	}
}

func fieldsOf(t *testing.T, out []byte) http.Header {
	_, fields, _ := strings.Cut(string(out), "\r\n")
	h, err := parseFields(fields+"\r\n", countLines(out))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

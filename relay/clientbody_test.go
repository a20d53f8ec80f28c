package relay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// bodyOf is a server's request with a body.
func bodyOf(r io.Reader, length int64, keep int) *Body {
	req := httptest.NewRequest("POST", "/", r)
	req.ContentLength = length
	return TakeBody(httptest.NewRecorder(), req, BodyOptions{Keep: keep})
}

func attach(t *testing.T, b *Body) *http.Request {
	t.Helper()
	out := &http.Request{}
	if !b.Attach(out) {
		t.Fatal("cannot attach")
	}
	return out
}

func TestNoBody(t *testing.T) {
	for _, r := range []*http.Request{httptest.NewRequest("GET", "/", nil), httptest.NewRequest("POST", "/", http.NoBody)} {
		b := TakeBody(httptest.NewRecorder(), r, BodyOptions{})
		out := &http.Request{ContentLength: 5}
		if b != nil || !b.Attach(out) || out.Body != http.NoBody || out.ContentLength != 0 || b.Bytes() != 0 || !b.Done() || b.Err() != nil {
			t.Errorf("%s: got %v, %v", r.Method, b, out)
		}
		b.Release()
		b.Finish()
	}
}

// A body that fits is the same for each attempt, wherever the one before stopped; a longer one can be sent again only
// while nothing of it was read.
func TestBodyIsReplayed(t *testing.T) {
	text := strings.Repeat("0123456789", 1000)
	for _, tt := range []struct {
		name         string
		length, keep int
		read         int // of the first attempt
		again        bool
	}{
		{"nothing read", len(text), 0, 0, true},
		{"long, nothing read", len(text), 100, 0, true},
		{"long, something read", len(text), 100, 10, false},
		{"fits, something read", len(text), len(text), 4321, true},
		{"fits, all read", len(text), len(text), len(text), true},
		{"unknown length, something read", -1, 5000, 4000, true},
		{"unknown length, too much read", -1, 5000, 6000, false},
		{"unknown length, all read", -1, len(text), len(text), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bodyOf(iotest.HalfReader(strings.NewReader(text)), int64(tt.length), tt.keep)
			first := attach(t, b)
			if _, err := io.ReadFull(first.Body, make([]byte, tt.read)); err != nil {
				t.Fatal(err)
			}
			first.Body.Close()
			second := &http.Request{}
			if b.Attach(second) != tt.again {
				t.Fatalf("attach: got %v", !tt.again)
			}
			if !tt.again {
				return
			}
			got, err := io.ReadAll(second.Body)
			if string(got) != text || err != nil || second.ContentLength != int64(tt.length) || b.Bytes() != int64(len(text)) || !b.Done() {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if _, err := first.Body.Read(make([]byte, 1)); !errors.Is(err, errBodyTaken) {
				t.Errorf("the first attempt goes on: %v", err)
			}
		})
	}
}

// A read of the first attempt that waits for the client when the second begins: what it gets is the second's.
func TestBodyOfABlockedAttempt(t *testing.T) {
	in, out := io.Pipe()
	b := bodyOf(in, -1, 8)
	first := attach(t, b)
	stale := make(chan error)
	go func() {
		_, err := first.Body.Read(make([]byte, 100))
		stale <- err
	}()
	eventually(t, func() error {
		if b.readMu.TryLock() {
			b.readMu.Unlock()
			return errors.New("the first attempt does not read yet")
		}
		return nil
	})
	second := attach(t, b)
	got := make(chan string)
	go func() {
		b, _ := io.ReadAll(second.Body)
		got <- string(b)
	}()
	io.WriteString(out, "more than is kept, ")
	b.Release()
	io.WriteString(out, "and more")
	out.Close()
	if err := <-stale; !errors.Is(err, errBodyTaken) {
		t.Errorf("the first attempt got %v", err)
	}
	if s := <-got; s != "more than is kept, and more" {
		t.Errorf("the second attempt got %q", s)
	}
	b.Finish()
	if b.log != nil || b.pooled != nil {
		t.Error("the kept bytes were not given back")
	}
}

func TestBodyErrors(t *testing.T) {
	bad := errors.New("malformed chunk")
	b := bodyOf(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(bad)), -1, 100)
	out := attach(t, b)
	if _, err := io.ReadAll(out.Body); !errors.Is(err, bad) || !errors.Is(b.Err(), bad) || b.Done() {
		t.Errorf("got %v, %v", err, b.Err())
	}
	if b.Attach(&http.Request{}) {
		t.Error("a malformed body can be sent again")
	}
}

// Trailers come with the end of the body, also those that were not announced, and also from what was kept.
func TestBodyTrailers(t *testing.T) {
	req := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader("abc")))
	req.ContentLength = -1
	req.Body = &atEOF{req.Body, func() { req.Trailer = http.Header{"X": {"1"}} }}
	b := TakeBody(httptest.NewRecorder(), req, BodyOptions{Keep: 100})
	for range 2 {
		out := attach(t, b)
		io.ReadAll(out.Body)
		if out.Trailer.Get("X") != "1" {
			t.Errorf("got trailers %v", out.Trailer)
		}
	}
}

// Finish ends a read that waits, and reads after it fail.
func TestFinishWakesReader(t *testing.T) {
	got := make(chan error, 2)
	addr := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := TakeBody(w, r, BodyOptions{Progress: time.Minute})
		out := attach(t, b)
		go func() {
			_, err := io.ReadAll(out.Body)
			got <- err
			_, err = out.Body.Read(make([]byte, 1))
			got <- err
		}()
		eventually(t, func() error {
			if b.Bytes() != 5 {
				return errors.New("body does not arrive")
			}
			return nil
		})
		start := time.Now()
		b.Finish()
		if d := time.Since(start); d > lingering/2 || b.Err() != nil {
			t.Errorf("took %v; error %v", d, b.Err())
		}
		b.Finish()
	}))
	for _, head := range []string{"Content-Length: 100\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"} {
		answer := talk(t, addr, "POST / HTTP/1.1\r\nHost: a\r\n"+head, 5*time.Second)
		if !strings.Contains(answer, "Connection: close\r\n") {
			t.Errorf("got %q", answer)
		}
		for range 2 {
			if err := <-got; err == nil {
				t.Error("a read went on")
			}
		}
	}
}

// A response that comes before the body was read says that the connection ends behind it, unless the body is there and
// short: a client that was not told sends its next request on a connection that ends.
func TestEarlyAnswerSaysWhetherItIsTheLast(t *testing.T) {
	addr := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := TakeBody(w, r, BodyOptions{})
		defer b.Finish()
		b.Announce(w.Header())
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "ok")
	}))
	const next = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for head, kept := range map[string]bool{
		"Content-Length: 5\r\n\r\nhello":                                 true,
		"Content-Length: 65536\r\n\r\n" + strings.Repeat("x", drained):   true,
		"Content-Length: 65537\r\n\r\n" + strings.Repeat("x", drained+1): false,
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n":      false,
		"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello":         false,
	} {
		answer := talk(t, addr, "POST / HTTP/1.1\r\nHost: a\r\n"+head+next, 5*time.Second)
		first, rest, _ := strings.Cut(answer, "ok")
		if said := !strings.Contains(first, "Connection: close\r\n"); said != kept || kept != strings.Contains(rest, "200 OK") {
			t.Errorf("%.60q: says that it is kept: %v, want %v; the rest is %.100q", head, said, kept, rest)
		}
	}
}

// The last of a short body may come behind the response, whoever waits for it.
func TestBodyBehindItsAnswer(t *testing.T) {
	addr := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := TakeBody(w, r, BodyOptions{})
		defer b.Finish()
		out := attach(t, b)
		if r.URL.Path == "/waiting" {
			go io.Copy(io.Discard, out.Body)
		}
		b.Announce(w.Header())
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "ok")
	}))
	for _, path := range []string{"/waiting", "/not"} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		r := bufio.NewReader(c)
		for i := range 3 {
			fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", path)
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%s, response %d: %v", path, i, err)
			}
			if text, err := io.ReadAll(res.Body); string(text) != "ok" || err != nil || res.Close {
				t.Errorf("%s, response %d: got %q, %v, last: %v", path, i, text, err, res.Close)
			}
			io.WriteString(c, "hello")
		}
		c.Close()
	}
}

// What is kept is bounded, and given back as soon as nobody can ask for it.
func TestKeptBytesAreReleased(t *testing.T) {
	b := bodyOf(bytes.NewReader(make([]byte, 50_000)), 50_000, 64<<10)
	out := attach(t, b)
	io.ReadFull(out.Body, make([]byte, 40_000))
	if len(b.log) < 40_000 || cap(b.log) != largeBody {
		t.Errorf("%d bytes are kept in %d", len(b.log), cap(b.log))
	}
	b.Release()
	if b.log != nil || b.pooled != nil {
		t.Error("kept after the response came")
	}
	if got, err := io.ReadAll(out.Body); len(got) != 10_000 || err != nil {
		t.Errorf("the rest: %d bytes, %v", len(got), err)
	}
}

package strict

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each byte is there as soon as it was sent: nothing waits for the end of a line, a head or a chunk.
func TestNothingIsHeldBack(t *testing.T) {
	client, nc := net.Pipe()
	c := NewConn(nc)
	sent := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n" +
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\n\r\nGET / HTTP/1.1\r\n"
	go func() {
		for i := range len(sent) {
			io.WriteString(client, sent[i:i+1]) // returns when it was read
		}
		client.Close()
	}()
	for i := range len(sent) {
		p := make([]byte, 100)
		if n, err := c.Read(p); n != 1 || p[0] != sent[i] {
			t.Fatalf("byte %d: read %q, %v", i, p[:n], err)
		}
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("behind the end got %d, %v", n, err)
	}
}

// A byte that is read alone behind a head that asks for another protocol may be the other protocol's, or the next
// request's.
func TestAByteThatIsReadAlone(t *testing.T) {
	const head = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\n\r\n"
	read := func(c net.Conn, size int) string {
		p := make([]byte, size)
		n, _ := c.Read(p)
		return string(p[:n])
	}
	begin := func(rest string) net.Conn {
		c := NewConn(&source{left: []byte(head + rest), sizes: rand.New(whole{})})
		if got := read(c, 4096); got != head {
			t.Fatalf("got %q, want the head alone", got)
		}
		return c
	}
	c := begin("\n\nA\n")
	if got := read(c, 1); got != "\n" {
		t.Errorf("the byte alone is %q", got)
	}
	c.(*Conn).Hijacked()
	if got := read(c, 100); got != "\nA\n" {
		t.Errorf("of the other protocol came %q", got)
	}
	c = begin("\n" + next)
	if got := read(c, 1) + read(c, 100); got != "\n"+refusal {
		t.Errorf("of a request behind a bare LF came %q", got)
	}
	c = begin(next + next)
	if got := read(c, 1) + read(c, 100); got != next+next {
		t.Errorf("of two requests came %q", got)
	}
}

// whole has pieceSize say 300.
type whole struct{}

func (whole) Uint64() uint64 { return 1<<64 - 1 }

func TestHTTP2Passes(t *testing.T) {
	raw := http2Preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00\nGET\n\n \n"
	for seed := range uint64(100) {
		if got := pass(t, []byte(raw), seed); string(got) != raw {
			t.Fatalf("seed %d: got %q", seed, got)
		}
		// Anywhere else it is nothing, and neither is what only begins as it.
		for _, bad := range []string{next + raw, strings.Replace(raw, "SM", "S\n", 1), http2Preface[:16] + "\n"} {
			if got := pass(t, []byte(bad), seed); !bytes.HasSuffix(got, []byte(refusal)) {
				t.Fatalf("seed %d: of %q came %q", seed, bad, got)
			}
		}
	}
	// With TLS it is ALPN that says so.
	c := NewConn(&tlsSource{source{left: []byte(raw), sizes: rand.New(whole{})}})
	if got, err := io.ReadAll(c); err != nil || !bytes.HasSuffix(got, []byte(refusal)) {
		t.Errorf("below TLS came %q, %v", got, err)
	}
}

type tlsSource struct{ source }

func (tlsSource) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{ServerName: "a.test"}
}

func TestServerSpeaksHTTP2(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %q", r.Proto, body)
	})}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(listener{ln})
	defer srv.Close()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	for range 3 {
		res, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Post("http://"+ln.Addr().String(), "", strings.NewReader("\n\n \n"))
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(res.Body); string(body) != `HTTP/2.0 "\n\n \n"` {
			t.Errorf("got %s", body)
		}
		res.Body.Close()
	}
}

// What others look for in a connection is there, and only if it is below.
func TestConnIsLikeTheOneBelow(t *testing.T) {
	client, below := tcpPair(t)
	c := NewConn(below)
	if _, ok := c.(stater); ok {
		t.Error("without TLS there is a ConnectionState")
	}
	if got := c.(interface{ NetConn() net.Conn }).NetConn(); got != below {
		t.Errorf("NetConn is %v", got)
	}
	tcp := c.(interface{ TCPConn() *net.TCPConn })
	if tcp.TCPConn() != nil {
		t.Error("TCPConn leads past Conn while that judges")
	}
	c.(*Conn).Hijacked()
	if tcp.TCPConn() != below {
		t.Error("TCPConn is not the connection below")
	}
	c.(*Conn).kept = []byte("x")
	if tcp.TCPConn() != nil {
		t.Error("TCPConn leads past what was kept")
	}
	c.(*Conn).kept = nil

	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	io.WriteString(file, "content")
	file.Seek(0, io.SeekStart)
	if n, err := c.(io.ReaderFrom).ReadFrom(file); n != 7 || err != nil {
		t.Errorf("ReadFrom gave %d, %v", n, err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(client); string(got) != "content" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	c.SetReadDeadline(time.Unix(1, 0))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("behind the deadline got %v", err)
	}

	_, pipe := net.Pipe()
	defer pipe.Close()
	if err := NewConn(pipe).(interface{ CloseWrite() error }).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("CloseWrite of a connection without one gave %v", err)
	}
	if got := NewConn(&tlsSource{}).(stater).ConnectionState().ServerName; got != "a.test" {
		t.Errorf("ConnectionState is that of %q", got)
	}
}

func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := new(net.Dialer).DialContext(context.Background(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// browserRequest is as long as those of browsers are.
const browserRequest = "GET /index.html?a=b HTTP/1.1\r\nHost: my-endpoint.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n" +
	"Connection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nCache-Control: max-age=0\r\n\r\n"

func TestReadAllocatesNothing(t *testing.T) {
	sent := []byte(browserRequest + "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	src := &source{sizes: rand.New(whole{})}
	c := NewConn(src)
	p := make([]byte, 4096)
	if n := testing.AllocsPerRun(100, func() {
		src.left = sent
		for len(src.left) > 0 {
			c.Read(p)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

package agent

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
)

// request13 is what a node sends for a browser's GET, and answer13 a small
// service's answer.
const (
	request13 = "GET /index.html?q=1 HTTP/1.1\r\nHost: my-endpoint.example.com\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n" +
		"X-Piko-Endpoint: my-endpoint\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n" +
		"X-Forwarded-Host: my-endpoint.example.com\r\nX-Request-Id: 0123456789abcdef\r\n\r\n"
	answer13 = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nContent-Length: 13\r\n\r\nHello, world!"
)

// tinyService answers every request with the same bytes, and allocates nothing.
func tinyService(t testing.TB, answer string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf, out := make([]byte, 64<<10), []byte(answer)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					for range bytes.Count(buf[:n], []byte("\r\n\r\n")) {
						conn.Write(out)
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// rawGet sends request13 and reads the answer, without allocation: what is
// counted is the agent's.
func rawGet(conn net.Conn, r *bufio.Reader, body int) error {
	if _, err := conn.Write([]byte(request13)); err != nil {
		return err
	}
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			_, err := r.Discard(body)
			return err
		}
	}
}

// TestSmallGetStaysWithinItsAllocations pins the hot path.
func TestSmallGetStaysWithinItsAllocations(t *testing.T) {
	a := startAgent(t, tinyService(t, answer13))
	conn, r := a.dialNode()
	get := func() {
		if err := rawGet(conn, r, 13); err != nil {
			t.Fatal(err)
		}
	}
	get()
	n := testing.AllocsPerRun(500, get)
	t.Logf("%v allocations a request", n)
	if n > 4 && !raceEnabled {
		t.Errorf("a GET of 13 bytes costs %v allocations in the agent, want at most 4", n)
	}
}

func BenchmarkForward(b *testing.B) {
	b.Run("13B", func(b *testing.B) {
		a := startAgent(b, tinyService(b, answer13))
		conn, r := a.dialNode()
		b.ReportAllocs()
		for b.Loop() {
			if err := rawGet(conn, r, 13); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("1MiB", func(b *testing.B) {
		answer := "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + string(make([]byte, 1<<20))
		a := startAgent(b, tinyService(b, answer))
		conn, r := a.dialNode()
		b.SetBytes(1 << 20)
		b.ReportAllocs()
		for b.Loop() {
			if err := rawGet(conn, r, 1<<20); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("POST64KiB", func(b *testing.B) {
		service := startService(b, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		a := startAgent(b, service.URL)
		conn, r := a.dialNode()
		request := []byte("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 65536\r\n\r\n" + string(make([]byte, 64<<10)))
		b.SetBytes(64 << 10)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := conn.Write(request); err != nil {
				b.Fatal(err)
			}
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				b.Fatal(err)
			}
			res.Body.Close()
		}
	})
	b.Run("gRPC", func(b *testing.B) {
		addr, _ := startKind(b, cleartextNew, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		})
		a := startAgent(b, "h2c://"+addr)
		conn, r := a.dialNode()
		request := []byte("POST /a/b HTTP/1.1\r\nHost: a.b\r\nUser-Agent: b\r\nContent-Type: application/grpc\r\nTe: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := conn.Write(request); err != nil {
				b.Fatal(err)
			}
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil || res.Trailer.Get("Grpc-Status") != "0" {
				b.Fatal(err, res.Trailer)
			}
			res.Body.Close()
		}
	})
}

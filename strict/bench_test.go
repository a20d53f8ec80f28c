package strict

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
)

// BenchmarkRead is what Conn costs for a request of a browser's, without system calls.
func BenchmarkRead(b *testing.B) {
	src := &source{sizes: rand.New(whole{})}
	c := NewConn(&all{source: src})
	p := make([]byte, 4096)
	sent := []byte(browserRequest)
	b.SetBytes(int64(len(sent)))
	b.ReportAllocs()
	for b.Loop() {
		src.left = sent
		c.Read(p)
	}
}

// all is a source that gives all at once.
type all struct{ *source }

func (a *all) Read(p []byte) (int, error) {
	n := copy(p, a.left)
	a.left = nil
	return n, nil
}

// BenchmarkServer compares net/http's server with Conn and without, over TCP.
func BenchmarkServer(b *testing.B) {
	for _, guarded := range []bool{false, true} {
		name := map[bool]string{false: "without", true: "with"}[guarded]
		b.Run(name, func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello, world\n") })}
			if guarded {
				go srv.Serve(listener{ln})
			} else {
				go srv.Serve(ln)
			}
			defer srv.Close()
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer nc.Close()
			br := bufio.NewReader(nc)
			b.ReportAllocs()
			for b.Loop() {
				io.WriteString(nc, browserRequest)
				res, err := http.ReadResponse(br, nil)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, res.Body)
			}
		})
	}
}

package relay

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// A round trip over TCP, beside http.Transport's.
func BenchmarkRoundTrip(b *testing.B) {
	payload := strings.Repeat("x", 1<<20)
	h := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/small":
			io.WriteString(w, "Hello, world!")
		case "/large":
			w.Header().Set("Content-Length", "1048576")
			io.WriteString(w, payload)
		case "/post":
			io.Copy(io.Discard, r.Body)
		}
	}
	s := httptest.NewServer(http.HandlerFunc(h))
	defer s.Close()
	tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256}
	defer tr.CloseIdleConnections()
	pool := newPool(b, s.Listener.Addr().String())
	buf := make([]byte, 32<<10)
	for _, c := range []struct {
		name string
		rt   http.RoundTripper
	}{{"relay", pool}, {"transport", tr}} {
		for _, path := range []string{"small", "large", "post"} {
			b.Run(path+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					var body io.Reader
					method := "GET"
					if path == "post" {
						method, body = "POST", io.MultiReader(strings.NewReader(payload[:4096]))
					}
					req, _ := http.NewRequestWithContext(b.Context(), method, s.URL+"/"+path, body)
					if path == "post" {
						req.ContentLength = 4096
					}
					res, err := c.rt.RoundTrip(req)
					if err != nil {
						b.Fatal(err)
					}
					io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buf)
					res.Body.Close()
				}
			})
		}
	}
}

// What goes through Splice, beside two io.Copy with 64 KiB each.
func BenchmarkSplice(b *testing.B) {
	ways := map[string]func(a, c net.Conn){
		"splice": func(x, y net.Conn) { Splice(context.Background(), x, y) },
		"copy": func(x, y net.Conn) {
			var wg sync.WaitGroup
			oneWay := func(to, from net.Conn) {
				io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 64<<10))
				closeWrite(to)
			}
			wg.Go(func() { oneWay(x, y) })
			wg.Go(func() { oneWay(y, x) })
			wg.Wait()
		},
	}
	for _, way := range []string{"splice", "copy"} {
		b.Run("bulk/"+way, func(b *testing.B) {
			nearA, a := tcpPair(b)
			nearB, c := tcpPair(b)
			go ways[way](nearA, nearB)
			buf, in := make([]byte, 256<<10), make([]byte, 256<<10)
			b.SetBytes(int64(len(buf)))
			go func() {
				for {
					if _, err := a.Write(buf); err != nil {
						return
					}
				}
			}()
			cpu := cpuTime()
			for b.Loop() {
				io.ReadFull(c, in)
			}
			b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
		})
		b.Run("pingpong/"+way, func(b *testing.B) {
			nearA, a := tcpPair(b)
			nearB, c := tcpPair(b)
			go ways[way](nearA, nearB)
			go io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			buf := make([]byte, 64)
			cpu := cpuTime()
			for b.Loop() {
				a.Write(buf)
				io.ReadFull(a, buf)
			}
			b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

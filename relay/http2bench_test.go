package relay

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// A round trip over HTTP/2, such as a unary call of gRPC is, beside http.Transport's and beside HTTP/1.1.
func BenchmarkHTTP2RoundTrip(b *testing.B) {
	payload := strings.Repeat("x", 1<<20)
	h := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/get":
			io.WriteString(w, "Hello, world!")
		case "/call":
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(200)
			io.WriteString(w, "Hello, world!")
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		case "/large":
			io.WriteString(w, payload)
		}
	}
	pool := service2(b, h)
	tr := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return pool.Dial(ctx) },
		DisableCompression: true, Protocols: new(http.Protocols),
	}
	defer tr.CloseIdleConnections()
	tr.Protocols.SetUnencryptedHTTP2(true)
	pool1 := service(b, h)
	buf := make([]byte, 32<<10)
	for _, path := range []string{"get", "call", "large"} {
		for _, c := range []struct {
			name string
			rt   http.RoundTripper
		}{{"pool", pool}, {"transport", tr}, {"http1", pool1}} {
			b.Run(path+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				cpu := cpuTime()
				for b.Loop() {
					method := "GET"
					var body io.Reader
					if path == "call" {
						method, body = "POST", io.MultiReader(strings.NewReader("Hello, world!"))
					}
					req, _ := http.NewRequestWithContext(b.Context(), method, "http://service.test/"+path, body)
					req.Header["User-Agent"] = []string{"bench"}
					res, err := c.rt.RoundTrip(req)
					if err != nil {
						b.Fatal(err)
					}
					io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buf)
					res.Body.Close()
				}
				b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

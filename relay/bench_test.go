package relay

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
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

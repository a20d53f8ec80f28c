package inspect

import (
	"io"
	"net/http"
	"testing"
)

// discard is a client that takes everything.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkRequest is what a request costs that is inspected, besides what it
// costs anyway; one that is not passes by all of this.
func BenchmarkRequest(b *testing.B) {
	i := start(b, Config{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "Hello, world!") })
	r, err := http.NewRequest("GET", "http://example.com/index.html?q=1", nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("User-Agent", "curl")
	b.ReportAllocs()
	for b.Loop() {
		i.next.ServeHTTP(discard{make(http.Header)}, r)
	}
}

package accesslog

import (
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"
)

// typical is what a browser's request through a node leaves behind.
func typical() *Record {
	return &Record{
		Time:  time.Date(2026, 2, 3, 4, 5, 6, 789e6, time.UTC),
		Proto: "HTTP/1.1", Method: "GET", Host: "my-endpoint.example.com", Path: "/api/v1/items/4711",
		Endpoint: "my-endpoint", Client: "192.0.2.17:51234", Node: "a1b2c3d", Upstream: "10.1.2.3:40122",
		Status: 200, BytesOut: 1234, Duration: 1_234_567 * time.Nanosecond, RequestID: "0f8fad5bd9cb469fa16570867728950e",
		RequestHeader: http.Header{
			"Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"}, "Accept-Encoding": {"gzip, deflate, br"},
			"Accept-Language": {"en-US,en;q=0.5"}, "User-Agent": {"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"},
			"Authorization": {"Bearer secret"}, "Cookie": {"session=secret"}, "X-Piko-Endpoint": {"my-endpoint"},
		},
		ResponseHeader: http.Header{
			"Content-Type": {"application/json"}, "Content-Length": {"1234"}, "Date": {"Tue, 03 Feb 2026 04:05:06 GMT"},
			"Set-Cookie": {"session=secret2; HttpOnly"},
		},
	}
}

func benchmarkLog(b *testing.B, w io.Writer, cfg Config, opt Options) {
	l, r := New(w, cfg, opt), typical()
	b.ReportAllocs()
	for b.Loop() {
		l.Log(r)
	}
}

func BenchmarkLog(b *testing.B) {
	names := []string{"User-Agent", "Content-Type"}
	listed := Config{RequestHeaders: HeaderFilter{Allow: names}, ResponseHeaders: HeaderFilter{Allow: names}}
	b.Run("json", func(b *testing.B) { benchmarkLog(b, io.Discard, Config{}, Options{}) })
	b.Run("json-allow-list", func(b *testing.B) { benchmarkLog(b, io.Discard, listed, Options{}) })
	b.Run("text", func(b *testing.B) { benchmarkLog(b, io.Discard, Config{}, Options{Text: true}) })
	b.Run("below-level", func(b *testing.B) { benchmarkLog(b, io.Discard, Config{}, Options{MinLevel: slog.LevelWarn}) })
}

// BenchmarkLogBuffered has the writer in it, from many goroutines at once. They
// write more than a real node could, and without ever waiting for a network, so
// that the goroutine of the writer hardly runs: most lines are dropped.
func BenchmarkLogBuffered(b *testing.B) {
	w := NewWriter(io.Discard)
	defer w.Close()
	l, r := New(w, Config{}, Options{Subsystem: "proxy.access"}), typical()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Log(r)
		}
	})
	b.ReportMetric(float64(w.Dropped())/float64(b.N), "dropped/op")
}

func BenchmarkAppendDuration(b *testing.B) {
	buf := make([]byte, 0, 64)
	for b.Loop() {
		buf = appendDuration(buf[:0], 1_234_567)
	}
}

// BenchmarkLogFields is the json of BenchmarkLog from lists of fields.
func BenchmarkLogFields(b *testing.B) {
	r := typical()
	for name, values := range r.RequestHeader {
		r.RequestFields = append(r.RequestFields, Field{name, values[0]})
	}
	for name, values := range r.ResponseHeader {
		r.ResponseFields = append(r.ResponseFields, Field{name, values[0]})
	}
	r.RequestHeader, r.ResponseHeader = nil, nil
	l := New(io.Discard, Config{}, Options{})
	b.ReportAllocs()
	for b.Loop() {
		l.Log(r)
	}
}

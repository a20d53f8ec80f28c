package proxy

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// A client's grpc-timeout ends its call also when nobody behind us heeds it.
func TestGRPCTimeout(t *testing.T) { everyWay(t, testGRPCTimeout) }

func testGRPCTimeout(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, func(o *Options) { o.Timeout = time.Millisecond }) // not for gRPC
	over := make(chan error, 1)
	l := w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		if h.Set("X-Timeout", r.Header.Get("Grpc-Timeout")); r.Header.Get("X-At") == "heeding" {
			h.Set("Grpc-Status", "4")
			h.Set("Grpc-Message", "the service's own")
			return
		}
		if r.Header.Get("X-At") == "answering" {
			http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		over <- r.Context().Err()
	})
	for _, tt := range []struct{ at, want string }{
		{"heeding", "200 map[] 20S the service's own"},
		{"waiting", "200 map[]  upstream timeout"},
		{"answering", "200 map[Grpc-Message:[upstream timeout] Grpc-Status:[4]] 20m "},
	} {
		c := w.dialHTTP2()
		timeout := "20m"
		if tt.at == "heeding" {
			timeout = "20S"
		}
		c.request(1, true, post("content-type", "application/grpc", "grpc-timeout", timeout, "x-at", tt.at)...)
		a := c.read(1)
		if !a.ended {
			t.Errorf("%s: the stream was reset: %s", tt.at, a.reset)
		}
		if a.trailer == nil {
			a.trailer = http.Header{}
		}
		got := fmt.Sprintf("%s %v %s %s", a.status, a.trailer, a.header.Get("X-Timeout"), a.header.Get("Grpc-Message"))
		if got != tt.want || a.header.Get("Grpc-Status")+a.trailer.Get("Grpc-Status") != "4" {
			t.Errorf("%s: got %s, want %s", tt.at, got, tt.want)
		}
		if tt.at != "heeding" {
			<-over
		}
	}
	eventually(t, idle(l))
	c := w.dialHTTP2() // nobody was blamed for what the client wanted so
	c.request(1, true, post("content-type", "application/grpc", "x-at", "heeding")...)
	if a := c.read(1); a.header.Get("Grpc-Message") != "the service's own" {
		t.Errorf("the next call got %+v", a)
	}
}

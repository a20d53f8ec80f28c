package agent

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// TestServiceWithoutHTTP2IsLeftAlone: a service that has answered in HTTP/1.1 and
// has no HTTP/2 is asked again for gRPC alone, unless it had HTTP/2 a while ago.
func TestServiceWithoutHTTP2IsLeftAlone(t *testing.T) {
	stream := &http.Request{Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: -1}
	grpc := &http.Request{Header: http.Header{"Content-Type": {"application/grpc+proto"}}, ContentLength: -1}
	for _, c := range []struct {
		name   string
		heard1 bool
		learnt []bool // what each question brought, a minute between them
		wait   time.Duration
		stream bool // it need not be asked
	}{
		{"answers in HTTP/1.1", true, []bool{false}, time.Hour, true},
		{"has not answered yet", false, []bool{false}, time.Hour, false},
		{"was never asked", true, nil, time.Hour, false},
		{"speaks HTTP/2", true, []bool{true}, time.Hour, false},
		{"spoke HTTP/2 a moment ago", true, []bool{true, false}, doubtTime, false},
		{"spoke HTTP/2 a while ago", true, []bool{true, false}, doubtTime + time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := new(upstream)
				u.heard1.Store(c.heard1)
				for _, speaks2 := range c.learnt {
					time.Sleep(time.Minute)
					u.learn(speaks2)
				}
				time.Sleep(c.wait)
				if got := u.said1(stream); got != c.stream {
					t.Errorf("a stream need not ask: %v, want %v", got, c.stream)
				}
				if u.said1(grpc) {
					t.Error("a gRPC call takes an old no for an answer")
				}
			})
		})
	}
}

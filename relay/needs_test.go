package relay

import (
	"net/http"
	"strings"
	"testing"
)

func TestNeedsHTTP2(t *testing.T) {
	for _, tt := range []struct {
		name, method, kind string
		length             int64
		want               bool
	}{
		{"gRPC", "POST", "application/grpc", -1, true},
		{"gRPC with a codec", "POST", "application/grpc+proto", -1, true},
		{"gRPC with a parameter", "POST", "Application/GRPC; charset=utf-8", -1, true},
		{"gRPC of known length", "POST", "application/grpc", 5, true},
		{"gRPC-Web", "POST", "application/grpc-web+proto", -1, false},
		{"stream of Connect", "POST", "application/connect+proto", -1, true},
		{"call of Connect", "POST", "application/proto", 5, false},
		{"stream of no type", "POST", "", -1, true},
		{"stream of a JSON document each", "POST", "application/x-ndjson", -1, false},
		{"form", "POST", "multipart/form-data; boundary=x", -1, false},
		{"push of git", "POST", "application/x-git-receive-pack-request", -1, false},
		{"file", "PUT", "", -1, false},
		{"layer of an image", "PATCH", "application/octet-stream", -1, false},
		{"known length", "POST", "application/json", 5, false},
		{"no body", "GET", "", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := post(t, "/", strings.NewReader("hello"))
			r.Method, r.ContentLength = tt.method, tt.length
			if tt.length == 0 {
				r.Body = http.NoBody
			}
			if tt.kind != "" {
				r.Header.Set("Content-Type", tt.kind)
			}
			if got := NeedsHTTP2(r); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

package fault

import (
	"math"
	"net/http"
	"testing"
	"time"
)

func TestGRPCTimeout(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond,
		"5u": 5 * time.Microsecond, "6n": 6, "0S": 0, "99999999H": math.MaxInt64 / 2,
		"": -1, "S": -1, "1": -1, "1s": -1, "-1S": -1, "+1S": -1, "1.5S": -1, "123456789S": -1, "1 S": -1,
	} {
		h := http.Header{"Content-Type": {"application/grpc"}, "Grpc-Timeout": {value}}
		if d, ok := GRPCTimeout(h); ok != (want >= 0) || ok && d != want {
			t.Errorf("%q: got %v, %v, want %v", value, d, ok, want)
		}
	}
	for name, h := range map[string]http.Header{
		"none":        {"Content-Type": {"application/grpc"}},
		"two":         {"Content-Type": {"application/grpc"}, "Grpc-Timeout": {"1S", "2S"}},
		"not of gRPC": {"Content-Type": {"application/json"}, "Grpc-Timeout": {"1S"}},
	} {
		if _, ok := GRPCTimeout(h); ok {
			t.Errorf("%s: there is a time", name)
		}
	}
}

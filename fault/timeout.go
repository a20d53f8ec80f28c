package fault

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// GRPCTimeout is the time that a gRPC request says it may take; ok is false if
// it does not say, or not in a way that can be understood.
func GRPCTimeout(h http.Header) (d time.Duration, ok bool) {
	values := h["Grpc-Timeout"]
	if len(values) != 1 || !IsGRPC(h) {
		return 0, false
	}
	return parseTimeout(values[0])
}

// parseTimeout reads up to eight digits and a unit.
func parseTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	const longest = math.MaxInt64 / 2 // centuries
	if time.Duration(n) > longest/unit {
		return longest, true
	}
	return time.Duration(n) * unit, true
}

package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCodes is the table of all failures: what clients see of each.
func TestCodes(t *testing.T) {
	tests := []struct {
		code       Code
		status     int
		text       string
		grpc       int
		retryAfter string
	}{
		{"malformed-request", 400, "malformed request", 3, ""},
		{"missing-endpoint", 400, "missing endpoint id", 3, ""},
		{"invalid-endpoint", 400, "invalid endpoint id", 3, ""},
		{"wrong-protocol", 400, "endpoint serves HTTP, not TCP connections", 3, ""},
		{"missing-authorization", 401, "missing authorization", 16, ""},
		{"invalid-authorization", 401, "invalid authorization", 16, ""},
		{"unsupported-auth-type", 401, "unsupported auth type", 16, ""},
		{"invalid-token", 401, "invalid token", 16, ""},
		{"expired-token", 401, "expired token", 16, ""},
		{"unknown-tenant", 401, "unknown tenant", 16, ""},
		{"endpoint-not-permitted", 401, "endpoint not permitted", 7, ""},
		{"forbidden", 403, "forbidden", 7, ""},
		{"not-found", 404, "not found", 12, ""},
		{"reserved-path", 404, "not found", 12, ""},
		{"method-not-allowed", 405, "method not allowed", 12, ""},
		{"request-timeout", 408, "request timeout", 4, ""},
		{"duplicate-tunnel", 409, "node has a tunnel of this upstream already", 6, ""},
		{"too-large", 413, "request entity too large", 8, ""},
		{"invalid-config", 422, "configuration has a mistake", 3, ""},
		{"uri-too-long", 414, "request uri too long", 8, ""},
		{"rate-limited", 429, "rate limited", 8, "1"},
		{"header-too-large", 431, "request header fields too large", 8, ""},
		{"internal", 500, "internal error", 13, ""},
		{"no-upstream", 502, "no available upstreams", 14, ""},
		{"upstream-unreachable", 502, "upstream unreachable", 14, ""},
		{"overloaded", 503, "overloaded", 14, "1"},
		{"draining", 503, "draining", 14, "0"},
		{"auth-unavailable", 503, "authentication unavailable", 14, "1"},
		{"upstream-timeout", 504, "upstream timeout", 4, ""},
		{"loop-detected", 508, "request loop detected", 9, ""},
	}
	if len(tests) != len(kinds) {
		t.Errorf("the table has %d codes, the package %d", len(tests), len(kinds))
	}
	for _, tt := range tests {
		t.Run(string(tt.code), func(t *testing.T) {
			if got := tt.code.Status(); got != tt.status {
				t.Errorf("status: got %d, want %d", got, tt.status)
			}
			if got := tt.code.Text(); got != tt.text {
				t.Errorf("text: got %q, want %q", got, tt.text)
			}
			checkJSON(t, tt.code, tt.status, fmt.Sprintf("{\"error\":%q,\"code\":%q}\n", tt.text, string(tt.code)), tt.retryAfter)
			checkGRPC(t, tt.code, tt.grpc)
		})
	}
}

func TestFrom(t *testing.T) {
	own := &Error{Code: Overloaded, Detail: "too many streams"}
	tests := []struct {
		name string
		err  error
		want Code
	}{
		{"a fault stays", own, Overloaded},
		{"a wrapped fault stays", fmt.Errorf("open stream: %w", own), Overloaded},
		{"a fault over a timeout stays", New(RequestTimeout, os.ErrDeadlineExceeded), RequestTimeout},
		{"a code is a fault", NoUpstream, NoUpstream},
		{"a wrapped code is a fault", fmt.Errorf("lookup: %w", NoUpstream), NoUpstream},
		{"deadline of a context", context.DeadlineExceeded, UpstreamTimeout},
		{"wrapped deadline of a context", fmt.Errorf("round trip: %w", context.DeadlineExceeded), UpstreamTimeout},
		{"deadline of a connection", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, UpstreamTimeout},
		{"the system's timeout", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}, UpstreamTimeout},
		{"a body over its limit", fmt.Errorf("copy: %w", &http.MaxBytesError{Limit: 1}), TooLarge},
		{"a refused connection", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, Internal},
		{"a client that is gone", context.Canceled, Internal},
		{"anything else", io.ErrUnexpectedEOF, Internal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := From(tt.err)
			if got.Code != tt.want {
				t.Errorf("got %q, want %q", got.Code, tt.want)
			}
			if !errors.Is(got, tt.want) {
				t.Errorf("errors.Is(%v, %s) is false", got, tt.want)
			}
		})
	}
	if From(nil) != nil {
		t.Error("From(nil) is not nil")
	}
	if From(fmt.Errorf("wrapped: %w", own)) != own {
		t.Error("From does not keep the fault itself")
	}
}

func TestErrorIs(t *testing.T) {
	cause := errors.New("session closed")
	err := fmt.Errorf("forward: %w", New(UpstreamUnreachable, cause))
	for _, target := range []error{UpstreamUnreachable, New(UpstreamUnreachable, nil), cause} {
		if !errors.Is(err, target) {
			t.Errorf("errors.Is(err, %v) is false", target)
		}
	}
	for _, target := range []error{NoUpstream, New(NoUpstream, cause), (*Error)(nil), io.EOF} {
		if errors.Is(err, target) {
			t.Errorf("errors.Is(err, %v) is true", target)
		}
	}
}

func TestErrorText(t *testing.T) {
	tests := []struct {
		err  *Error
		want string
	}{
		{New(NoUpstream, nil), "no available upstreams"},
		{New(NoUpstream, errors.New("none is left")), "no available upstreams: none is left"},
		{&Error{Code: MalformedRequest, Detail: "two hosts"}, "two hosts"},
		{&Error{}, "internal error"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestRetryAfterRoundsUp(t *testing.T) {
	for after, want := range map[time.Duration]time.Duration{
		time.Millisecond: time.Second, time.Second: time.Second, 1001 * time.Millisecond: 2 * time.Second,
	} {
		e := &Error{Code: NoUpstream, RetryAfter: after}
		if got, ok := e.retryAfter(); !ok || got != want {
			t.Errorf("%v: got %v, %v, want %v", after, got, ok, want)
		}
	}
}

// TestEveryCodeIsInTroubleshooting: who looks a code up finds it.
func TestEveryCodeIsInTroubleshooting(t *testing.T) {
	page, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := make(map[Code]bool)
	for line := range strings.Lines(string(page)) {
		if list, ok := strings.CutPrefix(line, "### "); ok {
			for code := range strings.SplitSeq(strings.TrimSpace(list), ", ") {
				headings[Code(code)] = true
			}
		}
	}
	for code := range kinds {
		if !headings[code] {
			t.Errorf("docs/troubleshooting.md has no heading for %s", code)
		}
	}
}

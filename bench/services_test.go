package bench

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

var discard = slog.New(slog.DiscardHandler)

// TestServicesEcho has each kind of client meet its service, without a tunnel.
func TestServicesEcho(t *testing.T) {
	for _, size := range []int{1, 100, 300_000} {
		for _, kind := range []Kind{KindHTTP, KindTCP} {
			s := NewServices(kind, discard)
			addr, err := s.Listen("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			dial := func(ctx context.Context, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addr.String())
			}
			targets := map[string]Target{
				"TCP":                  TCP{Dial: dial, Size: size}.Target(""),
				"TCP, new connections": TCP{Dial: dial, Size: size, Connect: true}.Target(""),
			}
			if kind == KindHTTP {
				url := "http://" + addr.String()
				targets = map[string]Target{
					"HTTP": HTTP{URL: url, Size: size, ConnectTimeout: time.Second}.Target(""),
					"gRPC": HTTP{URL: url, Size: size, ConnectTimeout: time.Second, GRPC: true}.Target(""),
				}
			}
			for name, target := range targets {
				r := mustRun(t, Load{Clients: 3, Requests: 30}, target)
				if r.Requests != 30 || r.Failed != 0 {
					t.Errorf("%s of %d bytes: %d done, failed: %v", name, size, r.Requests, r.Errors)
				}
			}
			s.Stop()
		}
	}
}

// TestTCPFailuresByKind: what a connection brings is compared, and one that failed
// is not used again.
func TestTCPFailuresByKind(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		serve      func(net.Conn)
	}{
		{"closed", "answer ended early, as if it were complete", func(c net.Conn) { io.CopyN(io.Discard, c, 100) }},
		{"half, and wrong", "answer differs from the request", func(c net.Conn) { io.CopyN(io.Discard, c, 100); c.Write(make([]byte, 50)) }},
		{"other bytes", "answer differs from the request", func(c net.Conn) {
			io.CopyN(io.Discard, c, 100)
			c.Write(make([]byte, 100))
			io.Copy(io.Discard, c)
		}},
		{"silent", "timeout", func(c net.Conn) { io.Copy(io.Discard, c) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := TCP{Size: 100, Dial: func(context.Context, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go func() {
					defer theirs.Close()
					tt.serve(theirs)
				}()
				return ours, nil
			}}.Target("")
			r := mustRun(t, Load{Clients: 1, Requests: 2, Timeout: 50 * time.Millisecond}, target)
			if r.Errors[tt.want] != 2 {
				t.Errorf("%d done, failed: %v; want 2 of %q", r.Requests, r.Errors, tt.want)
			}
		})
	}
}

// TestGRPCFailures: a call without a message, or without its trailers, has failed.
func TestGRPCFailures(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		answer     http.HandlerFunc
	}{
		{"status alone", "grpc-status 14", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", grpcType)
			w.Header().Set("Grpc-Status", "14")
		}},
		{"status in trailers", `grpc-status "13"`, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "13")
			io.Copy(w, r.Body)
		}},
		{"no trailers", `grpc-status ""`, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewServices(KindHTTP, discard)
			s.server.Handler = tt.answer
			addr, err := s.Listen("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer s.Stop()
			h := HTTP{URL: "http://" + addr.String(), Size: 100, ConnectTimeout: time.Second, GRPC: true}
			if r := mustRun(t, Load{Clients: 1, Requests: 2}, h.Target("")); r.Errors[tt.want] != 2 {
				t.Errorf("%d done, failed: %v; want 2 of %q", r.Requests, r.Errors, tt.want)
			}
		})
	}
}

func TestHeadersOfTheOtherTarget(t *testing.T) {
	h := testHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "my-endpoint.example.com" || r.Header.Get("X-Tunnel") != "yes" || r.Header["X-Piko-Endpoint"] != nil {
			http.Error(w, "wrong", http.StatusBadRequest)
			return
		}
		echo(w, r)
	})
	h.Endpoints, h.Header = nil, http.Header{"Host": {"my-endpoint.example.com"}, "X-Tunnel": {"yes"}}
	if r := mustRun(t, Load{Clients: 1, Requests: 1}, h.Target("")); r.Requests != 1 {
		t.Errorf("failed: %v", r.Errors)
	}
}

package suites

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/status"

	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// TestDeadline wants a deadline to reach the server and to end the call at both sides.
func TestDeadline(t *testing.T) {
	t.Parallel()
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		seen, ended := make(chan time.Duration, 1), make(chan struct{})
		serve(t, "deadline", newTestServer(&service{duplex: func(stream duplexServer) error {
			deadline, _ := stream.Context().Deadline()
			seen <- time.Until(deadline)
			<-stream.Context().Done()
			close(ended)
			return stream.Context().Err()
		}}))
		const allowed = 5 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), allowed)
		defer cancel()
		stream, err := p.testClient(t, "deadline").FullDuplexCall(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		wantCode(t, "call whose deadline is over", err, codes.DeadlineExceeded)
		wantClosed(t, "the server's call ended", ended)
		select {
		case left := <-seen:
			if left <= 0 || left > allowed {
				t.Errorf("the server saw a deadline in %v, want it within %v", left, allowed)
			}
		default:
			t.Error("the server saw no call")
		}
	})
}

// TestServerForgetsDeadline wants piko to end a call whose client has said a deadline and left
// it to others: the server ignores it.
func TestServerForgetsDeadline(t *testing.T) {
	t.Parallel()
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		if p.services != nil {
			return // the server does what the test wants: nothing
		}
		release, entered := make(chan struct{}), make(chan struct{})
		defer close(release)
		serve(t, "forgets", newTestServer(&service{unary: func(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
			close(entered)
			<-release
			return &testgrpc.SimpleResponse{}, nil
		}}))
		res, err := p.rawCall(t, "forgets", "/grpc.testing.TestService/UnaryCall", http.Header{"Grpc-Timeout": {"5S"}})
		if err != nil {
			t.Fatalf("call: %v", err)
		}
		wantClosed(t, "the server has the call", entered)
		if got := res.Header.Get("Grpc-Status"); got != "4" {
			t.Errorf("grpc-status %q of %d %v, want 4", got, res.StatusCode, res.Header)
		}
	})
}

// rawCall makes a call with an empty message as a client of HTTP/2 that knows nothing of gRPC.
func (p *path) rawCall(t *testing.T, endpoint, method string, header http.Header) (*http.Response, error) {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	req, err := http.NewRequestWithContext(within(t, limit), http.MethodPost, "http://"+p.addr(endpoint)+method, bytes.NewReader(make([]byte, 5)))
	if err != nil {
		return nil, err
	}
	req.Host, req.Header = hostOf(endpoint+p.suffix), header
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	res, err := transport.RoundTrip(req)
	if err == nil {
		t.Cleanup(func() { res.Body.Close() })
	}
	return res, err
}

// TestClientCancels wants the server to know at once that a client has given up.
func TestClientCancels(t *testing.T) {
	t.Parallel()
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		ended := make(chan struct{})
		serve(t, "cancel", newTestServer(&service{duplex: func(stream duplexServer) error {
			err := echo(stream)
			<-stream.Context().Done()
			close(ended)
			return err
		}}))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream := openDuplex(t, ctx, p.testClient(t, "cancel"))
		cancel()
		_, err := stream.Recv()
		wantCode(t, "cancelled call", err, codes.Canceled)
		wantClosed(t, "the server's call ended", ended)
	})
}

// TestServerEnds wants the status of a server that ends a call while the client is sending,
// with its trailers.
func TestServerEnds(t *testing.T) {
	t.Parallel()
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		serve(t, "ends", newTestServer(&service{duplex: func(stream duplexServer) error {
			for range 3 {
				if _, err := stream.Recv(); err != nil {
					return err
				}
			}
			return status.Error(codes.ResourceExhausted, "three are enough: ä\n")
		}}))
		stream, err := p.testClient(t, "ends").FullDuplexCall(within(t, limit))
		for err == nil {
			err = stream.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(1 << 10)})
		}
		if !errors.Is(err, io.EOF) {
			t.Fatalf("send until the server has ended: %v", err)
		}
		_, err = stream.Recv()
		wantCode(t, "call that the server has ended", err, codes.ResourceExhausted)
		if got := status.Convert(err).Message(); got != "three are enough: ä\n" {
			t.Errorf("message %q", got)
		}
	})
}

// TestLargeMessages sends and receives messages of 16 MiB, alone and in a stream.
func TestLargeMessages(t *testing.T) {
	t.Parallel()
	const size = 16 << 20
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		serve(t, "large", newTestServer(&service{
			duplex: echo,
			unary: func(_ context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
				return &testgrpc.SimpleResponse{Payload: in.Payload}, nil
			},
		}, grpc.MaxRecvMsgSize(2*size)))
		c := p.testClient(t, "large", grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2*size)))
		ctx := within(t, 2*time.Minute)
		got, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: payload(size)})
		if err != nil || len(got.GetPayload().GetBody()) != size {
			t.Fatalf("call with %d bytes: got %d, %v", size, len(got.GetPayload().GetBody()), err)
		}
		stream := openDuplex(t, ctx, c)
		for range 3 {
			pingPong(t, stream, size)
		}
	})
}

// TestHealth asks for the health of a server, and watches it.
func TestHealth(t *testing.T) {
	t.Parallel()
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		s, h := newTestServer(&service{}), health.NewServer()
		healthgrpc.RegisterHealthServer(s, h)
		serve(t, "health", s)
		c, ctx := healthgrpc.NewHealthClient(p.dial(t, "health")), within(t, limit)
		got, err := c.Check(ctx, &healthgrpc.HealthCheckRequest{})
		if err != nil || got.Status != healthgrpc.HealthCheckResponse_SERVING {
			t.Errorf("check: %v, %v", got, err)
		}
		_, err = c.Check(ctx, &healthgrpc.HealthCheckRequest{Service: "unknown"})
		wantCode(t, "check of an unknown service", err, codes.NotFound)
		watch, err := c.Watch(ctx, &healthgrpc.HealthCheckRequest{})
		if err != nil {
			t.Fatalf("watch: %v", err)
		}
		for _, want := range []healthgrpc.HealthCheckResponse_ServingStatus{
			healthgrpc.HealthCheckResponse_SERVING, healthgrpc.HealthCheckResponse_NOT_SERVING,
		} {
			h.SetServingStatus("", want)
			if got, err := watch.Recv(); err != nil || got.Status != want {
				t.Errorf("watch: got %v, %v, want %v", got, err, want)
			}
		}
	})
}

// TestNobodyListens wants a status of gRPC for an endpoint without upstreams.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	for name, newPath := range paths {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newPath(t).testClient(t, "nobody").EmptyCall(within(t, limit), &testgrpc.Empty{})
			wantCode(t, "call to nobody", err, codes.Unavailable)
		})
	}
}

// TestUpstreamDies wants calls that go on to end with UNAVAILABLE when the upstream dies, and
// not as if they had come to their end.
func TestUpstreamDies(t *testing.T) {
	t.Parallel()
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		waiting, calls := make(chan struct{}, 10), atomic.Int64{}
		stop := serve(t, "dies", newTestServer(&service{duplex: echo, unary: func(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
			calls.Add(1)
			waiting <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}}))
		c, ctx := p.testClient(t, "dies"), within(t, limit)
		stream, unary := openDuplex(t, ctx, c), make(chan error, 1)
		go func() {
			_, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{})
			unary <- err
		}()
		wantClosed(t, "the unary call is at the server", waiting)
		stop()
		_, err := stream.Recv()
		wantCode(t, "streaming call", err, codes.Unavailable)
		wantCode(t, "unary call", <-unary, codes.Unavailable)
		if n := calls.Load(); n != 1 {
			t.Errorf("the unary call was executed %d times", n)
		}
	})
}

package suites

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// limit is how long anything may take that should happen at once.
const limit = 20 * time.Second

// serveGRPC makes a gRPC server serve an endpoint, until the test ends or stop is called, which
// ends what is before the server, without any grace.
type serveGRPC func(t *testing.T, endpoint string, s *grpc.Server) (stop func())

// everyUpstream runs a test through one node and across two, with an agent before the server
// and with the server on a listener of the SDK; and without piko, which shows what the test
// itself can do.
func everyUpstream(t *testing.T, test func(t *testing.T, p *path, serve serveGRPC)) {
	t.Run("direct", func(t *testing.T) {
		t.Parallel()
		p := &path{services: map[string]string{}}
		test(t, p, func(t *testing.T, endpoint string, s *grpc.Server) func() {
			p.services[endpoint] = serveTCP(t, s)
			return s.Stop
		})
	})
	for name, newPath := range paths {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPath(t)
			t.Run(upstreamAgent, func(t *testing.T) {
				t.Parallel()
				p := &path{entry: p.entry, owner: p.owner, suffix: "-agent"}
				test(t, p, func(t *testing.T, endpoint string, s *grpc.Server) func() {
					a := p.agent(t, endpoint, "h2c://"+serveTCP(t, s))
					return func() {
						_ = a.cmd.Process.Kill()
						<-a.exited
					}
				})
			})
			t.Run(upstreamSDK, func(t *testing.T) {
				t.Parallel()
				p := &path{entry: p.entry, owner: p.owner, suffix: "-sdk"}
				test(t, p, func(t *testing.T, endpoint string, s *grpc.Server) func() {
					ln := p.listen(t, endpoint)
					serveOn(t, s, ln)
					return s.Stop
				})
			})
		})
	}
}

// service is a TestService whose methods a test chooses; the others are not implemented.
type service struct {
	testgrpc.UnimplementedTestServiceServer
	unary  func(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error)
	duplex func(duplexServer) error
}

type (
	duplexServer = grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]
	duplexClient = grpc.BidiStreamingClient[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]
)

// UnaryCall calls unary.
func (s *service) UnaryCall(ctx context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	if s.unary == nil {
		return s.UnimplementedTestServiceServer.UnaryCall(ctx, in)
	}
	return s.unary(ctx, in)
}

// FullDuplexCall calls duplex.
func (s *service) FullDuplexCall(stream duplexServer) error {
	if s.duplex == nil {
		return s.UnimplementedTestServiceServer.FullDuplexCall(stream)
	}
	return s.duplex(stream)
}

// echo sends each message back until the client has sent all.
func echo(stream duplexServer) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: in.Payload}); err != nil {
			return err
		}
	}
}

func newTestServer(service testgrpc.TestServiceServer, options ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(s, service)
	return s
}

// serveTCP serves on a port of its own and returns its address.
func serveTCP(t *testing.T, s *grpc.Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	serveOn(t, s, ln)
	return ln.Addr().String()
}

// serveOn serves on a listener until the test ends.
func serveOn(t *testing.T, s *grpc.Server, ln net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve gRPC: %v", err)
		}
	})
}

// dial returns a connection to the entry, for an endpoint.
func (p *path) dial(t *testing.T, endpoint string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	options = append([]grpc.DialOption{
		grpc.WithAuthority(hostOf(endpoint + p.suffix)), grpc.WithTransportCredentials(insecure.NewCredentials()),
	}, options...)
	cc, err := grpc.NewClient("passthrough:///"+p.addr(endpoint), options...)
	if err != nil {
		t.Fatalf("make client: %v", err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func (p *path) testClient(t *testing.T, endpoint string, options ...grpc.DialOption) testgrpc.TestServiceClient {
	t.Helper()
	return testgrpc.NewTestServiceClient(p.dial(t, endpoint, options...))
}

// openDuplex starts a call and exchanges one message, so that it is known to go on.
func openDuplex(t *testing.T, ctx context.Context, c testgrpc.TestServiceClient) duplexClient {
	t.Helper()
	stream, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatalf("start call: %v", err)
	}
	pingPong(t, stream, 10)
	return stream
}

func pingPong(t *testing.T, stream duplexClient, size int) {
	t.Helper()
	if err := stream.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(size)}); err != nil {
		t.Fatalf("send message: %v", err)
	}
	got, err := stream.Recv()
	if err != nil {
		t.Fatalf("receive message: %v", err)
	}
	if n := len(got.Payload.GetBody()); n != size {
		t.Fatalf("message came back with %d bytes, want %d", n, size)
	}
}

func payload(n int) *testgrpc.Payload { return &testgrpc.Payload{Body: make([]byte, n)} }

// within is a context for what should happen at once.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: got %v, want %v: %v", what, got, want, err)
	}
}

// wantClosed waits until something has happened.
func wantClosed(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(limit):
		t.Errorf("%s: not within %v", what, limit)
	}
}

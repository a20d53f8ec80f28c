package suites

import (
	"net"
	"testing"

	"google.golang.org/grpc"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// serveGRPC makes a gRPC server serve an endpoint, until the test ends.
type serveGRPC func(t *testing.T, endpoint string, s *grpc.Server)

// everyUpstream runs a test through one node and across two, with an agent before the server
// and with the server on a listener of the SDK.
func everyUpstream(t *testing.T, test func(t *testing.T, p *path, serve serveGRPC)) {
	for name, newPath := range paths {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPath(t)
			t.Run(upstreamAgent, func(t *testing.T) {
				test(t, p, func(t *testing.T, endpoint string, s *grpc.Server) {
					p.agent(t, endpoint, "h2c://"+serveTCP(t, s))
				})
			})
			t.Run(upstreamSDK, func(t *testing.T) {
				test(t, p, func(t *testing.T, endpoint string, s *grpc.Server) {
					serveOn(t, s, p.listen(t, endpoint))
				})
			})
		})
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
		if err := <-served; err != nil {
			t.Errorf("serve gRPC: %v", err)
		}
	})
}

package suites

import (
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// TestIdleCall wants a call on which nothing is said for longer than any time-out, and more than
// one interval of pings, to live: with default settings of all, and when client and server ping
// as often as gRPC allows.
func TestIdleCall(t *testing.T) {
	t.Parallel()
	const idle = 90 * time.Second
	pinging := grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: limit})
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		serve(t, "idle", newTestServer(&service{duplex: echo}))
		serve(t, "pings", newTestServer(&service{duplex: echo}, grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: time.Second, Timeout: limit,
		})))
		for name, options := range map[string][]grpc.DialOption{"idle": nil, "pings": {pinging}} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				stream := openDuplex(t, within(t, idle+limit), p.testClient(t, name, options...))
				<-time.After(idle)
				pingPong(t, stream, 10)
			})
		}
	})
}

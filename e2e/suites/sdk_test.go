package suites

import (
	"context"

	"piko/client"
)

// listenSDK is a listener of the SDK with one tunnel, for a server that speaks HTTP/2 or not.
func listenSDK(ctx context.Context, upstream, endpoint string, http2 bool) (*client.Listener, error) {
	return (&client.Client{URL: upstream, Connections: 1, HTTP2: http2}).Listen(ctx, endpoint)
}

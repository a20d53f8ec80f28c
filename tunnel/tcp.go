package tunnel

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// TCPPath is where a node takes connections that are to be carried to an
// endpoint byte for byte; the endpoint follows it.
const TCPPath = "/_piko/v1/tcp/"

// FeatureHalfClose, offered in x-piko-features of a request for TCPPath and
// repeated in the 101, lets each direction of the connection end by itself: a
// text message "eof" is its end. Peers of v0.9.0 do not know it; with them an
// end of either direction is the end of both.
const FeatureHalfClose = "half-close"

// DialTCP makes one attempt to connect to the endpoint: URL is that of the
// proxy port. ctx and Timeout bound the attempt, not the connection. That it
// succeeds says that an upstream took the connection, and not yet that its
// service did: if that cannot be reached the connection fails.
//
// Errors are those of Dial.
func (d *Dialer) DialTCP(ctx context.Context, endpoint string) (*Conn, error) {
	if _, err := ParseEndpoint(endpoint); err != nil {
		return nil, fmt.Errorf("dial endpoint: %w", err)
	}
	offer := http.Header{}
	offer.Set(HeaderFeatures, FeatureHalfClose)
	c, answer, err := d.dialWebSocket(ctx, TCPPath+url.PathEscape(endpoint), offer)
	if err != nil {
		return nil, fmt.Errorf("dial endpoint: %w", err)
	}
	return newConn(c, slices.Contains(readFeatures(answer), FeatureHalfClose)), nil
}

// AcceptTCP answers the handshake of a client that has asked for TCPPath and an
// endpoint, and which CheckHandshake has let pass. When it returns the 101 is
// out. If it fails, the request has been answered or its connection is gone.
func AcceptTCP(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	var reply Reply
	half := slices.Contains(readFeatures(r.Header), FeatureHalfClose)
	if half {
		reply.Features = []string{FeatureHalfClose}
	}
	c, err := acceptHandshake(w, r, reply)
	if err != nil {
		return nil, fmt.Errorf("accept connection: %w", err)
	}
	return newConn(c, half), nil
}

package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"piko/fault"
)

// HTTP is requests whose answers are their bodies again.
type HTTP struct {
	// URL is where they are sent.
	URL string
	// Endpoints are what they are for, by chance, in x-piko-endpoint; none for a
	// target that knows no endpoints.
	Endpoints []string
	// Header is sent with each.
	Header http.Header
	// Size is that of the body, in bytes.
	Size int
	// GRPC makes them unary calls of gRPC over HTTP/2 with prior knowledge, with
	// one message of Size bytes each way.
	GRPC bool
	// ConnectTimeout bounds opening a connection.
	ConnectTimeout time.Duration
	// TLS is for a URL of https; nil trusts the system's authorities.
	TLS *tls.Config
}

// Target returns what Load.Run wants. Each client has a connection of its own;
// calls of gRPC share one among grpcShare clients, as programs do.
func (h HTTP) Target(name string, processes ...Process) Target {
	body := newBodies(h.Size)
	clients, shared := 0, (*http.Client)(nil)
	return Target{Name: name, Processes: processes, Client: func() Client {
		if !h.GRPC || clients%grpcShare == 0 {
			shared = &http.Client{
				Transport:     h.transport(),
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			}
		}
		clients++
		return &httpClient{HTTP: h, client: shared, bodies: body, buf: make([]byte, 32<<10)}
	}}
}

// grpcShare is how many clients share a connection.
const grpcShare = 16

func (h HTTP) transport() *http.Transport {
	dialer := &net.Dialer{Timeout: h.ConnectTimeout}
	t := &http.Transport{
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: h.ConnectTimeout,
		TLSClientConfig:     h.TLS.Clone(),
		MaxIdleConnsPerHost: 1,
		DisableCompression:  true,
		Protocols:           new(http.Protocols),
	}
	t.Protocols.SetHTTP1(!h.GRPC)
	t.Protocols.SetUnencryptedHTTP2(h.GRPC)
	t.Protocols.SetHTTP2(h.GRPC)
	return t
}

// httpClient is one of the clients.
type httpClient struct {
	HTTP
	client *http.Client
	bodies *bodies
	buf    []byte
}

// Close implements Client.
func (c *httpClient) Close() { c.client.CloseIdleConnections() }

// Exchange implements Client.
func (c *httpClient) Exchange(ctx context.Context) error {
	endpoint := ""
	if len(c.Endpoints) > 0 {
		endpoint = c.Endpoints[rand.IntN(len(c.Endpoints))]
	}
	return c.exchange(ctx, endpoint, c.bodies.one())
}

// exchange posts body and reads its echo.
func (c *httpClient) exchange(ctx context.Context, endpoint string, body []byte) error {
	if c.GRPC {
		body = grpcMessage(body)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if c.GRPC {
		req.ContentLength = -1 // as clients of gRPC send it
		req.Header["Content-Type"], req.Header["Te"] = []string{grpcType}, []string{"trailers"}
	}
	for name, values := range c.Header {
		if name == "Host" {
			req.Host = values[0]
			continue
		}
		req.Header[name] = values
	}
	if endpoint != "" {
		req.Header["X-Piko-Endpoint"] = []string{endpoint}
	}
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		refused := fault.ReadRefused(res)
		io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection is kept
		return refused
	}
	if err := compare(res.Body, body, c.buf); err != nil || !c.GRPC {
		return grpcFailure(res, err)
	}
	if status := res.Trailer.Get("Grpc-Status"); status != "0" {
		return fmt.Errorf("grpc-status %q", status)
	}
	return nil
}

const grpcType = "application/grpc"

// grpcMessage puts gRPC's prefix before a message: not compressed, and its length.
func grpcMessage(body []byte) []byte {
	n := len(body)
	return append([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}

// grpcFailure is what a call of gRPC failed with that has no message, which says
// it in its header or trailers; else err.
func grpcFailure(res *http.Response, err error) error {
	for _, h := range []http.Header{res.Header, res.Trailer} {
		if status := h.Get("Grpc-Status"); status != "" && status != "0" {
			return fmt.Errorf("grpc-status %s", status[:min(len(status), 3)])
		}
	}
	return err
}

// Await returns once every endpoint answers. A tunnel is open a moment before
// requests find it, and a wrong URL shows here instead of in every request.
func (h HTTP) Await(ctx context.Context) error {
	c := h.Target("").Client().(*httpClient)
	defer c.Close()
	for _, endpoint := range h.Endpoints {
		err := await(ctx, awaitPause, func() error { return c.exchange(ctx, endpoint, nil) })
		if err != nil {
			return fmt.Errorf("reach %s through %s: %w", endpoint, h.URL, err)
		}
	}
	return nil
}

// awaitPause is between two questions for what should be there any moment.
const awaitPause = 20 * time.Millisecond

// await tries until there is no error, or ctx has ended: then it returns the last
// one that says more than that.
func await(ctx context.Context, pause time.Duration, try func() error) error {
	var last error
	for {
		err := try()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if !sleepUntil(ctx, time.Now().Add(pause)) {
			return last
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"piko/bench"
	"piko/client"
)

// The benchmarks that send requests.

// benchHTTPCmd is `piko bench http`.
type benchHTTPCmd struct {
	Size int `default:"1024" help:"Bytes of random body in each request and its answer."`
	benchAgainstHTTP
	benchLoad
}

// benchAgainstHTTP is something else that carries HTTP.
type benchAgainstHTTP struct {
	Against httpURL       `placeholder:"URL" help:"Measure another tunnel or proxy as well, in the same run by turns: a URL behind which it forwards to an echo service, such as that of --serve."`
	Header  []benchHeader `sep:"none" placeholder:"NAME:VALUE" help:"Header of each request to what --against names; Host is the request's host. May be repeated."`
}

// benchHeader is a header with its value.
type benchHeader struct{ name, value string }

// UnmarshalText accepts Name: value.
func (h *benchHeader) UnmarshalText(text []byte) error {
	name, value, ok := strings.Cut(string(text), ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t") {
		return fmt.Errorf("%q is no header; write it like %q", text, "X-Tunnel: my-endpoint")
	}
	h.name, h.value = http.CanonicalHeaderKey(name), strings.TrimSpace(value)
	return nil
}

// target is what --against names; nil if it names nothing.
func (c *benchAgainstHTTP) target(size int, grpc bool, load *benchLoad) measured {
	if c.Against == "" {
		return nil
	}
	h := bench.HTTP{URL: string(c.Against), Header: http.Header{}, Size: size, GRPC: grpc, ConnectTimeout: load.Connect.Timeout}
	for _, f := range c.Header {
		h.Header[f.name] = append(h.Header[f.name], f.value)
	}
	return h
}

// Help is the long help.
func (*benchHTTPCmd) Help() string {
	return `
Examples:
  piko bench http --requests 20000 --clients 64
  piko bench http --duration 1m --rate 500 --size 65536
  piko bench http --connect.proxy-url http://piko:8000 --connect.upstream-url http://piko:8001 --json

Against another tunnel, with an agent and what that has for one both forwarding to
the echo service:
  piko bench http --serve 127.0.0.1:9000 --endpoint my-endpoint --pid server=1234 --pid agent=1235 \
    --against http://localhost:8080 --header 'Host: my-endpoint.example.com' --against-pid frps=1236 --against-pid frpc=1237

Upstreams and clients run in this process: what it spends is in the latencies.
Exit status: 0 if all requests worked, 1 if one failed or was answered wrongly.`
}

// Validate is called by the command line's parser.
func (c *benchHTTPCmd) Validate() error { return c.check(c.Size, 0) }

// Run measures and prints; it fails if any request failed, or if a signal cut
// the measurement short.
func (c *benchHTTPCmd) Run(p *process) error {
	config, err := benchTLS(c.Connect.TLS)
	if err != nil {
		return err
	}
	piko := bench.HTTP{URL: string(c.Connect.ProxyURL), Endpoints: c.names(), Size: c.Size, ConnectTimeout: c.Connect.Timeout, TLS: config}
	return c.run(p, bench.KindHTTP, false, c.Size, piko, c.target(c.Size, false, &c.benchLoad))
}

// benchGRPCCmd is `piko bench grpc`.
type benchGRPCCmd struct {
	Size int `default:"100" help:"Bytes of random message in each call and its answer."`
	benchAgainstHTTP
	benchLoad
}

// Help is the long help.
func (*benchGRPCCmd) Help() string {
	return `
Each call has one message each way. 16 clients share a connection, HTTP/2 with prior
knowledge, or with TLS for an https URL. What it is measured against must do the same.

Examples:
  piko bench grpc --requests 20000 --clients 64 --endpoints 1 --upstreams 1
  piko bench grpc --duration 10s --warmup 1s --pid server=1234

Exit status: 0 if all calls worked, 1 if one failed or was answered wrongly.`
}

// Validate is called by the command line's parser.
func (c *benchGRPCCmd) Validate() error { return c.check(c.Size, 0) }

// Run is as benchHTTPCmd.Run.
func (c *benchGRPCCmd) Run(p *process) error {
	config, err := benchTLS(c.Connect.TLS)
	if err != nil {
		return err
	}
	piko := bench.HTTP{URL: string(c.Connect.ProxyURL), Endpoints: c.names(), Size: c.Size, GRPC: true, ConnectTimeout: c.Connect.Timeout, TLS: config}
	return c.run(p, bench.KindHTTP, true, c.Size, piko, c.target(c.Size, true, &c.benchLoad))
}

// benchTCPCmd is `piko bench tcp`.
type benchTCPCmd struct {
	Size    int    `default:"64" help:"Bytes there and back in each request."`
	NewConn bool   `name:"new-connection" help:"Make each request over a connection of its own."`
	Forward string `placeholder:"HOST:PORT" help:"Connect to a port of piko forward, rather than as the SDK does."`
	Against string `placeholder:"HOST:PORT" help:"Measure another tunnel or proxy as well, in the same run by turns: a port behind which it forwards to an echo service, such as that of --serve."`
	benchLoad
}

// Help is the long help.
func (*benchTCPCmd) Help() string {
	return `
Examples:
  piko bench tcp --clients 1 --requests 20000                    round trips of 64 bytes
  piko bench tcp --clients 1 --size 33554432 --requests 100      throughput
  piko bench tcp --clients 16 --new-connection --requests 5000   connections
  piko bench tcp --serve 127.0.0.1:9000 --endpoint my-tcp --forward 127.0.0.1:6000 --against 127.0.0.1:7000

Exit status: 0 if all requests worked, 1 if one failed or was answered wrongly.`
}

// Validate is called by the command line's parser.
func (c *benchTCPCmd) Validate() error {
	for _, addr := range []string{c.Forward, c.Against} {
		if _, _, err := net.SplitHostPort(addr); addr != "" && err != nil {
			return fmt.Errorf("%q is not HOST:PORT", addr)
		}
	}
	if c.Forward != "" && len(c.Endpoint) != 1 {
		return errors.New("--forward leads to one endpoint: name it with --endpoint")
	}
	return c.check(c.Size, 1)
}

// Run is as benchHTTPCmd.Run.
func (c *benchTCPCmd) Run(p *process) error {
	config, err := benchTLS(c.Connect.TLS)
	if err != nil {
		return err
	}
	sdk := &client.Client{URL: string(c.Connect.ProxyURL), ConnectTimeout: c.Connect.Timeout, TLS: config}
	piko := bench.TCP{Dial: sdk.Dial, Endpoints: c.names(), Size: c.Size, Connect: c.NewConn}
	if c.Forward != "" {
		piko.Dial = dialTo(c.Forward)
	}
	var against measured
	if c.Against != "" {
		against = bench.TCP{Dial: dialTo(c.Against), Size: c.Size, Connect: c.NewConn}
	}
	return c.run(p, bench.KindTCP, false, c.Size, piko, against)
}

// dialTo connects to one address, whatever the endpoint.
func dialTo(addr string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

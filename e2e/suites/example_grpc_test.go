package suites

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"piko/client"
	"piko/proxy"
	"piko/router"
	"piko/upstreamconn"
)

// exampleServer is a piko server in this process: yours is at a URL that you
// know.
type exampleServer struct {
	UpstreamURL, ProxyURL string
	Stop                  func()

	table *router.Table
}

// WaitFor waits until the endpoint is served: a server knows of a listener a
// moment after the listener knows of the server.
func (p *exampleServer) WaitFor(endpoint string) {
	for p.table.Lookup(endpoint) == nil {
		<-time.After(time.Millisecond)
	}
}

func startPiko() *exampleServer {
	table := router.NewTable()
	upstreams := &upstreamconn.Server{NodeID: "node", Table: table}
	public, err := proxy.NewPublic(proxy.Options{Lookup: table.Lookup})
	if err != nil {
		panic(err)
	}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() { upstreams.Run(ctx) })
	serve := func(h http.Handler) (srv *http.Server, url string) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		srv = &http.Server{Handler: h, Protocols: new(http.Protocols)}
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(true)
		running.Go(func() { srv.Serve(ln) })
		return srv, "http://" + ln.Addr().String()
	}
	proxyPort, proxyURL := serve(public)
	upstreamPort, upstreamURL := serve(upstreams.Handler())
	stop := func() {
		proxyPort.Close()
		upstreamPort.Close()
		upstreams.Close(ctx)
		cancel()
		running.Wait()
	}
	return &exampleServer{upstreamURL, proxyURL, stop, table}
}

// A gRPC server with an endpoint. Its clients name the endpoint as the first
// label of the authority.
func Example_grpcServer() {
	piko := startPiko() // yours runs elsewhere
	defer piko.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	c := &client.Client{URL: piko.UpstreamURL, HTTP2: true}
	ln, err := c.Listen(ctx, "greeter")
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	go srv.Serve(ln)

	conn, err := grpc.NewClient(strings.TrimPrefix(piko.ProxyURL, "http://"),
		grpc.WithAuthority("greeter.example.com"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	piko.WaitFor("greeter")
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	fmt.Println(res.GetStatus(), err)

	ln.Shutdown(ctx) // lets calls end, and loses none
	srv.Stop()
	// Output: SERVING <nil>
}

// A gRPC client can also have a connection of its own to a TCP endpoint: Dial
// has the shape that the dialer of grpc wants.
func Example_grpcDialer() {
	c := &client.Client{URL: "https://piko.example.com"}
	conn, err := grpc.NewClient("passthrough:///my-endpoint",
		grpc.WithContextDialer(c.Dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
}

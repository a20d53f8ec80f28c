package client_test

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"piko/proxy"
	"piko/router"
	"piko/upstreamconn"
)

// pikoServer is a piko server in this process, for the examples: yours is at a
// URL that you know.
type pikoServer struct {
	UpstreamURL string // for Listen
	ProxyURL    string // for Dial, and for HTTP clients
	Stop        func()

	table *router.Table
}

// WaitFor waits until the endpoint is served: a server knows of a listener a
// moment after the listener knows of the server.
func (p *pikoServer) WaitFor(endpoint string) {
	for p.table.Lookup(endpoint) == nil {
		<-time.After(time.Millisecond)
	}
}

// startPiko starts a server on two ports of its own.
func startPiko() *pikoServer {
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
		srv = &http.Server{Handler: h}
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
	return &pikoServer{upstreamURL, proxyURL, stop, table}
}

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// BenchmarkGRPC makes unary calls of gRPC through a node and an agent, through
// two nodes and an agent, and through one httputil.ReverseProxy over h2c. As in
// BenchmarkPath, what is measured runs in a process of its own.
func BenchmarkGRPC(b *testing.B) {
	for _, system := range []string{"tunnel", "hop", "h2c"} {
		b.Run("unary/"+system, func(b *testing.B) {
			origin := newH2CServer(b, http.HandlerFunc(echoUnary))
			if system != "h2c" {
				origin = strings.Replace(origin, "http://", "h2c://", 1)
			}
			child := startPathChild(b, system, origin)
			grpcLoad(b, child)
		})
	}
}

// grpcLoad makes b.N calls, 16 at once on each of 4 connections.
func grpcLoad(b *testing.B, child *pathProcess) {
	message := append([]byte{0, 0, 0, 0, 100}, make([]byte, 100)...)
	work := make(chan struct{}, 1024)
	var workers sync.WaitGroup
	call := func(client *http.Client) error {
		req, err := http.NewRequest(http.MethodPost, child.url+"/bench.Service/Unary", bytes.NewReader(message))
		if err != nil {
			return err
		}
		req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "X-Piko-Endpoint": {"bench"}}
		req.ContentLength = -1 // as clients of gRPC send it
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err == nil && (!bytes.Equal(answer, message) || res.Trailer.Get("Grpc-Status") != "0") {
			err = fmt.Errorf("call failed: %s, %v, %v", res.Status, res.Header, res.Trailer)
		}
		return err
	}
	run := func(n int) {
		for range 4 {
			client := &http.Client{Transport: h2cTransport()}
			for range 16 {
				workers.Go(func() {
					for range work {
						if err := call(client); err != nil {
							b.Error(err)
						}
					}
				})
			}
			defer client.CloseIdleConnections()
		}
		for range n {
			work <- struct{}{}
		}
		close(work)
		workers.Wait()
		work = make(chan struct{}, 1024)
	}
	run(500) // connections, pools
	before := child.usage(b)
	b.ResetTimer()
	run(b.N)
	b.StopTimer()
	after := child.usage(b)
	b.ReportMetric(float64((after.CPU-before.CPU).Microseconds())/float64(b.N), "cpu-µs/req")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "child-allocs/req")
}

// echoUnary is a service of one message each way.
func echoUnary(w http.ResponseWriter, r *http.Request) {
	message, _ := io.ReadAll(r.Body)
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Trailer", "Grpc-Status")
	w.WriteHeader(http.StatusOK)
	w.Write(message)
	h.Set("Grpc-Status", "0")
}

// h2cTransport speaks HTTP/2 with prior knowledge.
func h2cTransport() *http.Transport {
	t := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// h2cServer speaks HTTP/1.1 and h2c.
func h2cServer(h http.Handler) *http.Server {
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}

func newH2CServer(b *testing.B, h http.Handler) (address string) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := h2cServer(h)
	go s.Serve(l)
	b.Cleanup(func() { s.Close() })
	return "http://" + l.Addr().String()
}

// serveH2C is serveLocal for HTTP/2 with prior knowledge.
func serveH2C(h http.Handler) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go h2cServer(h).Serve(l)
	return "http://" + l.Addr().String()
}

// h2cProxy is one hop of a well-set-up ReverseProxy, h2c on both sides.
func h2cProxy(to string) http.Handler {
	target, _ := url.Parse(to)
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			pr.SetXForwarded()
		},
		Transport:  h2cTransport(),
		BufferPool: &bufferPool{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}},
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"piko/client"
)

// Programs that use package client, with the nodes of a cluster between them.

// startSDK serves h on the endpoint at the node, by HTTP/1.1 and HTTP/2.
func startSDK(t *testing.T, n *testNode, endpoint string, h http.Handler) *client.Listener {
	t.Helper()
	ln, err := (&client.Client{URL: "http://" + n.UpstreamAddr().String(), HTTP2: true, Connections: 1}).Listen(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	var serving sync.WaitGroup
	serving.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() {
		srv.Close()
		serving.Wait()
		ln.Shutdown(context.WithoutCancel(t.Context()))
	})
	return ln
}

// sdkCall begins a gRPC call to the endpoint through the node.
func sdkCall(ctx context.Context, c *http.Client, n *testNode, endpoint string, messages io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.ProxyAddr().String()+"/pkg.Service/Method", messages)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Piko-Endpoint", endpoint)
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	return c.Do(req)
}

// echoCall answers a call message by message, and says in the trailers by which
// protocol it came.
func echoCall(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	rc := http.NewResponseController(w)
	rc.Flush()
	buf := make([]byte, 4096)
	for {
		n, err := r.Body.Read(buf)
		w.Write(buf[:n])
		rc.Flush()
		if err != nil {
			break
		}
	}
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	w.Header().Set(http.TrailerPrefix+"Grpc-Message", r.Proto)
}

func TestCallsToTheSDKOnEveryNode(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 2, nil)
	startSDK(t, nodes[0], "calls", http.HandlerFunc(echoCall))
	c := newHTTP2Client(t, nil)
	for _, n := range nodes {
		t.Run("through "+n.id, func(t *testing.T) {
			eventually(t, func() error { return pingPong(t.Context(), c, n, 1) })
			var calls sync.WaitGroup
			for range 8 {
				calls.Go(func() {
					if err := pingPong(t.Context(), c, n, 20); err != nil {
						t.Error(err)
					}
				})
			}
			calls.Wait()
		})
	}
}

// pingPong is a call that sends a message when the one before has come back.
func pingPong(ctx context.Context, c *http.Client, n *testNode, times int) error {
	messages, in := io.Pipe()
	defer in.Close()
	res, err := sdkCall(ctx, c, n, "calls", messages)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if status := res.Header.Get("Grpc-Status"); status != "" {
		return fmt.Errorf("refused with status %s: %s", status, res.Header.Get("Grpc-Message"))
	}
	got := make([]byte, 5)
	for range times {
		io.WriteString(in, "hello")
		if _, err := io.ReadFull(res.Body, got); err != nil {
			return fmt.Errorf("read what came back: %w", err)
		}
	}
	in.Close()
	if _, err := res.Body.Read(got); err != io.EOF || res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "HTTP/2.0" {
		return fmt.Errorf("ended with %v, trailers %v", err, res.Trailer)
	}
	return nil
}

func TestCancelledCallsEndAtTheSDK(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 2, nil)
	begun, ended := make(chan struct{}), make(chan struct{})
	startSDK(t, nodes[0], "calls", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	}))
	c := newHTTP2Client(t, nil)
	for _, n := range nodes {
		eventually(t, func() error {
			if n.table.Lookup("calls") == nil {
				return fmt.Errorf("%s does not know the endpoint", n.id)
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		messages, in := io.Pipe()
		var calling sync.WaitGroup
		calling.Go(func() {
			if res, err := sdkCall(ctx, c, n, "calls", messages); err == nil {
				res.Body.Close()
			}
		})
		<-begun
		cancel()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Errorf("through %s: the handler goes on", n.id)
			<-ended
		}
		in.Close()
		calling.Wait()
	}
}

func TestTheSDKDialsTheSDKOnEveryNode(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 2, nil)
	ln, err := (&client.Client{URL: "http://" + nodes[0].UpstreamAddr().String(), Protocol: "tcp"}).Listen(t.Context(), "bytes")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { serveBytes(ln, &serving) })
	t.Cleanup(func() {
		ln.Shutdown(context.WithoutCancel(t.Context()))
		serving.Wait()
	})
	for _, n := range nodes {
		t.Run("through "+n.id, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c := &client.Client{URL: "http://" + n.ProxyAddr().String()}
			for command, want := range map[string]string{"echo": "echo", "reset": ""} {
				conn, err := c.Dial(ctx, "bytes")
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(conn, command)
				if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Error(err)
				}
				got, err := io.ReadAll(conn)
				if string(got) != want || (err == nil) != (command == "echo") {
					t.Errorf("%s: read %q, %v", command, got, err)
				}
				conn.Close()
			}
		})
	}
}

// serveBytes sends back what comes on a connection, after its end; "reset" resets
// it.
func serveBytes(ln net.Listener, serving *sync.WaitGroup) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		serving.Go(func() {
			defer conn.Close()
			switch b, err := io.ReadAll(conn); {
			case err != nil:
			case string(b) == "reset":
				conn.(interface{ Reset() }).Reset()
			default:
				conn.Write(b)
			}
		})
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"
)

// messages makes a stream of bytes of a WebSocket's messages.
type messages struct {
	*websocket.Conn
	r io.Reader
}

func (m *messages) Read(p []byte) (int, error) {
	for {
		if m.r == nil {
			_, r, err := m.NextReader()
			if err != nil {
				return 0, err
			}
			m.r = r
		}
		if n, err := m.r.Read(p); n > 0 || err != io.EOF {
			return n, err
		}
		m.r = nil
	}
}

func (m *messages) Write(p []byte) (int, error) {
	return len(p), m.WriteMessage(websocket.BinaryMessage, p)
}

// startDeafUpstream opens a tunnel that accepts each stream and reads none: it acknowledges all on TCP's level, answers
// pings, and never opens a window.
func startDeafUpstream(t *testing.T, n *testNode, endpoint string) {
	t.Helper()
	ws, res, err := websocket.DefaultDialer.Dial("ws://"+n.UpstreamAddr().String()+"/piko/v1/upstream/"+endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	sess, err := yamux.Client(&messages{Conn: ws}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			if _, err := sess.AcceptStream(); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		sess.Close()
		accepting.Wait()
	})
}

// startDeafService takes connections and reads nothing of them.
func startDeafService(t *testing.T) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	var conns []net.Conn
	accepting.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		accepting.Wait()
		for _, c := range conns {
			c.Close()
		}
	})
	return ln.Addr().String()
}

// An upstream that takes a stream, and a service that takes a connection, and then never reads holds nobody for ever:
// uploads to it end with 504, others are served meanwhile, and what it costs is bounded.
func TestUpstreamThatNeverReads(t *testing.T) {
	const (
		uploads = 9        // for each
		size    = 24 << 20 // more than windows and sockets hold
		maxHeap = 256 << 20
	)
	n := startNode(t, func(cfg *serverConfig) { cfg.Proxy.SendTimeout = time.Second })
	startDeafUpstream(t, n, "deaf-agent")
	startAgent(t, n, "deaf-service", startDeafService(t))
	startAgent(t, n, "fine", testService(t).URL)
	h1, h2 := newClient(t), newHTTP2Client(t, nil)
	victim := newClient(t)
	url := "http://" + n.ProxyAddr().String() + "/"
	upload := func(c *http.Client, endpoint string, length int64, body io.Reader) error {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
		req.ContentLength = length
		req.Header.Set("x-piko-endpoint", endpoint)
		res, err := c.Do(req)
		if err != nil && c == h1 && !os.IsTimeout(err) {
			return nil // a client that is slow to look meets the end of the connection
		}
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if code := res.Header.Get("x-piko-error"); res.StatusCode != http.StatusGatewayTimeout || code != "upstream-timeout" {
			return fmt.Errorf("status %d, %s", res.StatusCode, code)
		}
		return nil
	}
	var sending sync.WaitGroup
	for i := range 2 * uploads {
		endpoint := [2]string{"deaf-agent", "deaf-service"}[i%2]
		c, length := h1, int64(size)
		switch i % 3 {
		case 1:
			length = -1
		case 2:
			c = h2
		}
		sending.Go(func() {
			if err := upload(c, endpoint, length, io.LimitReader(endless{}, size)); err != nil {
				t.Errorf("%s: upload %d: %v", endpoint, i, err)
			}
		})
	}
	over := make(chan struct{})
	go func() {
		sending.Wait()
		close(over)
	}()
	for served, last := 0, false; !last; served++ {
		select {
		case <-over:
			last = true
		default:
		}
		if status, _, _ := get(t, victim, url, "x-piko-endpoint", "fine"); status != http.StatusOK {
			t.Fatalf("another endpoint's client got %d after %d requests", status, served)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.HeapAlloc > maxHeap {
			t.Fatalf("heap of %d MB", m.HeapAlloc>>20)
		}
	}
	for _, endpoint := range []string{"deaf-agent", "deaf-service"} {
		if n.table.Lookup(endpoint) == nil {
			t.Errorf("%s has lost its tunnel", endpoint)
		}
	}
	eventually(t, func() error {
		if left := n.gate.inFlight.count(); left > 0 {
			return fmt.Errorf("%d requests are left", left)
		}
		return nil
	})
}

// endless is a body.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Uploads over HTTP/2 that nobody takes are held in windows of net/http's, 16 MiB for a connection. Of many connections the node
// holds no more than it may: other uploads end, and with them what they hold.
func TestHTTP2UploadsThatNobodyTakesAreBounded(t *testing.T) {
	const (
		conns, uploads = 4, 12 // 24 MiB
		most           = 24 << 20
	)
	n := startNode(t, func(cfg *serverConfig) {
		cfg.Proxy.Limits.BufferedBytes, cfg.Proxy.AccessLog.Disable = minBuffers, true
	})
	startDeafUpstream(t, n, "deaf")
	var sending sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer sending.Wait()
	defer cancel()
	var refused atomic.Int32
	before := heap()
	for range conns {
		c := newHTTP2Client(t, nil)
		for range uploads {
			sending.Go(func() {
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.ProxyAddr().String()+"/", endless{})
				req.Header.Set("x-piko-endpoint", "deaf")
				res, err := c.Do(req)
				if err == nil {
					res.Body.Close()
				}
				if ctx.Err() == nil && (err != nil || res.StatusCode == http.StatusServiceUnavailable) {
					refused.Add(1) // a client that is slow to look sees no more than the reset behind the answer
				}
			})
		}
	}
	eventually(t, func() error {
		if stay := conns*uploads - int(refused.Load()); stay > minBuffers/2/h2StreamWindow {
			return fmt.Errorf("%d uploads stay", stay)
		}
		return nil
	})
	eventually(t, func() error {
		if held := heap() - before; held > most {
			return fmt.Errorf("%d MB are held", held>>20)
		}
		return nil
	})
	if used := n.uploads.Used(); used != minBuffers/2 {
		t.Errorf("%d bytes are accounted for, want %d", used, minBuffers/2)
	}
}

// heap is how much is in use, without garbage.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

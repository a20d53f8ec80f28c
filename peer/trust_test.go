package peer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// trustListener is a port that lets connections in only to prove whose they are.
type trustListener struct {
	net.Listener
	trusted atomic.Int32
}

func (l *trustListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	return &trustedConn{nc, l}, err
}

type trustedConn struct {
	net.Conn
	l *trustListener
}

func (c *trustedConn) Trust() { c.l.trusted.Add(1) }

// The port is told once another node has proven itself, and not before: who
// only says that it is one stays a stranger.
func TestPortIsToldOfProvenNodes(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		a := g.start(t, "a", secure, nil)
		const epoch = "b-0197f0000000"
		b, err := New(Options{Epoch: epoch, Secure: secure, Lookup: g.lookup, Handler: http.NotFoundHandler()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- b.Run(ctx) }()
		web := httptest.NewUnstartedServer(b)
		ln := &trustListener{Listener: web.Listener}
		web.Listener = ln
		web.Start()
		t.Cleanup(func() {
			cancel()
			if err := <-ran; err != nil {
				t.Error(err)
			}
			web.Close()
		})
		node := Node{ID: "b", Epoch: epoch, Addr: ln.Addr().String(), Key: b.Key()}
		g.tell(node)

		proof := proofMAC
		if secure {
			proof = proofTLS
		}
		stranger := dialTCP(t, node.Addr)
		stranger.Write([]byte(rawHello(a.node, node, proof, nil)))
		if _, err := stranger.Read(make([]byte, 12)); err != nil { // 101, and now it should prove itself
			t.Fatal(err)
		}
		if n := ln.trusted.Load(); n != 0 {
			t.Errorf("%d connections are trusted before any proof", n)
		}
		up := new(levels)
		a.Connect(node, up.set)
		up.await(t, true)
		eventually(t, func() error {
			if ln.trusted.Load() == 0 {
				return errors.New("no connection of a proven node is trusted")
			}
			return nil
		})
	})
}

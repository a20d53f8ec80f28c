package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/tunnel"
)

var toMove = tunnel.DrainMessage{Reason: "test", ReconnectWithin: 50 * time.Millisecond}

func TestListenerMovesAndLosesNothing(t *testing.T) {
	t.Parallel()
	a, b := startNode(t, "a", ""), startNode(t, "b", "")
	lb := startBalancer(t, func() string { return a.addr })
	var sent atomic.Int64
	serve(t, &Client{URL: lb.url}, "endpoint", echo)
	a.waitFor(t, "endpoint", 1)

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				got, err := post("endpoint", "hello", a, b)
				if err != nil || got != "hello" {
					t.Errorf("request %d: %q, %v", sent.Load(), got, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	lb.set(b.addr)
	asked := time.Now()
	a.Drain(t.Context(), toMove)
	b.waitFor(t, "endpoint", 1)
	moved := time.Now()
	if a.upstreams("endpoint") == 0 {
		t.Error("the old tunnel was left before the new one was open")
	}
	a.waitFor(t, "endpoint", 0)
	if stayed := time.Since(moved); stayed < settleTime-200*time.Millisecond {
		t.Errorf("the old tunnel was left %v after the new one was open", stayed)
	}
	if took := moved.Sub(asked); took > time.Second {
		t.Errorf("the new tunnel was open after %v", took)
	}
	stop()
	clients.Wait()
	eventually(t, func() error {
		if left := a.Tunnels(); left != 0 {
			return fmt.Errorf("%d tunnels are left at the node that drains", left)
		}
		return nil
	})
}

// While no other node takes it, a listener stays where it is, and goes on
// trying.
func TestListenerThatFindsNoOtherNodeStays(t *testing.T) {
	t.Parallel()
	a := startNode(t, "a", "")
	lb := startBalancer(t, func() string { return a.addr })
	var st states
	ln := serve(t, &Client{URL: lb.url, OnState: st.add}, "endpoint", echo)
	a.waitFor(t, "endpoint", 1)
	a.Drain(t.Context(), toMove)
	eventually(t, func() error {
		if !st.has(func(s State) bool { return s.Connected && s.Err != nil && s.Retry > firstPause }) {
			return errors.New("no attempts were refused")
		}
		return nil
	})
	if got, err := post("endpoint", "hello", a); got != "hello" || err != nil || !ln.Connected() {
		t.Errorf("at the node that drains: %q, %v", got, err)
	}
	b := startNode(t, "b", "")
	lb.set(b.addr)
	b.waitFor(t, "endpoint", 1)
	a.waitFor(t, "endpoint", 0)
}

// A load balancer that leads to the node which is to be left is tried again.
func TestListenerThatMeetsTheSameNodeTriesAgain(t *testing.T) {
	t.Parallel()
	// The second one is the first to a listener: it has its name.
	a, same, b := startNode(t, "a", ""), startNode(t, "a", ""), startNode(t, "b", "")
	lb := startBalancer(t, func() string { return a.addr })
	var st states
	serve(t, &Client{URL: lb.url, OnState: st.add}, "endpoint", echo)
	a.waitFor(t, "endpoint", 1)
	lb.set(same.addr)
	a.Drain(t.Context(), toMove)
	eventually(t, func() error {
		if !st.has(func(s State) bool { return errors.Is(s.Err, errSameNode) }) {
			return errors.New("never met the same node")
		}
		return nil
	})
	if got, err := post("endpoint", "hello", a); got != "hello" || err != nil {
		t.Errorf("at the old node meanwhile: %q, %v", got, err)
	}
	lb.set(b.addr)
	b.waitFor(t, "endpoint", 1)
	a.waitFor(t, "endpoint", 0)
	same.waitFor(t, "endpoint", 0)
}

// If the node that asked is gone before another one was found, the listener is
// in an outage like any other.
func TestNodeThatStopsBeforeItsListenersMoved(t *testing.T) {
	t.Parallel()
	a := startNode(t, "a", "")
	lb := startBalancer(t, func() string { return a.addr })
	serve(t, &Client{URL: lb.url}, "endpoint", echo)
	a.waitFor(t, "endpoint", 1)
	a.Drain(t.Context(), tunnel.DrainMessage{ReconnectWithin: time.Minute})
	b := startNode(t, "b", "")
	lb.set(b.addr)
	a.stop()
	start := time.Now()
	b.waitFor(t, "endpoint", 1)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("back after %v", took)
	}
}

func TestShutdownDuringAMove(t *testing.T) {
	t.Parallel()
	a, b := startNode(t, "a", ""), startNode(t, "b", "")
	lb := startBalancer(t, func() string { return a.addr })
	ln := serve(t, &Client{URL: lb.url}, "endpoint", echo)
	a.waitFor(t, "endpoint", 1)
	lb.set(b.addr)
	a.Drain(t.Context(), toMove)
	b.waitFor(t, "endpoint", 1)
	if err := ln.Shutdown(t.Context()); err != nil { // the old tunnel is open still
		t.Error(err)
	}
	a.waitFor(t, "endpoint", 0)
	b.waitFor(t, "endpoint", 0)
}

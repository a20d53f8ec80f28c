//go:build e2e

package e2e

import (
	"context"
	"net"
	"testing"
	"time"
)

// TestWire holds that the network which the tests of partitions use carries, cuts and delays.
func TestWire(t *testing.T) {
	t.Parallel()
	w := newWire(t, 3)
	var l net.Listener
	if err := inSpace(w.hosts[1].space, func() (err error) { l, err = net.Listen("tcp", ":7000"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func(host int, limit time.Duration) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		began := time.Now()
		c, err := w.hosts[host].dial(ctx, "tcp", w.hosts[1].at(7000))
		if err == nil {
			c.Close()
		}
		return time.Since(began), err
	}
	for host := range w.hosts {
		if _, err := dial(host, 2*time.Second); err != nil {
			t.Errorf("dial from host %d: %v", host, err)
		}
	}
	w.set(0, 1, link{delay: 60 * time.Millisecond})
	w.set(1, 0, link{delay: 60 * time.Millisecond})
	if took, err := dial(0, 2*time.Second); err != nil || took < 120*time.Millisecond {
		t.Errorf("dial with a delay of 60 ms each way took %v, %v", took, err)
	}
	w.set(1, 2, link{cut: true})
	if _, err := dial(2, 500*time.Millisecond); err == nil {
		t.Error("dialled although nothing comes back")
	}
	w.set(1, 2, link{loss: 0.3})
	if _, err := dial(2, 5*time.Second); err != nil {
		t.Errorf("dial with loss: %v", err)
	}
}

package agent

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestTCPConnectionsMayEndDuringTheGracePeriod(t *testing.T) {
	a := startAgent(t, tcpService(t, echo), tcp)
	c := a.dialTCP()
	io.WriteString(c, "x")
	c.Read(make([]byte, 1))
	a.stop()
	eventually(t, func() error {
		if !a.draining.Load() {
			return errNotYet
		}
		return nil
	})
	io.WriteString(c, "more")
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "more" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := <-a.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if strings.Contains(a.log.String(), "requests cut") {
		t.Error(a.log.String())
	}
}

func TestTCPConnectionsThatOutliveTheGracePeriodAreCutAndCounted(t *testing.T) {
	a := startAgent(t, tcpService(t, echo), tcp, func(o *agentOptions) { o.grace = time.Millisecond })
	var conns []*net.TCPConn
	for range 3 {
		c := a.dialTCP()
		io.WriteString(c, "x")
		c.Read(make([]byte, 1))
		conns = append(conns, c)
	}
	a.stop()
	if err := <-a.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	for _, c := range conns {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %v, want a reset", err)
		}
	}
	if n := testutil.ToFloat64(a.metrics.cut); n != 3 {
		t.Errorf("metric counts %v cut connections, want 3", n)
	}
	if n := a.active.Load(); n != 0 {
		t.Errorf("Run returned with %d connections active", n)
	}
}

package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMetrics(t *testing.T) {
	var down atomic.Bool
	up := service(t, func(c *net.TCPConn) {
		if _, err := io.CopyN(io.Discard, c, 3); err != nil {
			return
		}
		io.WriteString(c, "hello")
	})
	reg := prometheus.NewPedanticRegistry()
	f := start(t, dialFunc(func(ctx context.Context, endpoint string) (net.Conn, error) {
		if down.Load() {
			return nil, errors.New("refused")
		}
		return up(ctx, endpoint)
	}), func(c *Config) { c.Registerer = reg })
	c := f.dial()
	io.WriteString(c, "abc")
	c.CloseWrite()
	io.ReadAll(c)
	down.Store(true)
	if c, err := net.Dial("tcp", f.Addrs()[0][0].String()); err == nil {
		c.Read(make([]byte, 1))
		c.Close()
	}
	const want = `# HELP piko_forward_connection_bytes_total Bytes of connections that have ended: in from the local program, out to it.
# TYPE piko_forward_connection_bytes_total counter
piko_forward_connection_bytes_total{direction="in",endpoint="ENDPOINT"} 3
piko_forward_connection_bytes_total{direction="out",endpoint="ENDPOINT"} 5
# HELP piko_forward_connections_open Connections that are being forwarded, those included that wait for the endpoint.
# TYPE piko_forward_connections_open gauge
piko_forward_connections_open{endpoint="ENDPOINT"} 0
# HELP piko_forward_connections_total Connections that have ended: closed in order, reset by either side or cut, or failed because the endpoint was not reached.
# TYPE piko_forward_connections_total counter
piko_forward_connections_total{endpoint="ENDPOINT",result="closed"} 1
piko_forward_connections_total{endpoint="ENDPOINT",result="failed"} 1
piko_forward_connections_total{endpoint="ENDPOINT",result="reset"} 0
`
	eventually(t, func() error {
		return testutil.GatherAndCompare(reg, strings.NewReader(strings.ReplaceAll(want, "ENDPOINT", f.ports[0].endpoint)),
			"piko_forward_connection_bytes_total", "piko_forward_connections_open", "piko_forward_connections_total")
	})
}

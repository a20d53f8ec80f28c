package proxy

import (
	"net"
	"net/http"

	"piko/fault"
	"piko/relay"
)

// Raw streams to an upstream of another node are an upgrade of their own; X-Piko-Route names the endpoint.
const (
	pathStream     = reserved + "/v1/stream"
	protocolStream = "piko-stream"
)

// stream connects the entry node with a stream of an upstream's own.
func (x *exchange) stream() {
	if protocol, _ := relay.UpgradeType(x.r.Header); protocol != protocolStream || x.r.Method != http.MethodGet {
		x.failHop(errNoStream, false)
		return
	}
	target := x.pick()
	if !target.OK() {
		x.failHop(fault.NoUpstream, false)
		return
	}
	x.target = target
	target.Begin()
	defer target.End()
	conn, err := target.Upstream(x.endpoint).Open(x.r.Context())
	if err != nil {
		if x.targetsFault(err) {
			x.blame(target)
		}
		x.failHop(err, x.r.Context().Err() != nil)
		return
	}
	target.Succeeded()
	x.status = http.StatusSwitchingProtocols
	x.switchProtocols(&http.Response{
		Status: "101 Switching Protocols", StatusCode: x.status,
		Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {protocolStream}},
		Body:   streamBody{conn},
	})
}

// streamBody is a stream as what an upgrade leads to.
type streamBody struct{ net.Conn }

// CloseWrite passes the end of one direction on.
func (s streamBody) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return s.Close()
}

// Abort ends the stream as a failure, where it knows such.
func (s streamBody) Abort() {
	if r, ok := s.Conn.(interface{ Reset() }); ok {
		r.Reset()
		return
	}
	_ = s.Close()
}

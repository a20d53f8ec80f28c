package proxy

import (
	"net"
	"net/http"
	"net/netip"

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
	x.readAttempts()
	client, err := netip.ParseAddrPort(x.r.Header.Get(headerClient))
	if err != nil {
		client = netip.AddrPort{}
	}
	conn, err := x.open(client)
	if err != nil {
		x.failHop(err, x.r.Context().Err() != nil)
		return
	}
	defer x.target.End()
	x.status = http.StatusSwitchingProtocols
	x.switchProtocols(&http.Response{
		Status: "101 Switching Protocols", StatusCode: x.status,
		Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {protocolStream}},
		Body:   streamBody{conn},
	})
	x.judgeStream(!isClientError(x.err) && x.r.Context().Err() == nil)
}

// streamBody is a stream as what an upgrade leads to.
type streamBody struct{ net.Conn }

// NetConn is the stream, for who asks what the system knows of it.
func (s streamBody) NetConn() net.Conn { return s.Conn }

// CloseWrite passes the end of one direction on.
func (s streamBody) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return s.Close()
}

// Done is closed when the stream is of no more use, where it can tell.
func (s streamBody) Done() <-chan struct{} { return doneOf(s.Conn) }

// Abort ends the stream as a failure, where it knows such.
func (s streamBody) Abort() { resetStream(s.Conn) }

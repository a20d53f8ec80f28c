package peer

import (
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// Authority is what nodes with certificates of an authority of their own show
// each other, and whom they trust: a member that has the cluster's secret and no
// certificate gets nowhere. It comes on top of the keys that gossip knows: a
// certificate alone, of a node that is no member, is worth as little.
type Authority struct {
	// Server is for connections that other nodes make. It has to require
	// certificates of clients, and to have AuthorityProtocol for ALPN.
	Server *tls.Config
	// Client is asked for each connection to another node. It is cloned. Without
	// a ServerName the host of the node's address is what the certificate has to
	// be for.
	Client func() *tls.Config
}

// AuthorityProtocol keeps handshakes for something else from being between nodes.
const AuthorityProtocol = "piko-peer/2"

// bindingLabel is for a value that both ends of a TLS connection know and nobody
// between: RFC 8446, section 7.5.
const bindingLabel = "EXPORTER-piko-peer-tls-2"

// bound is the exchange that proves the keys inside a TLS connection.
func bound(conn *tls.Conn, caller, callee Node) (*exchange, error) {
	cs := conn.ConnectionState()
	if cs.NegotiatedProtocol != AuthorityProtocol || cs.Version < tls.VersionTLS13 || len(cs.VerifiedChains) == 0 {
		return nil, errProof
	}
	binding, err := cs.ExportKeyingMaterial(bindingLabel, nil, nonceSize)
	if err != nil {
		return nil, fmt.Errorf("bind proof: %w", err)
	}
	return &exchange{purpose: caPurpose, caller: caller, callee: callee, callerNonce: [nonceSize]byte(binding)}, nil
}

// proveToCA is the caller's side of tls-2.
func (p *Peers) proveToCA(nc net.Conn, n *Node) (net.Conn, error) {
	config := p.opt.Authority.Client().Clone()
	config.NextProtos = []string{AuthorityProtocol}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(n.Addr)
	}
	conn := tls.Client(nc, config)
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	x, err := bound(conn, p.self(), *n)
	if err != nil {
		return nil, err
	}
	return conn, x.proveCaller(conn, conn)
}

// proveCA is the callee's side of tls-2, after its 101.
func (p *Peers) proveCA(nc net.Conn, caller Node) (net.Conn, error) {
	conn := tls.Server(nc, p.opt.Authority.Server)
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	x, err := bound(conn, caller, p.self())
	if err != nil {
		return nil, err
	}
	if err := x.proveCallee(conn); err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

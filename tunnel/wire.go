package tunnel

import "strconv"

// UpstreamPath is where a node takes tunnels; the endpoint follows it.
const UpstreamPath = "/piko/v1/upstream/"

// Headers of the handshake. What v0.9.0 does not know is prefixed x-piko- too,
// and only peers that sent x-piko-features act on it.
const (
	HeaderAuthorization = "x-piko-authorization" // wins over Authorization, which a load balancer may want for itself
	HeaderTenantID      = "x-piko-tenant-id"
	HeaderFeatures      = "x-piko-features"     // what an upstream offers; in the 101, the subset that the node accepts
	HeaderInstance      = "x-piko-instance"     // random, new for each process of an upstream
	HeaderProtocol      = "x-piko-protocol"     // http or tcp: what the service behind the upstream speaks
	HeaderNodeID        = "x-piko-node-id"      // in the 101
	HeaderClusterSize   = "x-piko-cluster-size" // in the 101: nodes that are not draining
)

// Names in x-piko-features.
const (
	FeatureControl = "control" // the upstream opens a control stream
	FeatureMeta    = "meta"    // every stream of the node's begins with what is known of its client
	FeatureH2      = "h2"      // the upstream serves HTTP/2 with prior knowledge on its streams, beside HTTP/1.1
	FeatureToken   = "token"   // the upstream may send a fresh token on the control stream
)

// Close codes of RFC 6455, section 7.4.1, that we send.
const (
	closeNormal        = 1000
	closeGoingAway     = 1001
	closeProtocolError = 1002
	closeUnsupported   = 1003
	closeInvalidData   = 1007
	closePolicy        = 1008
	closeTooBig        = 1009
	closeInternal      = 1011
)

// A ProtocolError says what the peer sent that the protocol forbids. The
// session ends with it.
type ProtocolError struct {
	// Reason is one line, without the peer's bytes, fit for a log.
	Reason string
	// CloseCode is the WebSocket close code that the peer is told; 0 counts as
	// 1002, protocol error.
	CloseCode uint16
}

// Error is the reason.
func (e *ProtocolError) Error() string { return "protocol error: " + e.Reason }

// closeCode is the code for the close frame.
func (e *ProtocolError) closeCode() uint16 {
	if e.CloseCode == 0 {
		return closeProtocolError
	}
	return e.CloseCode
}

// quoteShort shows a stranger's text in an error, quoted and cut.
func quoteShort(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return strconv.Quote(s)
}

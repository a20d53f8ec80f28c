package peer

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// Path is where a node's proxy port takes peers.
const Path = "/_piko/v1/peer"

const (
	upgradeToken = "piko-peer"

	headerCaller  = "X-Piko-Peer-Caller"
	headerCallee  = "X-Piko-Peer-Callee"
	headerProof   = "X-Piko-Peer-Proof"
	headerNonce   = "X-Piko-Peer-Nonce"
	headerRefused = "X-Piko-Peer-Refused"

	proofTLS = "tls-1"
	proofCA  = "tls-2"
	proofMAC = "mac-1"

	maxEpoch = 128 // bytes
)

// Why a callee refuses, in X-Piko-Peer-Refused.
const (
	refusedUnknown = "unknown-caller" // gossip has not told us of it, or no longer
	refusedNode    = "wrong-node"     // the callee is another process now
	refusedProof   = "proof"          // one has a secret or an authority and the other has not
)

// hello is what a caller says of itself and wants.
type hello struct {
	caller, callee string
	proof          string
	nonce          [nonceSize]byte // of mac-1
}

// readHello reports whether r is what a peer sends.
func readHello(r *http.Request) (h hello, ok bool) {
	if r.Method != http.MethodGet || r.URL.Path != Path || r.ProtoMajor != 1 || r.ProtoMinor < 1 ||
		r.ContentLength != 0 || len(r.TransferEncoding) > 0 ||
		!hasToken(r.Header["Connection"], "upgrade") || !hasToken(r.Header["Upgrade"], upgradeToken) {
		return hello{}, false
	}
	for name, value := range map[string]*string{headerCaller: &h.caller, headerCallee: &h.callee, headerProof: &h.proof} {
		if *value, ok = one(r.Header, name); !ok {
			return hello{}, false
		}
	}
	if h.proof != proofMAC {
		return h, true
	}
	text, ok := one(r.Header, headerNonce)
	nonce, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(nonce) != nonceSize {
		return hello{}, false
	}
	copy(h.nonce[:], nonce)
	return h, true
}

// one is the value of a header that must be there once, short and printable.
func one(h http.Header, name string) (string, bool) {
	values := h[name]
	if len(values) != 1 || !validEpoch(values[0]) {
		return "", false
	}
	return values[0], true
}

// validEpoch reports whether s is short and printable and has no space.
func validEpoch(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= maxEpoch
}

func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(t, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// appendHello appends the request that h is.
func appendHello(b []byte, h *hello, host string) []byte {
	line := func(name, value string) {
		b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
	}
	b = append(b, "GET "+Path+" HTTP/1.1\r\n"...)
	line("Host", host)
	line("Connection", "Upgrade")
	line("Upgrade", upgradeToken)
	line(headerCaller, h.caller)
	line(headerCallee, h.callee)
	line(headerProof, h.proof)
	if h.proof == proofMAC {
		line(headerNonce, base64.StdEncoding.EncodeToString(h.nonce[:]))
	}
	return append(b, "\r\n"...)
}

// switching is the callee's 101.
const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + upgradeToken + "\r\n\r\n"

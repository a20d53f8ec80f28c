package tunnel

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"piko/fault"
)

// handshakeTimeout bounds the writing of the 101.
const handshakeTimeout = 10 * time.Second

// HeaderNodes names the nodes that an upstream does not want this tunnel at,
// since it has and keeps one at each of them: a list of ids. Such a node refuses
// with fault.DuplicateTunnel and says in HeaderNodeID who it is. Otherwise a load
// balancer's choice shows only when the node has made the tunnel known.
const HeaderNodes = "x-piko-nodes"

// HeaderWeight is "0" if the upstream's service is not healthy when the tunnel is
// opened: what it would say by Session.Weight a moment after requests might have
// come. Nodes that do not know of it are told that way, too.
const HeaderWeight = "x-piko-weight"

// Bounds on what an upstream may say of itself, which ends up in logs.
const (
	maxFeatures    = 16
	maxNodes       = 16
	maxHelloValue  = 64
	handshakeKey   = 16 // bytes, RFC 6455, section 4.1
	handshakeMagic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

// Hello is what an upstream said of itself in its handshake. A v0.9.0 upstream
// says nothing.
type Hello struct {
	Features []string // in lower case; names that we do not know are among them
	Instance string   // "" if absent or not printable
	Protocol string   // "http", "tcp" or ""
	Nodes    []string // that the upstream has tunnels at; at most 16
	// Unhealthy: the upstream wants traffic only if nobody else does.
	Unhealthy bool
	Version   string // of its piko; "" if it did not say
}

// Reply is what the node answers in the 101. Zero values are left out.
type Reply struct {
	Features    []string // of those in Hello, what the node accepts
	NodeID      string
	ClusterSize int // nodes that are not draining
}

// ReadHello reads a handshake's extensions. What is not well formed counts as
// absent, since nothing depends on it but comfort.
func ReadHello(r *http.Request) Hello {
	h := Hello{Features: readFeatures(r.Header), Nodes: readNodes(r.Header), Version: readVersion(r.UserAgent())}
	if v := r.Header.Get(HeaderInstance); isToken(v) {
		h.Instance = v
	}
	h.Unhealthy = r.Header.Get(HeaderWeight) == "0"
	if v := strings.ToLower(r.Header.Get(HeaderProtocol)); v == "http" || v == "tcp" {
		h.Protocol = v
	}
	return h
}

// readFeatures lists the features named in h, each once.
func readFeatures(h http.Header) []string {
	var features []string
	for name := range headerTokens(h, HeaderFeatures) {
		name = strings.ToLower(name)
		if isToken(name) && len(features) < maxFeatures && !slices.Contains(features, name) {
			features = append(features, name)
		}
	}
	return features
}

// readNodes lists the nodes named in h. A list that is not well formed, or too
// long, names none: then a tunnel too many is opened and let go of again.
func readNodes(h http.Header) []string {
	var nodes []string
	for id := range headerTokens(h, HeaderNodes) {
		switch {
		case id == "": // RFC 9110, section 5.6.1.2
		case !isToken(id) || len(nodes) == maxNodes:
			return nil
		default:
			nodes = append(nodes, id)
		}
	}
	return nodes
}

// nodeList is the value of HeaderNodes for as many of the nodes as it may name.
func nodeList(nodes []string) string {
	var named []string
	for _, id := range nodes {
		if isToken(id) && !strings.Contains(id, ",") && len(named) < maxNodes {
			named = append(named, id)
		}
	}
	return strings.Join(named, ", ")
}

// headerTokens ranges over the elements of a header that is a list.
func headerTokens(h http.Header, name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range h.Values(name) {
			for token := range strings.SplitSeq(line, ",") {
				if !yield(strings.Trim(token, " \t")) {
					return
				}
			}
		}
	}
}

// hasToken reports whether the list in header name has token, in any case.
func hasToken(h http.Header, name, token string) bool {
	for t := range headerTokens(h, name) {
		if strings.EqualFold(t, token) {
			return true
		}
	}
	return false
}

// isToken reports whether s is short, printable and has no space.
func isToken(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= maxHelloValue
}

// CheckHandshake reports what is wrong with a WebSocket handshake: nil, or a
// *fault.Error that RefuseHandshake answers with: 405 for another method, 403
// for a page of another site, 400 for all else.
func CheckHandshake(r *http.Request) error {
	switch {
	case r.Method != http.MethodGet:
		return fault.New(fault.MethodNotAllowed, nil)
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return badHandshake("HTTP/1.1 is needed")
	case !hasToken(r.Header, "Connection", "upgrade"):
		return badHandshake("the Connection header lacks \"upgrade\"")
	case !hasToken(r.Header, "Upgrade", "websocket"):
		return badHandshake("the Upgrade header lacks \"websocket\"")
	case !slices.Equal(r.Header.Values("Sec-WebSocket-Version"), []string{"13"}):
		return badHandshake("version 13 is needed")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return badHandshake("a body is not allowed")
	}
	keys := r.Header.Values("Sec-WebSocket-Key")
	if len(keys) != 1 {
		return badHandshake("one Sec-WebSocket-Key is needed")
	}
	if key, err := base64.StdEncoding.DecodeString(keys[0]); err != nil || len(key) != handshakeKey {
		return badHandshake("the Sec-WebSocket-Key is not 16 bytes in base64")
	}
	return checkOrigin(r)
}

// badHandshake is a 400 that says why.
func badHandshake(detail string) error {
	return &fault.Error{Code: fault.MalformedRequest, Detail: "websocket handshake: " + detail}
}

// checkOrigin keeps web pages from opening tunnels with the help of a browser
// that can reach us: only browsers send Origin, and they do not lie about it.
func checkOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
		return nil
	}
	return &fault.Error{Code: fault.Forbidden, Detail: "websocket handshake: the origin is another site"}
}

// RefuseHandshake answers a request that CheckHandshake refused.
func RefuseHandshake(w http.ResponseWriter, r *http.Request, err error) (status int) {
	if errors.Is(err, fault.MethodNotAllowed) {
		w.Header().Set("Allow", http.MethodGet)
	} else {
		w.Header().Set("Sec-WebSocket-Version", "13")
	}
	return fault.Write(w, r, err)
}

// acceptHandshake takes the connection over from net/http and answers the
// handshake. If it fails, the request was answered or the connection is closed.
func acceptHandshake(w http.ResponseWriter, r *http.Request, reply Reply) (*carrier, error) {
	if err := CheckHandshake(r); err != nil {
		RefuseHandshake(w, r, err)
		return nil, err
	}
	// The controller, because w may be wrapped.
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		err = fault.New(fault.Internal, fmt.Errorf("take connection over: %w", err))
		fault.Write(w, r, err)
		return nil, err
	}
	// Copied by newCarrier, so that the reader's memory is let go.
	buffered, _ := rw.Reader.Peek(rw.Reader.Buffered())
	if err := answerHandshake(nc, r, reply); err != nil {
		nc.Close()
		return nil, fmt.Errorf("answer websocket handshake: %w", err)
	}
	tuneSocket(nc)
	return newCarrier(nc, buffered, false), nil
}

// answerHandshake writes the 101.
func answerHandshake(nc net.Conn, r *http.Request, reply Reply) error {
	b := make([]byte, 0, 512)
	line := func(name, value string) {
		if strings.ContainsAny(value, "\r\n") {
			return
		}
		b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
	}
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\n"...)
	line("Upgrade", "websocket")
	line("Connection", "Upgrade")
	line("Sec-WebSocket-Accept", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
	if len(reply.Features) > 0 {
		line(HeaderFeatures, strings.Join(reply.Features, ", "))
	}
	if reply.NodeID != "" {
		line(HeaderNodeID, reply.NodeID)
	}
	if reply.ClusterSize > 0 {
		line(HeaderClusterSize, strconv.Itoa(reply.ClusterSize))
	}
	b = append(b, "\r\n"...)
	// net/http may have left a deadline of its own.
	if err := nc.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	if _, err := nc.Write(b); err != nil {
		return err
	}
	return nc.SetDeadline(time.Time{})
}

// acceptKey is what proves that the handshake was understood.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + handshakeMagic))
	return base64.StdEncoding.EncodeToString(sum[:])
}

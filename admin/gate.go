package admin

import (
	"net/http"
	"net/netip"
	"strings"

	"piko/admin/page"
	"piko/fault"
)

// What everybody may ask, with or without a token, besides the files of the web
// page, which asks for one: load balancers and Kubernetes have none.
var openPaths = map[string]bool{"/health": true, "/ready": true}

// gate is in front of all routes. It keeps out whoever has no token, if the
// port asks for tokens, and requests that a page in somebody's browser makes.
type gate struct {
	// Static after construction.
	auth   func(*http.Request) (header string, err error) // nil: open
	next   http.Handler
	nodeID string
	origin *http.CrossOriginProtection
}

func newGate(s *Server, next http.Handler) *gate {
	return &gate{auth: s.Auth, next: next, nodeID: s.NodeID, origin: http.NewCrossOriginProtection()}
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if (openPaths[r.URL.Path] || page.Wanted(r)) && !r.URL.Query().Has(forwardParam) && isSafe(r.Method) {
		g.next.ServeHTTP(w, r)
		return
	}
	if _, ok := r.Header[headerForwardTo]; ok {
		w.Header().Set(headerNode, g.nodeID) // a refusal is an answer of the node, too
	}
	if err := g.origin.Check(r); err != nil { // unsafe methods only
		fault.Write(w, r, &fault.Error{Code: fault.Forbidden, Detail: "not for pages of other sites", Err: err})
		return
	}
	if g.auth == nil {
		g.serveOpen(w, r)
		return
	}
	header, err := g.auth(r)
	if err != nil {
		fault.Write(w, r, err)
		return
	}
	g.next.ServeHTTP(w, r.WithContext(withCredential(r.Context(), header)))
}

// serveOpen is for a port that asks for no token.
func (g *gate) serveOpen(w http.ResponseWriter, r *http.Request) {
	if isRebound(r) {
		fault.Write(w, r, &fault.Error{Code: fault.Forbidden, Detail: "not by this name: ask by localhost, an address or a host name without a dot, or have the port ask for tokens (--admin.auth)"})
		return
	}
	if !isSafe(r.Method) && !fromLoopback(r) {
		fault.Write(w, r, errNotLocal)
		return
	}
	g.next.ServeHTTP(w, r)
}

func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// isRebound reports whether a request may be that of a page in a browser on
// this machine whose own name was made to lead to 127.0.0.1 (DNS rebinding): to
// the browser the answers are then the page's own. Nobody can have a name
// without a dot, and with TLS the browser would have seen that the certificate
// is not for that name. Headers tell nothing: such a page can set them.
func isRebound(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if r.TLS != nil || err != nil || !peer.Addr().Unmap().IsLoopback() {
		return false
	}
	host := hostName(r.Host)
	_, err = netip.ParseAddr(host)
	return err != nil && strings.Contains(host, ".") && !isLoopbackHost(host)
}

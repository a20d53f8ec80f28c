package admin

import (
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"

	"piko/fault"
)

// pprofPrefix is where the profiles are.
const pprofPrefix = "/debug/pprof/"

// addPprof adds the routes of net/http/pprof, which answer to this machine
// alone unless the port asks for tokens: a heap profile may show secrets, and a
// trace costs the node time.
// "cmdline" is left out, since flags hold secrets too.
func (s *Server) addPprof(mux *http.ServeMux) {
	route := func(path string, h http.HandlerFunc, allowed ...string) {
		if s.Auth == nil {
			h = loopbackOnly(h)
		}
		mux.Handle(pprofPrefix+path, methods(h, allowed...))
	}
	route("{$}", pprof.Index, http.MethodGet, http.MethodHead)
	route("profile", pprof.Profile, http.MethodGet)
	route("trace", pprof.Trace, http.MethodGet)
	route("symbol", pprof.Symbol, http.MethodGet, http.MethodPost)
	for _, name := range []string{"allocs", "block", "goroutine", "heap", "mutex", "threadcreate"} {
		route(name, pprof.Handler(name).ServeHTTP, http.MethodGet)
	}
}

var errNotLocal = &fault.Error{Code: fault.Forbidden, Detail: "only for requests from this machine: ask over a loopback address"}

func loopbackOnly(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !fromLoopback(r) {
			fault.Write(w, r, errNotLocal)
			return
		}
		h(w, r)
	}
}

// fromLoopback reports whether a program on this machine asks for itself. A
// proxy on this machine asks for others, which it says in a header; and a page
// in a browser on this machine can point its own name at 127.0.0.1, but then
// that name is the host that it asks for.
func fromLoopback(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return false
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if _, ok := r.Header[name]; ok {
			return false
		}
	}
	return isLoopbackHost(r.Host)
}

// hostName is a host in lower case, without port, brackets and the last dot.
func hostName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.Trim(strings.TrimSuffix(strings.ToLower(host), "."), "[]")
}

func isLoopbackHost(host string) bool {
	host = hostName(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

package upstreamconn

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"piko/auth"
	"piko/fault"
	"piko/tunnel"
)

// admit decides about a handshake, the cheap questions first: is it one, who
// sends it, may that one listen, does this node take the tunnel, and is there
// room for it. The upstream that it returns holds a place, which forget or
// giveUp gives back.
func (s *Server) admit(r *http.Request, hello tunnel.Hello) (*upstream, error) {
	endpoint, err := checkForm(r)
	if err != nil {
		return nil, err
	}
	bearer, err := s.authorize(r, endpoint)
	if err != nil {
		return nil, err
	}
	if s.refuses() {
		return nil, fault.New(fault.Draining, nil)
	}
	if slices.Contains(hello.Nodes, s.NodeID) {
		return nil, fault.New(fault.DuplicateTunnel, nil)
	}
	tenant := ""
	if s.Isolated {
		tenant = bearer.Tenant
	}
	// The name is a part of the request line, which should not be kept for
	// the life of a tunnel.
	name := strings.Clone(tunnel.JoinName(tenant, endpoint))
	if err := s.places.take(name, bearer.Grant.ID()); err != nil {
		return nil, err
	}
	u := newUpstream(s, instance{name, hello.Instance})
	u.tenant, u.grant = strings.Clone(bearer.Tenant), bearer.Grant
	if hello.Unhealthy { // not a request may come before its first message
		u.local.SetWeight(0)
	}
	return u, nil
}

// checkForm returns the endpoint of a request that is a handshake.
func checkForm(r *http.Request) (string, error) {
	endpoint, err := tunnel.ParseEndpoint(r.PathValue("endpoint"))
	if err != nil {
		return "", err
	}
	return endpoint, tunnel.CheckHandshake(r)
}

// authorize returns who wants to listen on the endpoint, if it may.
func (s *Server) authorize(r *http.Request, endpoint string) (auth.Bearer, error) {
	client := sourceOf(r)
	bearer, err := s.Auth.Check(r, client, "")
	if err != nil {
		return bearer, err
	}
	if !bearer.Grant.MayListen(endpoint) {
		err := fault.New(fault.EndpointNotPermitted, nil)
		s.Auth.Refuse(client, bearer, err)
		return bearer, err
	}
	return bearer, nil
}

// sourceOf is the address that a request comes from; the zero Addr if it is none.
func sourceOf(r *http.Request) netip.Addr {
	addr, _ := netip.ParseAddrPort(r.RemoteAddr)
	return addr.Addr()
}

// refuse answers a request that will be no tunnel, and says so in the log. What
// an upstream that is well meets as its nodes come and go, it goes on trying
// until it is led elsewhere: that is worth no line.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	err = s.slow(w, r, err)
	s.metrics.refused.WithLabelValues(string(fault.From(err).Code)).Inc()
	duplicate := errors.Is(err, fault.DuplicateTunnel)
	if duplicate {
		w.Header().Set(tunnel.HeaderNodeID, s.NodeID)
	}
	tunnel.RefuseHandshake(w, r, err)
	if duplicate || errors.Is(err, fault.Draining) || errors.Is(err, fault.RateLimited) {
		s.log.Debug("upstream refused", "path", short(r.URL.Path), "remote", r.RemoteAddr, "reason", err.Error())
		return
	}
	if ok, dropped := s.refusals.allow(time.Now()); ok {
		s.log.Info("upstream refused", "path", short(r.URL.Path), "remote", r.RemoteAddr, "reason", err.Error(), "unlogged", dropped)
	}
}

// slow counts requests that are no handshakes for the source that they come
// from. One that sends many is told to wait, has to connect again for the next,
// and gets no more lines in the log. What is a handshake is for the Guard: behind
// a load balancer the source is everybody.
func (s *Server) slow(w http.ResponseWriter, r *http.Request, err error) error {
	switch fault.From(err).Code {
	case fault.MalformedRequest, fault.MissingEndpoint, fault.InvalidEndpoint, fault.Forbidden, fault.NotFound, fault.MethodNotAllowed:
	default:
		return err
	}
	source := sourceOf(r)
	if s.sources.Over(source) {
		w.Header().Set("Connection", "close")
		return fault.New(fault.RateLimited, err)
	}
	s.sources.Failed(source)
	return err
}

// short keeps a stranger's text from filling the log.
func short(s string) string { return s[:min(len(s), 300)] }

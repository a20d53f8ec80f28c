package upstreamconn

// A tunnel whose token would be refused by now, since its key or its tenant was taken away, ends as one does whose token
// has expired.

// revoked is why such tunnels end.
const revoked = "token is accepted no more"

// endRevoked looks at all tunnels if keys or rules have changed since generation, and returns the generation of now.
func (s *Server) endRevoked(generation uint64) uint64 {
	now := s.Auth.Generation()
	if now == generation {
		return now
	}
	for _, u := range s.registry.all() {
		u.checkGrant()
	}
	return now
}

// checkGrant ends the tunnel if its token is accepted no more. It is called behind whatever sets its grant, too, for the
// keys may have changed since that was verified.
func (u *upstream) checkGrant() {
	u.mu.Lock()
	grant := u.grant
	u.mu.Unlock()
	if !u.server.Auth.Holds(u.tenant, grant) {
		u.expire(revoked)
	}
}

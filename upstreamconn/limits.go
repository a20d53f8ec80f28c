package upstreamconn

import (
	"sync"
	"time"

	"piko/fault"
)

// Limits bound the tunnels of a node; 0 is no limit. A tunnel counts until its
// connection has ended, and one that was lost until that is noticed: leave room
// for those that are just being replaced.
type Limits struct {
	Tunnels            int // in all
	TunnelsPerEndpoint int // of one tenant
	TunnelsPerToken    int // that have been opened with the same token, or were given it
}

// fullRetry is when who finds no place should come back: another node may have
// one, and here one is free when somebody has left.
const fullRetry = 5 * time.Second

// SetLimits replaces Limits and MaxRequests. No tunnel ends for it and no
// request: those that are there count for the new limits too.
func (s *Server) SetLimits(l Limits, maxRequests int) {
	s.init()
	s.places.limit(l)
	s.registry.limit(maxRequests)
}

// places counts the tunnels, and those that are about to be some.
type places struct {
	// Guarded by mu.
	mu        sync.Mutex
	limits    Limits
	all       int
	endpoints map[string]int // by name in the table
	tokens    map[string]int // by the Grant's ID
}

// limit says how many places there are.
func (p *places) limit(l Limits) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits = l
}

// take takes a place, or says that there is none.
func (p *places) take(name, token string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch l := p.limits; {
	case l.Tunnels > 0 && p.all >= l.Tunnels:
		return full("this node has as many tunnels as it may have")
	case l.TunnelsPerEndpoint > 0 && p.endpoints[name] >= l.TunnelsPerEndpoint:
		return full("the endpoint has as many tunnels at this node as it may have")
	case l.TunnelsPerToken > 0 && token != "" && p.tokens[token] >= l.TunnelsPerToken:
		return full("the token has as many tunnels at this node as it may have")
	}
	p.all++
	count(&p.endpoints, name, 1)
	count(&p.tokens, token, 1)
	return nil
}

// give gives a place back.
func (p *places) give(name, token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	count(&p.endpoints, name, -1)
	count(&p.tokens, token, -1)
}

// swap counts a place for another token.
func (p *places) swap(was, now string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	count(&p.tokens, was, -1)
	count(&p.tokens, now, 1)
}

// count adds to what is counted for a key; there are none that count 0.
func count(m *map[string]int, key string, add int) {
	if key == "" {
		return
	}
	if *m == nil {
		*m = make(map[string]int)
	}
	if n := (*m)[key] + add; n > 0 {
		(*m)[key] = n
	} else {
		delete(*m, key)
	}
}

func full(detail string) error {
	return &fault.Error{Code: fault.Overloaded, Detail: "overloaded: " + detail, RetryAfter: fullRetry}
}

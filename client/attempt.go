package client

import (
	"errors"
	"slices"
	"time"

	"piko/fault"
	"piko/tunnel"
)

// The manager's attempts to open tunnels: when they begin, and what becomes of
// what they bring.

// maxDials bounds the attempts that are under way at once.
const maxDials = 4

// errSameNode says that the load balancer led us to a node where we are
// already.
var errSameNode = errors.New("connected to a node that has a tunnel of this listener already")

// dialled is the end of an attempt.
type dialled struct {
	url   int
	named []string // nodes that it was not to lead to
	began time.Time
	lk    *link
	err   error
}

// open begins the attempts that are due, and says when to look again.
func (m *manager) open(p plan, now time.Time) time.Duration {
	const never = 1<<63 - 1
	n, allowed := p.short-m.underWay(), m.allURLs
	if p.short == 0 && len(m.flying) == 0 && len(p.bare) > 0 {
		n, allowed = 1, p.bare
	}
	n = min(n, maxDials-len(m.flying))
	if n <= 0 {
		return never
	}
	if wait := m.nextDial.Sub(now); wait > 0 {
		return wait
	}
	for range n {
		u := pickURL(m.urls, allowed, now)
		if u < 0 {
			first := slices.MinFunc(allowed, func(a, b int) int { return m.urls[a].notBefore.Compare(m.urls[b].notBefore) })
			return m.urls[first].notBefore.Sub(now)
		}
		m.dial(u, now)
	}
	return never
}

// underWay is how many attempts may bring what is short. One that began before
// the last tunnel was lost does not count then: it may hang at the same node.
func (m *manager) underWay() int {
	n := 0
	for _, began := range m.flying {
		if len(m.held) > 0 || !began.Before(m.emptied) {
			n++
		}
	}
	return n
}

// dial begins an attempt.
func (m *manager) dial(u int, now time.Time) {
	m.flying = append(m.flying, now)
	m.urls[u].tunnels++
	m.urls[u].tried = now
	m.lastDial = now
	named := excluded(m.l.connections, len(m.urls), m.holdings(now), u)
	m.l.keepers.Go(func() {
		lk, err := m.l.dial(m.l.keeping, u, named)
		m.results <- dialled{u, named, now, lk, err}
	})
}

// landed takes an attempt off the list.
func (m *manager) landed(d dialled) {
	i := slices.Index(m.flying, d.began)
	m.flying = slices.Delete(m.flying, i, i+1)
	m.urls[d.url].tunnels--
}

// finish decides what becomes of an attempt's result. An error is the listener's
// end.
func (m *manager) finish(d dialled, now time.Time) error {
	if m.l.keeping.Err() != nil {
		return nil
	}
	u := &m.urls[d.url]
	if u.failed = d.err != nil; u.failed {
		if m.ledBack(d, now) {
			return nil
		}
		return m.failed(u, d.err, now)
	}
	u.refusal = false
	m.l.mu.Lock()
	c := d.lk.holding(now)
	m.l.mu.Unlock()
	held := m.holdings(now)
	switch v, at := judge(m.l.connections, len(m.urls), held, c); v {
	case keep:
		m.keep(d.lk, now)
	case duplicate:
		u.failed = true
		m.l.letGo(d.lk, 0) // before anything comes by it
		m.duplicate(m.held[at], d.url, now)
	case needless:
		m.l.log.Debug("tunnel is not needed any more", "node", d.lk.sess.Peer().NodeID)
		m.l.letGo(d.lk, 0)
		m.nextDial = now.Add(m.search.next()) // should the others' nodes say that one is short
	}
	return nil
}

// keep makes lk one of the tunnels.
func (m *manager) keep(lk *link, now time.Time) {
	if m.up && len(m.held) == 0 {
		m.l.client.Metrics.reconnected()
	}
	m.held = append(m.held, lk)
	m.urls[lk.urls[0]].tunnels++
	m.search, m.failures = search{}, 0
	m.nextDial = now.Add(m.outage.spread()) // if there is to be one more
	m.l.mu.Lock()
	lk.seen = lk.nodes
	m.l.mu.Unlock()
	m.l.keep(lk, true)
	m.l.opened(lk, m.plan(now))
	if !m.up {
		m.up = true
		m.l.first <- nil
	}
}

// ledBack says whether the attempt was refused by a node that it was not to
// lead to, and does what follows from that.
func (m *manager) ledBack(d dialled, now time.Time) bool {
	refused, ok := errors.AsType[*fault.Refused](d.err)
	if !ok || refused.Code != fault.DuplicateTunnel {
		return false
	}
	node := refused.Header.Get(tunnel.HeaderNodeID)
	if !slices.Contains(d.named, node) {
		return false // nonsense, or whoever stands between has removed the name
	}
	i := slices.IndexFunc(m.held, func(lk *link) bool { return lk.sess.Peer().NodeID == node })
	if i >= 0 {
		m.duplicate(m.held[i], d.url, now)
	}
	// Else the tunnel that was in the way has ended meanwhile: the next attempt
	// is when it was planned then, and does not name the node.
	return true
}

// duplicate takes up that the URL led to where the tunnel held leads already.
func (m *manager) duplicate(held *link, url int, now time.Time) {
	if !slices.Contains(held.urls, url) {
		held.urls = append(slices.Clone(held.urls), url)
	}
	held.sess.Probe() // or the node has been started anew, and its old self is gone
	delay := m.search.next()
	m.nextDial = now.Add(delay)
	m.l.ledBack(held.sess.Peer().NodeID, m.search.attempts, delay)
}

// failed takes up that an attempt by u failed.
func (m *manager) failed(u *urlState, err error, now time.Time) error {
	m.l.note(err)
	u.refusal = final(err, m.l.client.TokenMayChange)
	if !m.up && !slices.ContainsFunc(m.urls, func(u urlState) bool { return !u.refusal }) {
		m.l.report("", err, 0)
		return err
	}
	delay := m.outage.next(now, err)
	m.nextDial = now.Add(delay - min(retryAfter(err), maxRetryAfter))
	u.notBefore = now.Add(delay)
	m.failures++
	m.l.failed(m.failures, err, delay)
	return nil
}

package listen

import (
	"net"
	"net/netip"
	"slices"
	"time"
)

// Reasons of refusals, as in metrics and log.
const (
	refusedDenied   = "denied"       // by the address lists
	refusedFull     = "full"         // MaxConnections
	refusedSource   = "source"       // MaxPerSource
	refusedNoHeader = "no-header"    // of the PROXY protocol, where one is required
	refusedProxy    = "proxy-header" // it cannot be read
	refusedPlain    = "plain"        // no TLS where it is required
	refusedLooking  = "handshakes"   // too many were under way
	refusedClosing  = "closing"      // the port is being closed
	madeRoom        = "idle"         // not refused: it was closed for the sake of others, when something was short
)

// refusals are all of them, for a metric with all its series from the start.
var refusals = []string{refusedDenied, refusedFull, refusedSource, refusedNoHeader, refusedProxy, refusedPlain, refusedLooking, refusedClosing, madeRoom}

// lists are the address lists. They are not changed.
type lists struct{ allow, deny []netip.Prefix }

// SetLists replaces Allow and Deny. Connections of clients that may not connect
// any more are closed, whatever is under way on them.
func (l *Listener) SetLists(allow, deny []netip.Prefix) {
	now := lists{slices.Clone(allow), slices.Clone(deny)}
	var unwanted []*Conn
	l.mu.Lock()
	l.lists = now
	for c := l.conns; c != nil; c = c.next {
		if c.isKnown && !c.isPeer && !c.isRestricted && !now.admit(c.addr) {
			unwanted = append(unwanted, c)
		}
	}
	l.mu.Unlock()
	for _, c := range unwanted {
		l.refused(c.remote, refusedDenied)
		c.Close()
	}
}

// admit says whether a client may connect; deny wins. A client without an IP
// address is in no network.
func (p lists) admit(addr netip.Addr) bool {
	return !contains(p.deny, addr) && (len(p.allow) == 0 || contains(p.allow, addr))
}

// contains wants an address without zone, and IPv4 as such. A prefix of IPv4
// that is written as IPv6 (::ffff:10.0.0.0/104) means the same as the other.
func contains(list []netip.Prefix, addr netip.Addr) bool {
	for _, p := range list {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// source is what one source has open.
type source struct{ counted, restricted int }

// sourceOf is the address that stands for all that one client has: of IPv6 the
// /64, which is what a client gets.
func sourceOf(addr netip.Addr) netip.Addr {
	if addr.Is6() {
		return netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return addr
}

// enter counts a connection that was just accepted, or says why it is refused.
func (l *Listener) enter(c *Conn) (reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return refusedClosing
	}
	switch c.isKnown = !c.viaProxy; {
	case c.isKnown && !l.lists.admit(c.addr):
		reason = refusedDenied
	case l.opt.MaxConnections > 0 && l.counted >= l.opt.MaxConnections:
		reason = refusedFull
	case c.isKnown && !l.countSource(c):
		reason = refusedSource
	default:
		c.counted = true
		l.counted++
	}
	if reason != "" {
		if !l.countRestricted(c, reason) {
			return reason
		}
	}
	l.insert(c)
	return ""
}

// introduce gives a connection the address of the client that a proxy speaks
// for; an invalid one if it speaks for itself, as in a health check.
func (l *Listener) introduce(c *Conn, client netip.AddrPort) bool {
	reason := l.know(c, client)
	if reason != "" {
		// Another node does not come by way of a load balancer.
		l.refused(c.remote, reason)
	}
	return reason == ""
}

// know is enter for the address behind a proxy.
func (l *Listener) know(c *Conn, client netip.AddrPort) (reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if client.IsValid() {
		c.remote = net.TCPAddrFromAddrPort(client)
		c.addr = client.Addr().Unmap().WithZone("")
	}
	c.isKnown = true
	switch {
	case !l.lists.admit(c.addr):
		return refusedDenied
	case client.IsValid() && c.entered && !c.isRestricted && !l.countSource(c):
		return refusedSource
	}
	return ""
}

// countSource needs mu. It counts the connection for its source unless that has
// too many.
func (l *Listener) countSource(c *Conn) bool {
	if l.opt.MaxPerSource <= 0 || !c.addr.IsValid() || c.addr.IsLoopback() || contains(l.opt.Exempt, c.addr) {
		return true
	}
	key := sourceOf(c.addr)
	s := l.sources[key]
	if s.counted >= l.opt.MaxPerSource {
		return false
	}
	s.counted++
	l.sources[key] = s
	c.countedAs = key
	return true
}

// countRestricted needs mu. It makes a refused connection one that may still
// prove to be another node's, if there are not too many.
func (l *Listener) countRestricted(c *Conn, reason string) bool {
	key := sourceOf(c.addr)
	s := l.sources[key]
	if !l.opt.Peers || l.restricted >= maxRestricted || s.restricted >= maxRestrictedFrom {
		return false
	}
	s.restricted++
	l.sources[key] = s
	l.restricted++
	c.countedAs, c.isRestricted, c.reason = key, true, reason
	c.limited.Store(true)
	c.end = time.AfterFunc(restrictedTime, func() {
		if c.Restricted() {
			c.Close()
		}
	})
	return true
}

// restrict is for a connection that has entered already.
func (l *Listener) restrict(c *Conn, reason string) bool {
	l.mu.Lock()
	if c.entered && !c.isRestricted {
		l.uncount(c)
		if l.countRestricted(c, reason) {
			reason = ""
		}
	}
	l.mu.Unlock()
	if reason != "" {
		l.refused(c.remote, reason)
	}
	return reason == ""
}

// exempt counts a connection for nothing any more.
func (l *Listener) exempt(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uncount(c)
	c.isPeer = true
	c.limited.Store(false)
}

// uncount needs mu.
func (l *Listener) uncount(c *Conn) {
	if c.end != nil {
		c.end.Stop()
	}
	if c.counted {
		c.counted = false
		l.counted--
	}
	if !c.countedAs.IsValid() && !c.isRestricted {
		return
	}
	s := l.sources[c.countedAs]
	if c.isRestricted {
		l.restricted--
		s.restricted--
	} else {
		s.counted--
	}
	if s == (source{}) {
		delete(l.sources, c.countedAs)
	} else {
		l.sources[c.countedAs] = s
	}
	c.countedAs, c.isRestricted = netip.Addr{}, false
}

// insert needs mu.
func (l *Listener) insert(c *Conn) {
	c.entered = true
	l.open++
	if c.next = l.conns; c.next != nil {
		c.next.prev = c
	}
	l.conns = c
}

// leave forgets a connection that was closed. Only now is it known whether one
// that was restricted was refused.
func (l *Listener) leave(c *Conn) {
	if refused := l.remove(c); refused != nil {
		l.refused(refused, c.reason)
	}
}

// remove returns the client's address if the connection was still restricted.
func (l *Listener) remove(c *Conn) (refused net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.entered {
		return nil
	}
	c.entered = false
	if c.isRestricted {
		refused = c.remote
	}
	l.uncount(c)
	l.open--
	if c.next != nil {
		c.next.prev = c.prev
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.conns = c.next
	}
	c.next, c.prev = nil, nil
	return refused
}

// await notes that a connection is looked at, and may be closed meanwhile: by
// Close, or to make room for those that came after it.
func (l *Listener) await(c *Conn) bool {
	l.mu.Lock()
	if l.isClosed {
		l.mu.Unlock()
		return false
	}
	c.looking = l.looking.PushBack(c)
	var oldest *Conn
	if l.looking.Len() > maxLooking {
		oldest = l.looking.Remove(l.looking.Front()).(*Conn)
		oldest.looking = nil
	}
	l.mu.Unlock()
	if oldest != nil {
		l.refused(oldest.Conn.RemoteAddr(), refusedLooking)
		oldest.Close()
	}
	return true
}

// seen undoes await.
func (l *Listener) seen(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.looking != nil {
		l.looking.Remove(c.looking)
		c.looking = nil
	}
}

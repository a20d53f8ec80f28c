package listen

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestAddressLists(t *testing.T) {
	for _, tt := range []struct {
		name        string
		allow, deny []string
		in, out     []string
	}{
		{"no lists", nil, nil, []string{"192.0.2.1", "2001:db8::1"}, nil},
		{"allow", []string{"10.0.0.0/8", "2001:db8::/32"}, nil, []string{"10.1.2.3", "2001:db8::1"}, []string{"11.0.0.1", "2001:db9::1", "127.0.0.1"}},
		{"deny", nil, []string{"10.0.0.0/8"}, []string{"11.0.0.1", "2001:db8::1"}, []string{"10.0.0.1"}},
		{"deny wins", []string{"10.0.0.0/8"}, []string{"10.1.0.0/16"}, []string{"10.2.0.1"}, []string{"10.1.0.1", "11.0.0.1"}},
		{"all of IPv4", []string{"0.0.0.0/0"}, nil, []string{"10.2.0.1", "::ffff:10.2.0.1"}, []string{"2001:db8::1"}},
		{"all of IPv6 does not mean IPv4", []string{"::/0"}, nil, []string{"2001:db8::1"}, []string{"10.2.0.1", "::ffff:10.2.0.1"}},
		{"client written as IPv6", nil, []string{"10.0.0.0/8"}, nil, []string{"::ffff:10.0.0.1"}},
		{"list written as IPv6", nil, []string{"::ffff:10.0.0.0/104"}, []string{"11.0.0.1"}, []string{"10.0.0.1", "::ffff:10.0.0.1"}},
		{"zone", nil, []string{"fe80::/10"}, nil, []string{"fe80::1%eth0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := lists{prefixes(tt.allow...), prefixes(tt.deny...)}
			for want, list := range map[bool][]string{true: tt.in, false: tt.out} {
				for _, s := range list {
					addr := ipOf(net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(s), 1)))
					if l.admit(addr) != want {
						t.Errorf("%s is admitted: %v, want %v", s, !want, want)
					}
				}
			}
		})
	}
	if (lists{allow: prefixes("0.0.0.0/0", "::/0")}).admit(netip.Addr{}) {
		t.Error("a client without an address is in every network")
	}
}

func TestDeniedConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{Deny: prefixes("198.51.100.0/24")})
		denied := p.mem.dial("198.51.100.1")
		if took := ended(t, denied); took != 0 {
			t.Errorf("a denied connection ends after %v", took)
		}
		p.mem.dial("192.0.2.1")
		p.next(t)
		if got := p.refusedAs(t, "denied"); got != 1 {
			t.Errorf("%d refused, want 1", got)
		}
	})
}

// Lists that are replaced hold for connections that are there, too, but not for
// those of other nodes.
func TestNewListsEndConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{Peers: true})
		client, node, other := p.mem.dial("198.51.100.1"), p.mem.dial("198.51.100.2"), p.mem.dial("192.0.2.1")
		p.next(t)
		under(p.next(t)).Trust()
		p.next(t)
		p.SetLists(nil, prefixes("198.51.100.0/24"))
		if took := ended(t, client); took != 0 {
			t.Errorf("a connection that is denied now ends after %v", took)
		}
		for _, nc := range []net.Conn{node, other} {
			goesOn(t, nc)
		}
		p.SetLists(prefixes("198.51.100.0/24"), nil)
		p.mem.dial("198.51.100.1")
		p.next(t)
	})
}

// goesOn fails if the connection ends within a minute.
func goesOn(t *testing.T, nc net.Conn) {
	t.Helper()
	nc.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := nc.Read(make([]byte, 1)); err == nil || !isTimeout(err) {
		t.Errorf("the connection has ended: %v", err)
	}
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

// On a port that other nodes use, who is refused gets a second to prove that it
// is one.
func TestRefusedConnectionsMayProveThatTheyAreNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{Deny: prefixes("198.51.100.0/24"), Peers: true, MaxConnections: 1})
		p.mem.dial("192.0.2.1")
		p.next(t)
		node, stranger := p.mem.dial("198.51.100.1"), p.mem.dial("198.51.100.2")
		c := under(p.next(t))
		if !c.Restricted() || !under(p.next(t)).Restricted() {
			t.Fatal("denied connections are not restricted")
		}
		c.Trust()
		if c.Restricted() {
			t.Error("a proven node is still restricted")
		}
		if took := ended(t, stranger); took != restrictedTime {
			t.Errorf("a stranger's connection ends after %v", took)
		}
		goesOn(t, node)
		if n := p.refusedAs(t, "denied"); n != 1 {
			t.Errorf("%d were refused, want the one that did not prove itself", n)
		}
		full := p.mem.dial("192.0.2.2") // node counts no more, but there was one before
		if !under(p.next(t)).Restricted() {
			t.Error("a connection too many is not restricted")
		}
		ended(t, full)
	})
}

func TestFewConnectionsMayProveThemselvesAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{Deny: prefixes("198.51.0.0/16"), Peers: true})
		for source := range 6 {
			for range 40 {
				p.mem.dial(fmt.Sprintf("198.51.100.%d", source))
			}
			synctest.Wait()
			if got, want := len(p.accepted), min((source+1)*maxRestrictedFrom, maxRestricted); got != want {
				t.Fatalf("%d connections of %d sources are let in to prove themselves, want %d", got, source+1, want)
			}
		}
		time.Sleep(restrictedTime)
		synctest.Wait()
		if n := p.Open(); n != 0 {
			t.Errorf("%d connections are open after %v", n, restrictedTime)
		}
		p.mem.dial("198.51.100.1")
		synctest.Wait()
		if got := len(p.accepted); got != maxRestricted+1 {
			t.Error("there is no place again")
		}
	})
}

func TestConnectionsPerSource(t *testing.T) {
	for _, tt := range []struct {
		name string
		from []string // MaxPerSource is 2
		want int      // of them are let in
	}{
		{"one address", []string{"192.0.2.1", "192.0.2.1", "192.0.2.1"}, 2},
		{"neighbours", []string{"192.0.2.1", "192.0.2.1", "192.0.2.2"}, 3},
		{"one address, written as IPv6", []string{"192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.1"}, 2},
		{"one /64", []string{"2001:db8::1", "2001:db8::2", "2001:db8::ffff:0:0:1"}, 2},
		{"two /64", []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"}, 3},
		{"loopback", []string{"127.0.0.1", "127.0.0.1", "127.0.0.1", "::1", "::1", "::1"}, 6},
		{"trusted proxy", []string{"10.0.0.1", "10.0.0.1", "10.0.0.1"}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := open(t, Options{MaxPerSource: 2, Exempt: prefixes("10.0.0.0/8")})
				for _, from := range tt.from {
					p.mem.dial(from)
				}
				synctest.Wait()
				if got := len(p.accepted); got != tt.want {
					t.Errorf("%d are let in, want %d", got, tt.want)
				}
				if got := p.refusedAs(t, "source"); got != len(tt.from)-tt.want {
					t.Errorf("%d are refused", got)
				}
				for len(p.accepted) > 0 {
					p.next(t).Close()
				}
				if n := len(p.sources); n != 0 {
					t.Errorf("%d sources are remembered that have nothing open", n)
				}
				p.mem.dial(tt.from[0])
				p.next(t)
			})
		})
	}
}

func TestNodesDoNotCountForLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{MaxPerSource: 1, MaxConnections: 1, Peers: true})
		for range 3 {
			p.mem.dial("192.0.2.1")
			c := under(p.next(t))
			if c.Restricted() {
				t.Fatal("the connections of another node count")
			}
			c.Trust()
			c.Trust()
		}
	})
}

// A port that is full takes the place of who has been idle longest.
func TestFullPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{MaxConnections: 2})
		busy, idle := p.mem.dial("192.0.2.1"), p.mem.dial("192.0.2.2")
		SetState(p.next(t), http.StateActive)
		SetState(p.next(t), http.StateIdle)
		if took := ended(t, p.mem.dial("192.0.2.3")); took != 0 {
			t.Errorf("one too many ends after %v", took)
		}
		time.Sleep(quietTime)
		p.mem.dial("192.0.2.4")
		p.next(t)
		if took := ended(t, idle); took != 0 {
			t.Errorf("the idle connection ends after %v", took)
		}
		goesOn(t, busy)
		if got := p.refusedAs(t, "full"); got != 1 {
			t.Errorf("%d refused, want 1", got)
		}
	})
}

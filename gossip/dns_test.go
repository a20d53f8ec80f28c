package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeDNS has what it is told, and nothing else.
type fakeDNS struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr
	srv   map[string][]*net.SRV
	hang  bool
}

func (d *fakeDNS) set(name string, ips ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.addrs == nil {
		d.addrs = make(map[string][]netip.Addr)
	}
	d.addrs[name] = nil
	for _, ip := range ips {
		d.addrs[name] = append(d.addrs[name], netip.MustParseAddr(ip))
	}
}

func (d *fakeDNS) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hang {
		d.mu.Unlock()
		<-ctx.Done()
		d.mu.Lock()
		return nil, ctx.Err()
	}
	if ips := d.addrs[host]; len(ips) > 0 {
		return ips, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (d *fakeDNS) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if service+proto == "" && d.srv[name] != nil {
		return name, d.srv[name], nil
	}
	return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func named(dns *fakeDNS, names ...string) func(*Options) {
	return func(o *Options) { o.resolver, o.Join = dns, names }
}

func TestJoinByName(t *testing.T) {
	tests := []struct {
		name string
		join []string
		dns  func(*fakeDNS)
	}{
		{"addresses of a name, its own among them", []string{"piko"}, func(d *fakeDNS) { d.set("piko", "10.0.0.1", "10.0.0.2") }},
		{"a port", []string{"piko:8003"}, func(d *fakeDNS) { d.set("piko", "10.0.0.1") }},
		{"an IPv4 address in IPv6", []string{"piko"}, func(d *fakeDNS) { d.set("piko", "::ffff:10.0.0.1") }},
		{"a service", []string{"_gossip._tcp.piko"}, func(d *fakeDNS) {
			d.set("n1.piko", "10.0.0.1")
			d.srv = map[string][]*net.SRV{"_gossip._tcp.piko": {{Target: "n1.piko", Port: 8003}, {Target: "n9.piko", Port: 1}}}
		}},
		{"names that are not there, and one that is", []string{"nope", "piko", "_x._tcp.nope"}, func(d *fakeDNS) { d.set("piko", "10.0.0.1") }},
		{"an address of a dead node too", []string{"piko"}, func(d *fakeDNS) { d.set("piko", "10.0.0.9", "10.0.0.1") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net, dns := newNetwork(), new(fakeDNS)
				tt.dns(dns)
				a := net.start(t, "a", 1)
				synctest.Wait()
				b := net.newNode(t, "b", 2, named(dns, tt.join...))
				b.run()
				within(t, time.Second, "ready", func() error { return isReady(b) })
				if err := b.sees("b:active", "a:active"); err != nil {
					t.Error(err)
				}
				stop(a, b)
			})
		})
	}
}

func isReady(n *testNode) error {
	if isClosed(n.done) {
		return fmt.Errorf("ended: %w", n.err)
	}
	if !isClosed(n.Ready()) {
		return errors.New("not ready")
	}
	return nil
}

// TestFirstNode starts with a name that has no address but this node's.
func TestFirstNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, dns := newNetwork(), new(fakeDNS)
		dns.set("piko", "10.0.0.1")
		a := net.newNode(t, "a", 1, named(dns, "piko"))
		a.run()
		within(t, time.Second, "the first node is ready", func() error { return isReady(a) })
		stop(a)
	})
}

// TestStartTogether starts nodes of which DNS tells each only its own address for
// a while.
func TestStartTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		var nodes []*testNode
		var names []*fakeDNS
		for i := range 3 {
			dns := new(fakeDNS)
			dns.set("piko", fmt.Sprint("10.0.0.", i+1))
			n := net.newNode(t, fmt.Sprint("n", i+1), i+1, named(dns, "piko"))
			n.run()
			nodes, names = append(nodes, n), append(names, dns)
		}
		time.Sleep(3 * time.Second)
		for _, dns := range names {
			dns.set("piko", "10.0.0.1", "10.0.0.2", "10.0.0.3")
		}
		within(t, 10*time.Second, "they find each other", func() error {
			return errors.Join(nodes[0].sees("n1:active", "n2:active", "n3:active"), nodes[2].sees("n3:active", "n1:active", "n2:active"))
		})
		stop(nodes...)
	})
}

// TestNameAppearsLater waits for a name, not ready, and joins when it is there.
func TestNameAppearsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, dns := newNetwork(), new(fakeDNS)
		a := net.start(t, "a", 1)
		b := net.newNode(t, "b", 2, named(dns, "piko"))
		b.run()
		time.Sleep(20 * time.Second)
		if isReady(b) == nil {
			t.Error("ready before it has joined")
		}
		dns.set("piko", "10.0.0.1")
		within(t, 10*time.Second, "ready", func() error { return isReady(b) })
		if err := b.sees("b:active", "a:active"); err != nil {
			t.Error(err)
		}
		stop(a, b)
	})
}

// TestJoinFails covers names without address, an address where nobody is, one that
// does not answer, and a name server that does not.
func TestJoinFails(t *testing.T) {
	for _, abort := range []bool{true, false} {
		for _, name := range []string{"nxdomain", "refused", "silent", "dns-hangs"} {
			t.Run(fmt.Sprint(name, "-abort-", abort), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					testJoinFails(t, name, abort)
				})
			})
		}
	}
}

func testJoinFails(t *testing.T, name string, abort bool) {
	net, dns := newNetwork(), &fakeDNS{hang: name == "dns-hangs"}
	switch name {
	case "refused":
		dns.set("piko", "10.0.0.7")
	case "silent":
		dns.set("piko", "10.0.0.8")
		net.cut[[2]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.8")}] = true
	}
	n := net.newNode(t, "a", 1, named(dns, "piko"), func(o *Options) { o.JoinTimeout, o.AbortIfJoinFails = 30*time.Second, abort })
	start := time.Now()
	n.run()
	if abort {
		<-n.done
		if !errors.Is(n.err, errJoin) {
			t.Errorf("ended with %v", n.err)
		}
	} else {
		<-n.Ready()
	}
	if took := time.Since(start); took < 25*time.Second || took > 45*time.Second {
		t.Errorf("gave up after %v", took)
	}
	stop(n)
}

func TestResolve(t *testing.T) {
	dns := new(fakeDNS)
	dns.set("six", "2001:db8::5", "fe80::1%eth0")
	c := &Cluster{opt: Options{resolver: dns}, transport: newNetwork().listen(netip.MustParseAddrPort("[2001:db8::1]:8003"))}
	tests := []struct {
		join string
		want []string
	}{
		{"10.0.0.1", []string{"10.0.0.1:8003"}},
		{"10.0.0.1:9", []string{"10.0.0.1:9"}},
		{"2001:db8::7", []string{"[2001:db8::7]:8003"}},
		{"[2001:db8::7]:9", []string{"[2001:db8::7]:9"}},
		{"[2001:db8::7]", []string{"[2001:db8::7]:8003"}},
		{"2001:db8::1", nil},
		{"six:7", []string{"[2001:db8::5]:7", "[fe80::1]:7"}},
		{"10.0.0.1:x", nil},
	}
	for _, tt := range tests {
		c.opt.Join = []string{tt.join}
		addrs, _ := c.resolve(t.Context())
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.join, got, tt.want)
		}
	}
}

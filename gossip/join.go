package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	minJoinPause   = 250 * time.Millisecond
	maxJoinPause   = 5 * time.Second
	rejoinInterval = 30 * time.Second
	lostInterval   = 5 * time.Second // while a node is missing
	lostFor        = time.Hour
	resolveTimeout = 5 * time.Second
	joinsAtOnce    = 4
	maxJoinAddrs   = 256 // of all names together
)

// errJoin is in every error that says that the cluster could not be joined.
var errJoin = errors.New("join cluster")

var errAlone = errors.New("who answered knows no other node")

// maxAlone is how often such an answer is not believed.
const maxAlone = 3

// resolver is the part of net.Resolver that finds nodes.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// join joins the cluster and then, for ever, nodes that turn up later: memberlist
// forgets those that were gone for 30 s, so that no partition would heal.
func (c *Cluster) join(ctx context.Context, list *memberlist.Memberlist) error {
	if err := c.joinFirst(ctx, list); err != nil {
		if c.opt.AbortIfJoinFails || ctx.Err() != nil {
			return err
		}
		c.log.Error("no node could be joined, serving alone and trying on", "error", err)
	}
	c.mu.Lock()
	c.joined = time.Now()
	c.refresh(c.joined)
	c.mu.Unlock()
	time.AfterFunc(readyTimeout, func() { kick(c.wake) })
	for pause := minRejoin; sleep(ctx, pause); {
		lost := c.lostAddrs(time.Now())
		c.rejoin(ctx, list, lost)
		pause = min(2*pause, rejoinInterval)
		if len(lost) > 0 {
			pause = min(pause, lostInterval)
		}
	}
	return nil
}

// lostAddrs are the addresses of nodes that fell silent, which may come back there
// and be in no list of addresses to join.
func (c *Cluster) lostAddrs(now time.Time) []netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		addr, err := netip.ParseAddrPort(n.gossipAddr)
		if err == nil && !n.alive && !n.leaving && !n.verdict.replaced && len(c.lost) < maxJoinAddrs {
			c.lost[addr] = now
		} else if err == nil && n.alive {
			delete(c.lost, addr)
		}
	}
	addrs := make([]netip.AddrPort, 0, len(c.lost))
	for addr, at := range c.lost {
		if now.Sub(at) > lostFor {
			delete(c.lost, addr)
			continue
		}
		addrs = append(addrs, addr)
	}
	return addrs
}

// minRejoin is the first pause of the rejoin loop: nodes that start together may
// each see no other in DNS at first.
const minRejoin = time.Second

// joinFirst tries until one node has been joined, or it is clear that this is the
// first one.
func (c *Cluster) joinFirst(ctx context.Context, list *memberlist.Memberlist) error {
	if len(c.opt.Join) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.opt.JoinTimeout)
	defer cancel()
	// What answers may be this node itself at an address that it does not know of,
	// or a node that has just opened its port and does not know itself yet.
	alone := 0
	for pause := minJoinPause; ; pause = min(2*pause, maxJoinPause) {
		addrs, err := c.resolve(ctx)
		if len(addrs) > 0 {
			n, joinErr := c.joinAddrs(ctx, list, addrs)
			if n > 0 && list.NumMembers() < 2 && alone < maxAlone {
				alone++
				joinErr = errAlone
			} else if n > 0 || list.NumMembers() > 1 { // others may have joined this one
				c.log.Info("joined cluster", "nodes", list.NumMembers(), "answered", n, "addresses", len(addrs))
				return nil
			}
			err = errors.Join(err, joinErr)
		} else if err == nil {
			c.log.Info("first node: the names to join have no address but this node's", "join", c.opt.Join)
			return nil
		}
		if ctx.Err() == nil {
			c.log.Warn("no node could be joined yet", "error", err, "retry_in", pause)
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%w: no node answered within %v: %w", errJoin, c.opt.JoinTimeout, err)
		}
	}
}

// rejoin joins the addresses that are no member's.
func (c *Cluster) rejoin(ctx context.Context, list *memberlist.Memberlist, lost []netip.AddrPort) {
	addrs, err := c.resolve(ctx)
	if err != nil {
		c.log.Debug("some names to join have no address", "error", err)
	}
	addrs = append(addrs, lost...)
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	addrs = slices.Compact(addrs)
	known := c.livingAddrs()
	addrs = slices.DeleteFunc(addrs, func(a netip.AddrPort) bool { return known[a.String()] })
	if len(addrs) == 0 {
		return
	}
	n, err := c.joinAddrs(ctx, list, addrs)
	if n > 0 {
		c.log.Info("joined further nodes", "answered", n, "nodes", list.NumMembers())
	} else {
		c.log.Debug("addresses to join did not answer", "addresses", len(addrs), "error", err)
	}
}

// livingAddrs is not asked of memberlist: what its Members returns is written to
// while it is read.
func (c *Cluster) livingAddrs() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	addrs := make(map[string]bool)
	for _, n := range c.nodes {
		if n.alive {
			addrs[n.gossipAddr] = true
		}
	}
	return addrs
}

// joinAddrs exchanges states with all addresses, and returns how many answered.
func (c *Cluster) joinAddrs(ctx context.Context, list *memberlist.Memberlist, addrs []netip.AddrPort) (answered int, err error) {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	slots := make(chan struct{}, joinsAtOnce)
	for _, addr := range addrs {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			n, err := list.Join([]string{addr.String()})
			mu.Lock()
			defer mu.Unlock()
			if answered += n; err != nil {
				c.metrics.joins.WithLabelValues("failed").Inc()
				errs = append(errs, errors.New(strings.Join(strings.Fields(err.Error()), " "))) // of several lines
				return
			}
			c.metrics.joins.WithLabelValues("ok").Inc()
		})
	}
	wg.Wait()
	return answered, errors.Join(errs...)
}

// resolve returns the addresses to join, without this node's own, and what could
// not be found. No address and no error mean that there is no other node.
func (c *Cluster) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var mu sync.Mutex
	var all []netip.AddrPort
	var errs []error
	var wg sync.WaitGroup
	for _, name := range c.opt.Join {
		wg.Go(func() {
			addrs, err := c.resolveOne(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, addrs...)
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	slices.SortFunc(all, netip.AddrPort.Compare)
	all = slices.Compact(all)
	all = slices.DeleteFunc(all, c.transport.isSelf)
	return all[:min(len(all), maxJoinAddrs)], errors.Join(errs...)
}

// resolveOne looks up SRV records for names that start with an underscore, and
// addresses for all others.
func (c *Cluster) resolveOne(ctx context.Context, name string) ([]netip.AddrPort, error) {
	host, port := name, c.transport.advertised().Port()
	if h, p, err := net.SplitHostPort(name); err == nil {
		host = h
		if p != "" {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil {
				return nil, fmt.Errorf("resolve %q: %w", name, err)
			}
			port = uint16(n)
		}
	}
	host = strings.Trim(host, "[]")
	if !strings.HasPrefix(host, "_") {
		return c.resolveHost(ctx, host, port)
	}
	_, records, err := c.opt.resolver.LookupSRV(ctx, "", "", host)
	if err != nil {
		return nil, fmt.Errorf("resolve SRV %q: %w", host, err)
	}
	var all []netip.AddrPort
	var errs []error
	for _, r := range records[:min(len(records), maxJoinAddrs)] {
		addrs, err := c.resolveHost(ctx, r.Target, r.Port)
		all = append(all, addrs...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

func (c *Cluster) resolveHost(ctx context.Context, host string, port uint16) ([]netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap().WithZone(""), port)}, nil
	}
	ips, err := c.opt.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("resolve %q: %w", host, err)
	}
	addrs := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap().WithZone(""), port))
	}
	return addrs, nil
}

// sleep returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

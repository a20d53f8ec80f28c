package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

var errNoAddress = errors.New("no address of this machine is known; give one")

// AdvertiseIP returns the IP address at which others reach a port of this node:
// the host in advertise if there is one, else that in bind unless it is all
// addresses, else one of the network interfaces: private IPv4 first, then other
// IPv4, then IPv6, and the loopback if there is nothing else. Both may have a port.
// A name is looked up, for 5 s at most.
func AdvertiseIP(bind, advertise string) (string, error) {
	for _, addr := range []string{advertise, bind} {
		host := hostOf(addr)
		if host == "" {
			continue
		}
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return lookupOne(host)
		}
		if !ip.IsUnspecified() {
			return ip.Unmap().String(), nil
		}
		if addr == advertise {
			return "", fmt.Errorf("advertise address %q: is no address that others can use", advertise)
		}
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("list network interfaces: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range local {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	ip, ok := chooseIP(addrs, hostOf(bind) == "0.0.0.0")
	if !ok {
		return "", errNoAddress
	}
	return ip.String(), nil
}

// chooseIP prefers, among equals, what comes first.
func chooseIP(addrs []netip.Addr, only4 bool) (best netip.Addr, ok bool) {
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		return rank(a) == 0 || only4 && !a.Is4()
	})
	if len(addrs) == 0 {
		return netip.Addr{}, false
	}
	return slices.MaxFunc(addrs, func(a, b netip.Addr) int { return rank(a) - rank(b) }), true
}

// rank is 0 for what cannot be used.
func rank(a netip.Addr) int {
	switch {
	case a.IsLoopback() && a.Is4():
		return 2
	case a.IsLoopback():
		return 1
	case !a.IsGlobalUnicast(): // link-local: means nothing without its zone
		return 0
	case a.Is4() && a.IsPrivate():
		return 6
	case a.Is4():
		return 5
	case !a.IsPrivate():
		return 4
	}
	return 3
}

func lookupOne(host string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", host, err)
	}
	ip, ok := chooseIP(unmapped(ips), false)
	if !ok {
		return "", fmt.Errorf("look up %s: %w", host, errNoAddress)
	}
	return ip.String(), nil
}

func unmapped(ips []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, len(ips))
	for i, ip := range ips {
		out[i] = ip.Unmap()
	}
	return out
}

// hostOf accepts an address with and without port.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return strings.Trim(addr, "[]")
}

// countedAs is what connections are counted by: an IPv4 address, or the /64 of an
// IPv6 address, all of which a single host may use.
func countedAs(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr
	}
	return netip.PrefixFrom(addr, 64).Masked().Addr()
}

package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// The types of flags and file keys that are more than a word. Each checks what
// it is given while the flag, variable or line that it came from is still
// known, and its error says what to write instead.

// bindAddr is an address to listen on: host:port, where the host may be empty.
type bindAddr string

// UnmarshalText accepts host:port; port 0 means any free one.
func (a *bindAddr) UnmarshalText(text []byte) error {
	s := string(text)
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		return fmt.Errorf("%q is a port without a colon; write :%s, or host:%s to listen on one address only", s, s, s)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port; write it like :8000, 127.0.0.1:8000 or [::1]:8000", s)
	}
	if strings.ContainsAny(host, "/ @") {
		return fmt.Errorf("%q is not host:port: the host %q has forbidden characters; write it like 127.0.0.1:8000", s, host)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > math.MaxUint16 {
		return fmt.Errorf("%q: the port %q is not a number from 0 to 65535", s, port)
	}
	*a = bindAddr(s)
	return nil
}

// byteSize is a number of bytes, written as such or with a unit: 512KiB, 1MiB.
type byteSize int

// byteUnits are those of byteSize, the longest suffix first: "KiB" ends in "B".
var byteUnits = []struct {
	suffix string
	size   int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}}

// UnmarshalText accepts a whole number, with KiB, MiB, GiB, B or no unit.
func (b *byteSize) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt32/unit {
		return fmt.Errorf("%q is not a size; write it like 65536, 512KiB or 1MiB", text)
	}
	*b = byteSize(n * unit)
	return nil
}

// nodeID is the name of a node, or the beginning of one.
type nodeID string

const maxNodeID = 64 // bytes; it travels in headers, metrics and log lines

// UnmarshalText accepts letters, digits, dot, dash and underscore.
func (id *nodeID) UnmarshalText(text []byte) error {
	if len(text) > maxNodeID {
		return fmt.Errorf("%q is %d bytes long; use at most %d", text, len(text), maxNodeID)
	}
	for _, c := range string(text) {
		if !isIDByte(c) {
			return fmt.Errorf("%q: %q is not allowed; use letters, digits, '.', '-' and '_'", text, c)
		}
	}
	*id = nodeID(text)
	return nil
}

func isIDByte(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(".-_", c)
}

// domain is one below which endpoints are names, in lower case.
type domain string

// UnmarshalText accepts a host name; a dot at its end changes nothing.
func (d *domain) UnmarshalText(text []byte) error {
	name := strings.ToLower(strings.TrimSuffix(string(text), "."))
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.ContainsFunc(label, func(c rune) bool { return !isIDByte(c) }) {
			return fmt.Errorf("%q is not a domain; write it like example.com, without scheme, port or *", text)
		}
	}
	*d = domain(name)
	return nil
}

// ipPrefix is a range of addresses.
type ipPrefix struct{ netip.Prefix }

// UnmarshalText accepts CIDR notation, or one address.
func (p *ipPrefix) UnmarshalText(text []byte) error {
	if addr, err := netip.ParseAddr(string(text)); err == nil && addr.Zone() == "" {
		p.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		return nil
	}
	prefix, err := netip.ParsePrefix(string(text))
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a range of addresses; write it like 10.0.0.0/8, 2001:db8::/32 or 10.0.0.5", text)
	case prefix != prefix.Masked():
		return fmt.Errorf("%q is an address within a range; write %s for all of it", text, prefix.Masked())
	}
	p.Prefix = prefix
	return nil
}

// serverURL is where a piko server is: http, https, ws or wss.
type serverURL string

// UnmarshalText accepts a URL with a host; its path, if any, is a prefix.
func (u *serverURL) UnmarshalText(text []byte) error {
	if err := checkURL(string(text), "http", "https", "ws", "wss"); err != nil {
		return err
	}
	*u = serverURL(text)
	return nil
}

// redacted is u without a password, for logs.
func (u serverURL) redacted() string {
	if parsed, err := url.Parse(string(u)); err == nil {
		return parsed.Redacted()
	}
	return ""
}

// forwardProxyURL is a proxy to dial through: http, https or socks5.
type forwardProxyURL string

// UnmarshalText accepts a URL with a host, and the empty string.
func (u *forwardProxyURL) UnmarshalText(text []byte) error {
	if len(text) != 0 {
		if err := checkURL(string(text), "http", "https", "socks5"); err != nil {
			return err
		}
	}
	*u = forwardProxyURL(text)
	return nil
}

// checkURL names what is wrong with s without repeating a password in it.
func checkURL(s string, schemes ...string) error {
	u, err := url.Parse(s)
	if err != nil {
		if parse, ok := errors.AsType[*url.Error](err); ok {
			err = parse.Err // the whole error repeats the URL
		}
		return fmt.Errorf("not a URL: %w; write it like %s://host:port", err, schemes[0])
	}
	shown := u.Redacted()
	if i := strings.LastIndexByte(shown, '@'); u.User == nil && i >= 0 {
		shown = hidden + shown[i:] // user:password@host, which is no URL
	}
	if !slices.Contains(schemes, u.Scheme) {
		hint := strings.Join(schemes, ", ")
		return fmt.Errorf("%q has no scheme that fits (%s); write it like %s://host:port", shown, hint, schemes[0])
	}
	if u.Hostname() == "" {
		return fmt.Errorf("%q names no host; write it like %s://host:port", shown, u.Scheme)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > math.MaxUint16 {
			return fmt.Errorf("%q: the port %s is not a number from 1 to 65535", shown, port)
		}
	}
	return nil
}

// decodeDuration is kong's mapper for time.Duration with an error that helps.
func decodeDuration(ctx *kong.DecodeContext, target reflect.Value) error {
	var s string
	if err := ctx.Scan.PopValueInto("duration", &s); err != nil {
		return err
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		if _, numeric := strconv.ParseFloat(s, 64); numeric == nil {
			return fmt.Errorf("%q has no unit; write %ss for seconds, %sms or %sm", s, s, s, s)
		}
		return fmt.Errorf("%q is not a duration; write it like 500ms, 10s or 1m30s", s)
	}
	if d < 0 {
		return fmt.Errorf("%q is negative; write 0s or more", s)
	}
	target.SetInt(int64(d))
	return nil
}

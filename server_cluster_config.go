package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// clusterConfig is the cluster.* section.
type clusterConfig struct {
	NodeID           nodeID        `name:"node-id" placeholder:"ID" help:"Name of this node, which no other node of the cluster may have. Made at random when not given; give one only where it moves with the address, as in a StatefulSet."`
	NodeIDPrefix     nodeID        `name:"node-id-prefix" placeholder:"PREFIX" help:"Prefix of the random node ID, such as the host's name and a dash."`
	Join             []joinAddr    `placeholder:"HOST[:PORT]" help:"Nodes to join: addresses, or names that are resolved to all their addresses (A, AAAA, or SRV for names such as _gossip._tcp.piko.internal), now and again for ever. The port is that of --cluster.gossip.bind-addr unless given. This node may be among them. May be repeated. Without it the node waits for others to join it."`
	JoinTimeout      time.Duration `default:"1m" help:"How long to try to reach one of the nodes to join."`
	AbortIfJoinFails bool          `default:"true" negatable:"" help:"Exit when none could be joined in that time. Otherwise the node serves on its own and goes on trying."`
	Name             string        `placeholder:"NAME" help:"Name of the cluster: nodes of clusters with other names never join this one."`
	Secret           []secret      `list:"" sep:"none" placeholder:"SECRET" help:"What all nodes of the cluster know: gossip is encrypted with it, and traffic between nodes authenticated and encrypted. At least 16 bytes. May be repeated to replace one: the first is used, all are accepted. Prefer --cluster.secret-file: other users of the machine see command lines."`
	SecretFile       string        `placeholder:"PATH" help:"File with the secret, or several, one a line."`
	Gossip           gossipConfig  `embed:"" prefix:"gossip."`
	TLS              clusterTLS    `embed:"" prefix:"tls."`
}

// gossipConfig is the cluster.gossip.* section.
type gossipConfig struct {
	BindAddr      bindAddr      `default:":8003" help:"Address, TCP and UDP, at which the nodes of the cluster watch each other. Keep it off the internet."`
	AdvertiseAddr advertiseAddr `placeholder:"HOST[:PORT]" help:"Address at which other nodes reach this one. Chosen from the network interfaces when not given; the host also holds for the proxy and the admin port."`
	Interval      time.Duration `default:"50ms" help:"How often a node tells others what is new. Less finds out sooner and costs more packets."`
	MaxPacketSize byteSize      `default:"1400" help:"Largest UDP packet that is sent, without headers."`
}

// rebalanceConfig is the upstream.rebalance.* section.
type rebalanceConfig struct {
	Threshold float64 `default:"0" placeholder:"FRACTION" help:"Ask agents to move to other nodes when this one has more than so much above the nodes' average of connections: 0.2 is a fifth. 0 is never."`
	ShedRate  float64 `default:"0.005" placeholder:"FRACTION" help:"Which part of the average is moved in a second, above 0 and up to 1."`
	MinConns  int     `default:"50" help:"Up to so many connections of agents are never moved."`
}

// joinAddr is a node to join: a host, with or without port.
type joinAddr string

// UnmarshalText accepts host, host:port, an IPv6 address and [IPv6]:port.
func (a *joinAddr) UnmarshalText(text []byte) error {
	if err := checkHostPort(string(text)); err != nil {
		return err
	}
	*a = joinAddr(text)
	return nil
}

// advertiseAddr is an address for others: a host, with or without port.
type advertiseAddr string

// UnmarshalText accepts what joinAddr does, and the empty string.
func (a *advertiseAddr) UnmarshalText(text []byte) error {
	if len(text) > 0 {
		if err := checkHostPort(string(text)); err != nil {
			return err
		}
	}
	*a = advertiseAddr(text)
	return nil
}

// split returns the host and, if it is there, the port.
func (a advertiseAddr) split() (host, port string) { return splitHostPort(string(a)) }

// splitHostPort is net.SplitHostPort where the port may be missing.
func splitHostPort(s string) (host, port string) {
	if host, port, err := net.SplitHostPort(s); err == nil {
		return host, port
	}
	return strings.Trim(s, "[]"), ""
}

func checkHostPort(s string) error {
	host, port := splitHostPort(s)
	if host == "" || strings.ContainsAny(host, "/ @,[]") || strings.Count(s, "[") != strings.Count(s, "]") || strings.Contains(host, ":") && net.ParseIP(withoutZone(host)) == nil {
		return fmt.Errorf("%q is not host or host:port; write it like node-1.example.com, 10.0.0.5:8003 or [2001:db8::5]:8003", s)
	}
	if port == "" && !strings.HasSuffix(s, ":") {
		return nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q: the port %q is not a number from 1 to 65535", s, port)
	}
	return nil
}

func withoutZone(host string) string {
	host, _, _ = strings.Cut(host, "%")
	return host
}

// secret is one that no output shows.
type secret string

// minSecret is how long a secret has to be, in bytes: a shorter one could be
// guessed by who records packets.
const minSecret = 16

// UnmarshalText accepts 16 bytes and more.
func (s *secret) UnmarshalText(text []byte) error {
	if len(text) < minSecret {
		return fmt.Errorf("a secret of %d bytes is too short; use at least %d, such as the output of: openssl rand -base64 32", len(text), minSecret)
	}
	*s = secret(text)
	return nil
}

// String hides the secret.
func (secret) String() string { return hidden }

// GoString hides the secret.
func (secret) GoString() string { return hidden }

// MarshalText hides the secret from JSON, too.
func (secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// maxSecretFile bounds what is read of a secret file.
const maxSecretFile = 64 << 10

// secrets are those of the flags, environment and configuration file, or those
// of the secret file.
func (c *clusterConfig) secrets() ([]string, error) {
	var list []string
	for _, s := range c.Secret {
		list = append(list, string(s))
	}
	if c.SecretFile == "" {
		return list, nil
	}
	f, err := os.Open(c.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("--cluster.secret-file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return nil, fmt.Errorf("--cluster.secret-file: %w", err)
	}
	if len(text) > maxSecretFile {
		return nil, fmt.Errorf("--cluster.secret-file: %s has more than %d bytes; it must have a secret a line and nothing else", c.SecretFile, maxSecretFile)
	}
	for i, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		var s secret
		if err := s.UnmarshalText(line); err != nil {
			return nil, fmt.Errorf("--cluster.secret-file: %s:%d: %w", c.SecretFile, i+1, err)
		}
		list = append(list, string(s))
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("--cluster.secret-file: %s is empty; write a secret into it, such as the output of: openssl rand -base64 32", c.SecretFile)
	}
	return list, nil
}

// check finds what no single value shows.
func (c *clusterConfig) check() error {
	var errs []error
	if c.NodeID != "" && c.NodeIDPrefix != "" {
		errs = append(errs, errors.New("--cluster.node-id-prefix: is for random IDs; give it or --cluster.node-id, not both"))
	}
	if len(c.NodeIDPrefix)+randomIDLen > maxNodeID {
		errs = append(errs, fmt.Errorf("--cluster.node-id-prefix: %d bytes; use at most %d, since %d random ones follow", len(c.NodeIDPrefix), maxNodeID-randomIDLen, randomIDLen))
	}
	if len(c.Join) > 0 && c.JoinTimeout == 0 {
		errs = append(errs, errors.New("--cluster.join-timeout: 0s leaves no time to join; use a second or more"))
	}
	if len(c.Name) > maxNodeID {
		errs = append(errs, fmt.Errorf("--cluster.name: %d bytes; use at most %d", len(c.Name), maxNodeID))
	}
	if len(c.Secret) > 0 && c.SecretFile != "" {
		errs = append(errs, errors.New("--cluster.secret-file: give it or --cluster.secret, not both"))
	}
	errs = append(errs, c.TLS.check())
	if _, err := c.secrets(); err != nil {
		errs = append(errs, err)
	}
	if g := c.Gossip.Interval; g < 10*time.Millisecond || g > 5*time.Second {
		errs = append(errs, fmt.Errorf("--cluster.gossip.interval: %v; use 10ms to 5s", g))
	}
	if n := c.Gossip.MaxPacketSize; n < 512 || n > 60<<10 {
		errs = append(errs, fmt.Errorf("--cluster.gossip.max-packet-size: %d bytes; use 512 to 60KiB", n))
	}
	return errors.Join(errs...)
}

// check finds values that make no sense.
func (c *rebalanceConfig) check() error {
	var errs []error
	if !(c.Threshold >= 0) {
		errs = append(errs, fmt.Errorf("--upstream.rebalance.threshold: %v; use 0 (off) or more, such as 0.2", c.Threshold))
	}
	if !(c.ShedRate > 0 && c.ShedRate <= 1) {
		errs = append(errs, fmt.Errorf("--upstream.rebalance.shed-rate: %v; use more than 0 and at most 1", c.ShedRate))
	}
	if c.MinConns < 0 {
		errs = append(errs, fmt.Errorf("--upstream.rebalance.min-conns: %d; use 0 or more", c.MinConns))
	}
	return errors.Join(errs...)
}

package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"net"
)

// The meta of a node is what memberlist spreads with its name:
//
//	1 byte   version, 1
//	1 byte   flags
//	string   address of the proxy port, host:port
//	string   address of the admin port, host:port or empty
//	string   key
//
// A string is one byte of length and the bytes. Whatever follows, and flags that
// are not known, belong to a later version and are left alone.
const metaVersion = 1

const (
	flagDraining = 1 << iota
	flagLeaving
)

// maxMeta is below memberlist's 512, which it shares with other fields of one
// packet: many nodes have to fit into one.
const maxMeta = 200

const maxKey = 64

// meta is what a node says of itself.
type meta struct {
	proxyAddr, adminAddr string
	key                  []byte
	draining, leaving    bool
}

var (
	errMetaShort   = errors.New("is cut off")
	errMetaLong    = errors.New("is too long")
	errMetaVersion = errors.New("has an unknown version")
)

func (m meta) encode() []byte {
	var flags byte
	if m.draining {
		flags |= flagDraining
	}
	if m.leaving {
		flags |= flagLeaving
	}
	b := []byte{metaVersion, flags}
	for _, s := range []string{m.proxyAddr, m.adminAddr, string(m.key)} {
		b = append(append(b, byte(len(s))), s...)
	}
	return b
}

// check is for the meta of this node, whose addresses may be too long.
func (m meta) check() error {
	if n := len(m.encode()); n > maxMeta || len(m.key) > maxKey {
		return fmt.Errorf("describe node: %d bytes with addresses %q and %q: %w; use IP addresses", n, m.proxyAddr, m.adminAddr, errMetaLong)
	}
	_, err := parseMeta(m.encode())
	return err
}

// parseMeta keeps nothing of b.
func parseMeta(b []byte) (m meta, err error) {
	switch {
	case len(b) > maxMeta:
		return meta{}, fmt.Errorf("meta of %d bytes %w", len(b), errMetaLong)
	case len(b) < 2:
		return meta{}, fmt.Errorf("meta %w", errMetaShort)
	case b[0] != metaVersion:
		return meta{}, fmt.Errorf("meta %w: %d", errMetaVersion, b[0])
	}
	m.draining, m.leaving = b[1]&flagDraining != 0, b[1]&flagLeaving != 0
	var fields [3][]byte
	b = b[2:]
	for i := range fields {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return meta{}, fmt.Errorf("meta %w", errMetaShort)
		}
		fields[i], b = b[1:1+b[0]], b[1+b[0]:]
	}
	m.proxyAddr, m.adminAddr = string(fields[0]), string(fields[1])
	if len(fields[2]) > maxKey {
		return meta{}, fmt.Errorf("key in meta %w", errMetaLong)
	}
	m.key = bytes.Clone(fields[2])
	if err := checkAddr(m.proxyAddr); err != nil {
		return meta{}, fmt.Errorf("proxy address in meta: %w", err)
	}
	if m.adminAddr != "" {
		if err := checkAddr(m.adminAddr); err != nil {
			return meta{}, fmt.Errorf("admin address in meta: %w", err)
		}
	}
	return m, nil
}

// checkAddr accepts host:port with a host that cannot break a log line or URL.
func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if host == "" || port == "" {
		return fmt.Errorf("%q is not host:port", addr)
	}
	for _, c := range []byte(addr) {
		if c <= ' ' || c >= 0x7f || c == '/' || c == '@' || c == '?' || c == '#' || c == '"' || c == '\\' {
			return fmt.Errorf("%q is not host:port", addr)
		}
	}
	return nil
}

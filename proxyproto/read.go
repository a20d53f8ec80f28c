package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// Bounds of what is read.
const (
	maxLine   = 107     // bytes of a header of version 1 with its end, section 2.1
	maxBinary = 4 << 10 // of what follows the first 16 bytes of version 2: addresses, and TLVs as long as a certificate's name
)

// ErrMalformed is what every error of Read wraps that is the sender's fault.
var ErrMalformed = errors.New("malformed PROXY header")

// Addrs are the two ends of the client's connection to the proxy. Client is
// invalid when the proxy speaks for itself, as in a health check, or does not
// tell.
type Addrs struct{ Client, Service netip.AddrPort }

// Begins says whether a header can begin with this byte.
func Begins(first byte) bool { return first == 'P' || first == signature[0] }

// Read reads a header of either version, and not a byte more. It is strict:
// whoever must send a header knows how.
func Read(r io.Reader) (Addrs, error) {
	var b [maxLine]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return Addrs{}, fmt.Errorf("read PROXY header: %w", err)
	}
	if b[0] == signature[0] {
		return readBinary(r, b[:16])
	}
	// One byte at a time, so that one that is wrong ends it at once.
	const begin = "PROXY "
	for n := 1; ; n++ {
		if n <= len(begin) && b[n-1] != begin[n-1] {
			return Addrs{}, malformed("it begins with %q", b[:n])
		}
		if b[n-1] == '\n' {
			return parseLine(string(b[:n]))
		}
		if n == maxLine {
			return Addrs{}, malformed("the line is longer than %d bytes", maxLine)
		}
		if _, err := io.ReadFull(r, b[n:n+1]); err != nil {
			return Addrs{}, fmt.Errorf("read PROXY header: %w", err)
		}
	}
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// parseLine reads a whole line of version 1 that begins with "PROXY ".
func parseLine(line string) (Addrs, error) {
	text, ok := strings.CutSuffix(line, "\r\n")
	if !ok {
		return Addrs{}, malformed("the line does not end with CR and LF")
	}
	fields := strings.Split(text, " ")
	if fields[1] == "UNKNOWN" {
		return Addrs{}, nil // whatever follows
	}
	if len(fields) != 6 || fields[1] != "TCP4" && fields[1] != "TCP6" {
		return Addrs{}, malformed("%q", text)
	}
	v6 := fields[1] == "TCP6"
	client, err := parseAddr(fields[2], fields[4], v6)
	if err != nil {
		return Addrs{}, err
	}
	service, err := parseAddr(fields[3], fields[5], v6)
	return Addrs{client, service}, err
}

func parseAddr(host, port string, v6 bool) (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Is6() != v6 || ip.Zone() != "" {
		return netip.AddrPort{}, malformed("address %q", host)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != port {
		return netip.AddrPort{}, malformed("port %q", port)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
}

// readBinary reads the rest of a header of version 2; the first byte is there.
func readBinary(r io.Reader, head []byte) (Addrs, error) {
	for n := 1; n < len(signature); n++ {
		if _, err := io.ReadFull(r, head[n:n+1]); err != nil {
			return Addrs{}, fmt.Errorf("read PROXY header: %w", err)
		}
		if head[n] != signature[n] {
			return Addrs{}, malformed("it begins with %q", head[:n+1])
		}
	}
	if _, err := io.ReadFull(r, head[len(signature):]); err != nil {
		return Addrs{}, fmt.Errorf("read PROXY header: %w", err)
	}
	size := int(binary.BigEndian.Uint16(head[14:]))
	if head[12] != local && head[12] != proxy {
		return Addrs{}, malformed("version and command %#02x", head[12])
	}
	if size > maxBinary {
		return Addrs{}, malformed("%d bytes of addresses and more, at most %d are taken", size, maxBinary)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return Addrs{}, fmt.Errorf("read PROXY header: %w", err)
	}
	return parseBinary(head, body)
}

// parseBinary reads what follows the 16 bytes of head.
func parseBinary(head, body []byte) (Addrs, error) {
	size := 0
	switch family := head[13]; {
	case head[12] == local:
		return Addrs{}, nil // "the receiver must discard the rest", section 2.2
	case family == tcp4:
		size = head4
	case family == tcp6:
		size = head6
	default: // of no family, of datagrams, or local to the proxy's machine: nothing that we could use
		return Addrs{}, nil
	}
	if len(body) < size {
		return Addrs{}, malformed("%d bytes of addresses, want %d", len(body), size)
	}
	if err := checkTLVs(head, body, size); err != nil {
		return Addrs{}, err
	}
	n := (size - 4) / 2
	addr := func(ip, port []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(ip)
		return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
	}
	return Addrs{addr(body[:n], body[2*n:]), addr(body[n:2*n], body[2*n+2:])}, nil
}

// crcTLV is the type of the field with the header's CRC-32c, section 2.2.3.
const crcTLV = 0x03

// checkTLVs says whether the fields behind the addresses fill what is left of
// body, and whether the header is what was sent if it has a checksum.
func checkTLVs(head, body []byte, at int) error {
	for at < len(body) {
		if at+3 > len(body) {
			return malformed("field of %d bytes", len(body)-at)
		}
		end := at + 3 + int(binary.BigEndian.Uint16(body[at+1:]))
		if end > len(body) {
			return malformed("field %#02x reaches beyond the end", body[at])
		}
		if body[at] == crcTLV {
			if end-at != 3+4 || !sumFits(head, body, at+3) {
				return malformed("wrong checksum")
			}
		}
		at = end
	}
	return nil
}

// sumFits compares the checksum at body[at:], which is 0 when it is computed.
func sumFits(head, body []byte, at int) bool {
	table := crc32.MakeTable(crc32.Castagnoli)
	zeroed := bytes.Clone(body)
	clear(zeroed[at : at+4])
	return crc32.Update(crc32.Checksum(head, table), table, zeroed) == binary.BigEndian.Uint32(body[at:])
}

package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/netip"
	"strings"
	"testing"
)

const (
	sig   = "\r\n\r\n\x00\r\nQUIT\n"
	addr4 = "\xc0\x00\x02\x01\x7f\x00\x00\x01\x0f\xa0\x15\x38"
)

// withSum is a header of version 2 whose last field is a checksum, which is off
// by so much.
func withSum(off uint32) string {
	b := []byte(sig + "\x21\x11\x00\x13" + addr4 + "\x03\x00\x04\x00\x00\x00\x00")
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(b[len(b)-4:], sum+off)
	return string(b)
}

func TestRead(t *testing.T) {
	for _, tt := range []struct{ name, header, client string }{
		{"v1, IPv4", "PROXY TCP4 192.0.2.1 127.0.0.1 4000 5432\r\n", "192.0.2.1:4000"},
		{"v1, IPv6", "PROXY TCP6 2001:db8::1 ::1 4001 5433\r\n", "[2001:db8::1]:4001"},
		{"v1, IPv4 as IPv6", "PROXY TCP6 ::ffff:192.0.2.1 ::1 4001 5433\r\n", "192.0.2.1:4001"},
		{"v1, longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
		{"v1, unknown", "PROXY UNKNOWN\r\n", ""},
		{"v1, unknown with more", "PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", ""},
		{"v2, IPv4", sig + "\x21\x11\x00\x0c" + addr4, "192.0.2.1:4000"},
		{"v2, fields", sig + "\x21\x11\x00\x13" + addr4 + "\x04\x00\x00\x01\x00\x01h", "192.0.2.1:4000"},
		{"v2, checksum", withSum(0), "192.0.2.1:4000"},
		{"v2, local", sig + "\x20\x00\x00\x00", ""},
		{"v2, local with addresses", sig + "\x20\x11\x00\x0c" + addr4, ""},
		{"v2, of no family", sig + "\x21\x00\x00\x03abc", ""},
		{"v2, of a UNIX socket", sig + "\x21\x31\x00\x03abc", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := strings.NewReader(tt.header + "rest")
			got, err := Read(r)
			want := netip.AddrPort{}
			if tt.client != "" {
				want = netip.MustParseAddrPort(tt.client)
			}
			if err != nil || got.Client != want {
				t.Errorf("the client is %v, %v, want %v", got.Client, err, want)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "rest" {
				t.Errorf("%q is left behind the header", rest)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	for name, header := range map[string]string{
		"another protocol":        "GET / HTTP/1.1\r\n\r\n",
		"another method":          "PROPFIND / HTTP/1.1\r\n\r\n",
		"lower case":              "proxy TCP4 192.0.2.1 127.0.0.1 4000 5432\r\n",
		"two spaces":              "PROXY  TCP4 192.0.2.1 127.0.0.1 4000 5432\r\n",
		"space at the end":        "PROXY TCP4 192.0.2.1 127.0.0.1 4000 5432 \r\n",
		"bare LF":                 "PROXY TCP4 192.0.2.1 127.0.0.1 4000 5432\n",
		"too long":                "PROXY UNKNOWN " + strings.Repeat("x", maxLine) + "\r\n",
		"IPv6 as TCP4":            "PROXY TCP4 ::1 127.0.0.1 4000 5432\r\n",
		"IPv4 as TCP6":            "PROXY TCP6 192.0.2.1 ::1 4000 5432\r\n",
		"zone":                    "PROXY TCP6 fe80::1%eth0 ::1 4000 5432\r\n",
		"leading zero":            "PROXY TCP4 192.0.2.01 127.0.0.1 4000 5432\r\n",
		"port with zero":          "PROXY TCP4 192.0.2.1 127.0.0.1 04000 5432\r\n",
		"port too large":          "PROXY TCP4 192.0.2.1 127.0.0.1 65536 5432\r\n",
		"port with sign":          "PROXY TCP4 192.0.2.1 127.0.0.1 +400 5432\r\n",
		"no port":                 "PROXY TCP4 192.0.2.1 127.0.0.1 4000\r\n",
		"service is wrong":        "PROXY TCP4 192.0.2.1 127.0.0 4000 5432\r\n",
		"UDP":                     "PROXY UDP4 192.0.2.1 127.0.0.1 4000 5432\r\n",
		"no family":               "PROXY \r\n",
		"wrong signature":         "\r\n\r\n\x00\r\nQUIX\n\x21\x11\x00\x0c" + addr4,
		"version 1 in binary":     sig + "\x11\x11\x00\x0c" + addr4,
		"unknown command":         sig + "\x22\x11\x00\x0c" + addr4,
		"short addresses":         sig + "\x21\x11\x00\x0b" + addr4,
		"IPv4 as IPv6":            sig + "\x21\x21\x00\x0c" + addr4,
		"too long for us":         sig + "\x21\x11\x10\x02" + addr4 + strings.Repeat("\x00", 5000),
		"field of two bytes":      sig + "\x21\x11\x00\x0e" + addr4 + "\x04\x00",
		"field beyond the end":    sig + "\x21\x11\x00\x0f" + addr4 + "\x04\x00\x01",
		"wrong checksum":          withSum(1),
		"checksum of three bytes": sig + "\x21\x11\x00\x12" + addr4 + "\x03\x00\x03\x00\x00\x00",
	} {
		if got, err := Read(strings.NewReader(header)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: read %v, %v", name, got, err)
		}
	}
}

func TestReadOfAHeaderThatEnds(t *testing.T) {
	for _, whole := range []string{"PROXY TCP4 192.0.2.1 127.0.0.1 4000 5432\r\n", withSum(0)} {
		for n := range len(whole) {
			if _, err := Read(strings.NewReader(whole[:n])); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q: %v", whole[:n], err)
			}
		}
	}
}

// FuzzRead: what is read is written and read again as the same, no more is read
// than the header, and no more than its bound.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		"PROXY TCP4 192.0.2.1 127.0.0.1 4000 5432\r\nGET /", "PROXY TCP6 2001:db8::1 ::1 4001 5433\r\n", "PROXY UNKNOWN\r\n", "PROXY UNKNOWN x y z\r\n\r\n",
		sig + "\x21\x11\x00\x0c" + addr4 + "GET", withSum(0), withSum(1), sig + "\x20\x00\x00\x00", sig + "\x21\x21\x00\x24" + addr4 + addr4 + addr4, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		got, err := Read(r)
		used := len(b) - r.Len()
		if used > 16+maxBinary || used > maxLine && b[0] == 'P' {
			t.Fatalf("%d bytes were read", used)
		}
		if err != nil {
			if len(b) > 0 && !errors.Is(err, ErrMalformed) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			return
		}
		if !Begins(b[0]) {
			t.Fatalf("a header begins with %q", b[0])
		}
		if again, err := Read(bytes.NewReader(b[:used])); err != nil || again != got {
			t.Fatalf("the same bytes are %v and %v, %v", got, again, err)
		}
		for _, version := range []string{V1, V2} {
			if again, err := Read(bytes.NewReader(Header(version, got.Client, got.Service))); err != nil || again != got {
				t.Fatalf("%v becomes %v in %s, %v", got, again, version, err)
			}
		}
	})
}

//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestBadHandshakes asks the upstream port for what it does not give.
func TestBadHandshakes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	bystander(t, s)
	const path = "GET /piko/v1/upstream/"
	for _, c := range []struct {
		name, raw string
		status    int
		why       string
	}{
		{"bad endpoint", path + "a%20b HTTP/1.1\r\nHost: h\r\n" + upgradeHeaders, 400, "invalid endpoint id"},
		{"300 long", path + strings.Repeat("a", 300) + " HTTP/1.1\r\nHost: h\r\n" + upgradeHeaders, 400, "invalid endpoint id"},
		{"other path", "GET /other HTTP/1.1\r\nHost: h\r\n" + upgradeHeaders, 404, ""},
		{"no WebSocket", path + "e HTTP/1.1\r\nHost: h\r\n", 400, ""},
		{"other version", path + "e HTTP/1.1\r\nHost: h\r\n" + strings.Replace(upgradeHeaders, "13", "8", 1), 400, ""},
		{"short key", path + "e HTTP/1.1\r\nHost: h\r\n" + strings.Replace(upgradeHeaders, "dGhl", "", 1), 400, ""},
		{"POST", strings.Replace(path, "GET", "POST", 1) + "e HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n" + upgradeHeaders, 405, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := dialRaw(t, s.upstream)
			conn.send(c.raw + "\r\n")
			res, body := conn.response("GET")
			wantError(t, res, body, c.status, res.Header.Get("X-Piko-Error"), "")
			if res.Header.Get("X-Piko-Error") == "" {
				t.Error("x-piko-error is missing")
			}
			if c.status != http.StatusNotFound { // of which scanners would fill the log
				s.wantLoggedOnce(t, conn.addr(), c.why)
			}
		})
	}
	if counts, err := s.endpoints(); err != nil || len(counts) != 1 {
		t.Errorf("endpoints are %v, %v, want the bystander alone", counts, err)
	}
}

// TestBadTunnels breaks the rules of RFC 6455 and of yamux in every way that a tunnel can.
// Each time that tunnel ends, the log says once whose and why, and no other notices.
func TestBadTunnels(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	bystander(t, s)
	repeat := func(n int, frame func(i uint32) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(frame(uint32(i)))
		}
		return b.String()
	}
	for _, c := range []struct {
		name, bytes string
		code        int // of the close frame; 0: none is asked for
	}{
		{"text frame", frame(frameText, "hello"), 1003},
		{"unmasked frame", "\x82\x05hello", 1002},
		{"length 2^63", "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 0},
		{"length 2^63-1", "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", 0},
		{"control frame over 125", frame(framePing, strings.Repeat("x", 126)), 1002},
		{"control frame in fragments", frame(framePing&^0x80, "x"), 1002},
		{"reserved bit", frame(frameBinary|0x40, "x"), 1002},
		{"reserved opcode", frame(0x83, "x"), 1002},
		{"continuation of nothing", frame(0x80, "x"), 1002},
		{"yamux rubbish", frame(frameBinary, "this is no yamux at all"), 0},
		{"yamux version 9", frame(frameBinary, muxHeader(9, muxData, 0, 2, 0)), 0},
		{"yamux type 77", mux(77, 0, 2, 0), 0},
		{"yamux ping flood", repeat(5000, func(i uint32) string { return mux(muxPing, muxSYN, 0, i) }), 0},
		{"yamux SYN flood", repeat(5000, func(i uint32) string { return mux(muxWindow, muxSYN, 2*i+1, 0) }), 0},
		{"yamux SYN with our parity", repeat(50, func(i uint32) string { return mux(muxWindow, muxSYN, 2*i+2, 0) }), 0},
		{"yamux unknown stream flood", repeat(5000, func(i uint32) string { return mux(muxData, 0, 2*i+1000, 0) }), 0},
		{"yamux data of 4 GiB", mux(muxData, 0, 2, 0xffffffff), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			endpoint := "bad-" + strings.NewReplacer(" ", "-", "^", "-").Replace(strings.ToLower(c.name))
			conn := rawTunnel(t, s, endpoint)
			s.waitUpstreams(t, endpoint, 1, 5*time.Second)
			go conn.send(c.bytes)
			rest := conn.wantClosed(5 * time.Second)
			if code, err := closeCode(rest); c.code != 0 && code != c.code {
				t.Errorf("closed with code %d, %v, want %d", code, err, c.code)
			}
			s.waitUpstreams(t, endpoint, 0, 5*time.Second)
			s.wantLoggedOnce(t, conn.addr())
		})
	}
	if hwm := s.memory(t, "VmHWM"); hwm > 128<<20 {
		t.Errorf("the server grew to %d MiB", hwm>>20)
	}
}

// wantLoggedOnce wants one line, beside those at debug and those that say that a tunnel came
// and went, that names the peer at addr and has all of why in a reason or error.
func (s *server) wantLoggedOnce(t testing.TB, addr string, why ...string) {
	t.Helper()
	eventually(t, 5*time.Second, "the log says once who and why", func() error {
		lines := slices.DeleteFunc(s.grep(`"`+addr+`"`), func(l string) bool {
			return strings.Contains(l, `"level":"debug"`) || strings.Contains(l, `"msg":"upstream connected"`)
		})
		if len(lines) != 1 {
			return fmt.Errorf("%d lines name %s: %q", len(lines), addr, lines)
		}
		l := strings.ToLower(lines[0])
		if !strings.Contains(l, `"err`) && !strings.Contains(l, `"reason`) || !containsAll(l, why) {
			return fmt.Errorf("the line does not give the reason %q: %s", why, lines[0])
		}
		return nil
	})
}

// TestStalledHandshake holds that a client that never ends its request is dropped, and that
// one which upgrades and then says nothing costs only its connection.
func TestStalledHandshake(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for name, addr := range map[string]string{"proxy": s.proxy, "upstream": s.upstream, "admin": s.admin} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dialRaw(t, addr)
			c.send("GET /piko/v1/upstream/e HTTP/1.1\r\nHost: h\r\n")
			c.wantClosed(13 * time.Second)
		})
	}
}

// TestSilentUpstream has an upstream that takes no stream at all: requests get an error in
// time instead of waiting for ever, and a good upstream beside it takes over.
func TestSilentUpstream(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--proxy.timeout", "2s")
	rawTunnel(t, s, "e")
	s.waitUpstreams(t, "e", 1, 5*time.Second)
	began := time.Now()
	res, body := request(t, s, "GET", "/", "e")
	if res.StatusCode != 502 && res.StatusCode != 504 {
		t.Errorf("status %s, %s, want 502 or 504", res.Status, body)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v, want at most 5 s", took)
	}
}

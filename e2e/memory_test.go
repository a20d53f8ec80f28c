//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestIdleTunnelsAreSmall opens many tunnels that then do nothing, and looks at what each
// more of them costs the server.
func TestIdleTunnelsAreSmall(t *testing.T) {
	if os.Getenv(raceEnv) == "1" {
		t.Skip("the race detector needs memory itself")
	}
	const few, limit = 500, 16 << 10
	many := min(4500, maxFiles(t)*9/10)
	s := startServer(t, "--log.level", "warn")
	openTo := func(n, from int) {
		for i := from; i < n; i++ {
			c := dialRaw(t, s.upstream)
			c.send(fmt.Sprintf("GET /piko/v1/upstream/e%d HTTP/1.1\r\nHost: h\r\nx-piko-features: control\r\n%s\r\n", i, upgradeHeaders))
			if res, err := http.ReadResponse(c.r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("open tunnel %d: %v, %v", i, res, err)
			}
			c.send(mux(muxWindow, muxSYN, 1, 0)) // the control stream
		}
		eventually(t, 5*time.Second, fmt.Sprintf("%d tunnels are registered", n), func() error {
			counts, err := s.endpoints()
			if err == nil && len(counts) != n {
				err = fmt.Errorf("there are %d", len(counts))
			}
			return err
		})
		if _, err := fetch("http://" + s.admin + "/debug/pprof/heap?gc=1"); err != nil {
			t.Fatal(err)
		}
	}
	goroutines := func() int {
		n, err := s.goroutines()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	began := time.Now()
	openTo(few, 0)
	before, running := s.memory(t, "VmRSS"), goroutines()
	openTo(many, few)
	var each int64
	eventually(t, 20*time.Second, "memory that is not needed is given back", func() error {
		if each = (s.memory(t, "VmRSS") - before) / int64(many-few); each > limit {
			return fmt.Errorf("an idle tunnel costs %d bytes, at most %d are fine", each, limit)
		}
		return nil
	})
	t.Logf("an idle tunnel costs %d bytes; opening %d of them took %v", each, many, time.Since(began).Round(time.Millisecond))
	if more := goroutines() - running; more > (many-few)*11/10 {
		t.Errorf("%d idle tunnels cost %d goroutines, want one each", many-few, more)
	}
}

// TestMemoryStaysFlat sends requests, and opens and closes tunnels, and wants the node to have
// no more memory in use after the second half than after the first. With PIKO_E2E_LONG=1 it is
// a million requests and 100,000 tunnels.
func TestMemoryStaysFlat(t *testing.T) {
	if os.Getenv(raceEnv) == "1" {
		t.Skip("the race detector needs memory itself")
	}
	requests, tunnels, atOnce := 20_000, 2_000, 500
	if os.Getenv("PIKO_E2E_LONG") == "1" {
		requests, tunnels, atOnce = 1_000_000, 100_000, 2_500
	}
	s := startServer(t, "--log.level", "error", "--proxy.access-log.disable")
	bench := func(args ...string) {
		t.Helper()
		if r := run(t, 10*time.Minute, nil, pikoBinary, append([]string{"bench"}, args...)...); r.code != 0 {
			t.Fatalf("bench %v: status %d\n%s", args, r.code, r.stderr)
		}
	}
	flat := func(what string, half func()) {
		t.Helper()
		half()
		before := s.inUse(t)
		half()
		after := int64(0)
		eventually(t, 15*time.Second, "memory is as it was", func() error {
			if after = s.inUse(t); after > before+before/10+4<<20 { // what pools keep varies
				return fmt.Errorf("%d bytes in use after half of the %s, %d after all", before, what, after)
			}
			return nil
		})
		t.Logf("%d bytes in use after half of the %s, %d after all", before, what, after)
	}
	flat("requests", func() {
		bench("http", "--requests", fmt.Sprint(requests/2), "--clients", "32", "--endpoints", "4", "--upstreams", "4",
			"--connect.proxy-url", "http://"+s.proxy, "--connect.upstream-url", "http://"+s.upstream)
	})
	flat("tunnels", func() {
		for range tunnels / 2 / atOnce {
			bench("idle", "--tunnels", fmt.Sprint(atOnce), "--hold", "0s", "--connect.upstream-url", "http://"+s.upstream)
		}
	})
}

// inUse is what the node has in use of heap and stacks once no tunnel is left and garbage was
// collected.
func (s *server) inUse(t testing.TB) int64 {
	t.Helper()
	eventually(t, 20*time.Second, "no tunnel is left", func() error {
		counts, err := s.endpoints()
		if err == nil && len(counts) > 0 {
			err = fmt.Errorf("there are %d", len(counts))
		}
		return err
	})
	if _, err := fetch("http://" + s.admin + "/debug/pprof/heap?gc=1"); err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, name := range []string{"go_memstats_heap_alloc_bytes", "go_memstats_stack_inuse_bytes"} {
		n, err := s.metric(name)
		if err != nil {
			t.Fatal(err)
		}
		sum += int64(n)
	}
	return sum
}

// maxFiles is how many files, and so connections, this process and its children may open.
func maxFiles(t testing.TB) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatalf("read the limit of open files: %v", err)
	}
	return int(min(limit.Max, 1<<20))
}

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
	const few, limit = 500, 20 << 10
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
	began := time.Now()
	openTo(few, 0)
	before := s.memory(t, "VmRSS")
	openTo(many, few)
	each := (s.memory(t, "VmRSS") - before) / int64(many-few)
	t.Logf("an idle tunnel costs %d bytes; opening %d of them took %v", each, many, time.Since(began).Round(time.Millisecond))
	if each > limit {
		t.Errorf("an idle tunnel costs %d bytes, at most %d are fine", each, limit)
	}
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

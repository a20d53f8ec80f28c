//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// cpuCgroup makes a cgroup that has so many thousandths of a core, and lasts until the test ends.
func cpuCgroup(t *testing.T, thousandths int) (dir string) {
	t.Helper()
	quota := strconv.Itoa(thousandths * 100)
	for _, v := range []struct{ root, file, text string }{
		{"/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", quota},
		{"/sys/fs/cgroup", "cpu.max", quota + " 100000"},
	} {
		dir := filepath.Join(v.root, fmt.Sprintf("piko-e2e-cpu-%d", time.Now().UnixNano()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { // the processes in it have moved or ended, but may still be counted for a moment
			for range 100 {
				if os.Remove(dir) == nil {
					return
				}
				<-time.After(10 * time.Millisecond)
			}
		})
		if _, err := os.Stat(filepath.Join(dir, v.file)); err != nil { // only a directory
			continue
		}
		if os.WriteFile(filepath.Join(dir, v.file), []byte(v.text), 0o644) == nil {
			return dir
		}
	}
	t.Skip("this machine lets us make no cgroup for the CPU")
	return ""
}

// TestStarvedNode gives one of three nodes a tenth of a core: it is slow, and nothing worse. It stays healthy and a
// member, keeps its tunnels, answers, and ends what a service does not answer.
func TestStarvedNode(t *testing.T) {
	const timeout = 2 * time.Second
	dir := cpuCgroup(t, 100)
	c := startCluster(t, clusterOptions{endpoints: 1, server: []string{"--proxy.timeout", timeout.String()}})
	slow := c.nodes[1]
	silent := rawService(t, func(c *rawConn) {
		for buf := make([]byte, 1<<10); ; {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	})
	startAgent(t, "http://"+slow.upstream, "silent", silent)
	eventually(t, 10*time.Second, "the silent endpoint is there", func() error {
		counts, err := slow.endpoints()
		if err == nil && counts["silent"] == 0 {
			err = fmt.Errorf("there are %v", counts)
		}
		return err
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(slow.cmd.Process.Pid)), 0o644); err != nil {
		t.Fatalf("starve the node: %v", err)
	}
	client := &http.Client{Timeout: 10 * timeout, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer client.CloseIdleConnections()
	ask := func(endpoint string) (int, time.Duration) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, slow.url("/"), nil)
		req.Header.Set("x-piko-endpoint", endpoint)
		began := time.Now()
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("ask for %s: %v", endpoint, err)
			return 0, time.Since(began)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res.StatusCode, time.Since(began)
	}
	var load sync.WaitGroup
	defer load.Wait()
	over := make(chan struct{})
	defer close(over)
	for range 16 { // more than it can do
		load.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if status, took := ask(c.endpoints[0]); status == 0 || status >= 500 {
					t.Errorf("a request got %d after %v", status, took)
					return
				}
			}
		})
	}
	for until := time.Now().Add(pick(6*time.Second, time.Minute)); time.Now().Before(until); {
		if _, err := fetch("http://" + slow.admin + "/health"); err != nil {
			t.Errorf("health: %v", err)
		}
		if status, took := ask("silent"); status != http.StatusGatewayTimeout || took < timeout {
			t.Errorf("a service that does not answer: %d after %v", status, took)
		}
		for _, n := range c.nodes {
			if err := c.seesOthers(n); err != nil {
				t.Error(err)
			}
		}
	}
	stat := string(readFile(t, filepath.Join(dir, "cpu.stat")))
	if t.Logf("cpu.stat: %q", stat); strings.Contains(stat, "nr_throttled 0\n") {
		t.Error("the node was not starved")
	}
	for _, n := range c.nodes {
		if lines := n.grep("node is unreachable"); len(lines) > 0 {
			t.Errorf("%s took a node for dead: %v", n.id, lines)
		}
	}
}

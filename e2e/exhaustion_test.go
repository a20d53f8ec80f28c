//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startLimited starts a node whose memory is limited: by a cgroup, where this machine lets us make one, or else by
// GOMEMLIMIT, as the node would set it. The function returns the most memory that the node has used.
func startLimited(t *testing.T, limit int64, args ...string) (s *server, peak func() int64) {
	t.Helper()
	s = &server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t), args: append([]string{"--proxy.access-log.disable"}, args...)}
	dir, peakFile := memoryCgroup(t, limit)
	if dir == "" {
		s.startWith(t, []string{fmt.Sprintf("GOMEMLIMIT=%d", limit/10*9)})
		s.waitReady(t)
		return s, func() int64 { return s.memory(t, "VmHWM") }
	}
	s.process = start(t, "server", nil, "/bin/sh", append([]string{"-c", `echo $$ > "$0" && exec "$@"`, filepath.Join(dir, "cgroup.procs"), pikoBinary,
		"server", "--proxy.bind-addr", s.proxy, "--upstream.bind-addr", s.upstream, "--admin.bind-addr", s.admin,
		"--cluster.gossip.bind-addr", "127.0.0.1:0"}, s.args...)...)
	t.Cleanup(s.process.checkLog)
	s.waitReady(t)
	return s, func() int64 {
		n, err := strconv.ParseInt(strings.TrimSpace(string(readFile(t, peakFile))), 10, 64)
		if err != nil {
			t.Fatalf("read the most memory in use: %v", err)
		}
		return n
	}
}

// memoryCgroup makes a cgroup, of version 1 or 2, that lasts until the test ends; "" if that is not possible.
func memoryCgroup(t *testing.T, limit int64) (dir, peak string) {
	for _, v := range []struct{ root, limit, peak string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"},
		{"/sys/fs/cgroup", "memory.max", "memory.peak"},
	} {
		dir := filepath.Join(v.root, fmt.Sprintf("piko-e2e-%d", time.Now().UnixNano()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { // the process has ended by then, but may still be counted for a moment
			for range 100 {
				if os.Remove(dir) == nil {
					return
				}
				<-time.After(10 * time.Millisecond)
			}
		})
		err := os.WriteFile(filepath.Join(dir, v.limit), []byte(strconv.FormatInt(limit, 10)), 0o644)
		if _, statErr := os.Stat(filepath.Join(dir, v.peak)); err == nil && statErr == nil {
			return dir, filepath.Join(dir, v.peak)
		}
	}
	return "", ""
}

// metric returns the value of a metric without labels.
func (s *server) metric(name string) (float64, error) {
	body, err := fetch("http://" + s.admin + "/metrics")
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(body)
	if m == nil {
		return 0, fmt.Errorf("metric %s: not there", name)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// latencies sends n requests one after the other, and returns how long the slowest of a hundred takes, about.
func latencies(t *testing.T, s *server, endpoint string, n int) (p50, p99 time.Duration) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	took := make([]time.Duration, n)
	for i := range took {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url("/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Piko-Endpoint", endpoint)
		began := time.Now()
		res, err := client.Do(req)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if took[i] = time.Since(began); err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %s, %v", i, res.Status, err)
		}
	}
	slices.Sort(took)
	return took[n/2], took[n*99/100]
}

// stalled is a client that asks for much and reads nothing.
func stalled(t *testing.T, s *server, target string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}
	c, err := d.DialContext(t.Context(), "tcp", s.proxy)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, "GET "+target+" HTTP/1.1\r\nHost: x\r\nX-Piko-Endpoint: big\r\n\r\n"); err != nil {
		t.Fatalf("send: %v", err)
	}
	return c
}

// outcome reads what a stalled client was sent: whole, broken, or refused with 503.
func outcome(c net.Conn, want int64) string {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	b, err := io.ReadAll(io.LimitReader(c, want*2))
	head, body, ok := strings.Cut(string(b), "\r\n\r\n")
	switch {
	case strings.HasPrefix(head, "HTTP/1.1 503 ") && strings.Contains(body, "overloaded"):
		return "refused"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "still open"
	case ok && strings.HasPrefix(head, "HTTP/1.1 200 ") && int64(len(body)) < want:
		return "broken"
	}
	return fmt.Sprintf("%.40q, %d bytes, %v", head, len(body), err)
}

// idleTunnel registers an upstream that does nothing but answer pings, until the test ends.
func idleTunnel(t *testing.T, s *server, endpoint string) {
	t.Helper()
	c := dialRaw(t, s.upstream)
	c.send("GET /piko/v1/upstream/" + endpoint + " HTTP/1.1\r\nHost: h\r\nx-piko-features: control\r\n" + upgradeHeaders + "\r\n")
	if res, err := http.ReadResponse(c.r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("open a tunnel for %s: %v, %v", endpoint, res, err)
	}
	c.send(mux(muxWindow, muxSYN, 1, 0)) // the control stream
	c.SetDeadline(time.Time{})
	go func() { // until the connection is closed
		for head := make([]byte, 2); ; {
			if _, err := io.ReadFull(c.r, head); err != nil {
				return
			}
			payload := make([]byte, head[1]) // pings and small messages have no longer ones
			if _, err := io.ReadFull(c.r, payload); err != nil {
				return
			}
			if head[0] == framePing {
				c.send(frame(0x8a, string(payload)))
			}
		}
	}()
}

// TestSlowReadersDoNotEndTheNode: a thousand clients that read nothing, of endpoints whose agents send as much as they
// may, and thousands of tunnels besides, in 256 MiB. The slow ones beyond the budget are reset, and nobody else notices.
func TestSlowReadersDoNotEndTheNode(t *testing.T) {
	if os.Getenv(raceEnv) == "1" {
		t.Skip("the race detector needs memory itself")
	}
	readers, tunnels := 500, 1500
	if long() {
		readers, tunnels = 1000, 5000
	}
	const limit, body = 256 << 20, 64 << 20
	readers, tunnels = min(readers, maxFiles(t)/4), min(tunnels, maxFiles(t)/4)
	o := startOrigin(t, "origin")
	s, peak := startLimited(t, limit)
	t.Cleanup(func() {
		for _, line := range s.grep(`"subsystem":"memory"`) {
			t.Log(line)
		}
	})
	s.agent(t, "big", o.addr)
	s.agent(t, "fine", o.addr)
	for i := range tunnels {
		idleTunnel(t, s, fmt.Sprint("e", i))
	}
	_, idle := latencies(t, s, "fine", 300)

	// A download that goes on all the time, and is not slow: not in this process, which has a thousand others to serve.
	const steadyBytes = 200 << 20
	steady := make(chan error, 1)
	go func() { steady <- s.downloadApart(t.Context(), tool(t, "curl"), "fine", steadyBytes) }()
	target := fmt.Sprintf("/bytes?n=%d", body)
	conns := make([]net.Conn, readers)
	for i := range conns {
		conns[i] = stalled(t, s, target)
	}
	var resets float64
	eventually(t, time.Minute, "slow readers are reset", func() (err error) {
		if resets, err = s.metric("piko_buffer_resets_total"); err == nil && resets == 0 {
			err = errNotYet
		}
		return err
	})
	_, loaded := latencies(t, s, "fine", 300)
	used, err := s.metric("piko_buffered_bytes")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("p99 %v idle, %v loaded; %.0f of %d slow readers reset; %.0f MiB buffered, peak %d MiB, RSS %d MiB",
		idle, loaded, resets, readers, used/(1<<20), peak()>>20, s.memory(t, "VmRSS")>>20)
	if loaded > max(5*idle, 3*time.Second) {
		t.Errorf("the 99th percentile of another endpoint is %v, and %v at rest", loaded, idle)
	}
	if err := <-steady; err != nil {
		t.Errorf("a client that reads steadily: %v", err)
	}
	if !s.running() {
		t.Fatal("the node was killed")
	}
	counts := make(map[string]int)
	for _, c := range conns[:50] { // the oldest: those that were reset
		_ = c.(*net.TCPConn).SetReadBuffer(1 << 20)
	}
	for _, c := range conns[:10] {
		counts[outcome(c, body)]++
	}
	t.Logf("what the oldest slow readers find: %v", counts)
	if counts["broken"]+counts["refused"] == 0 {
		t.Errorf("none of the oldest slow readers was cut off: %v", counts)
	}
	for _, c := range conns {
		c.Close()
	}
	eventually(t, time.Minute, "all is given back", func() error {
		n, err := s.metric("piko_buffered_bytes")
		if err == nil && n != 0 {
			err = fmt.Errorf("%.0f bytes are buffered", n)
		}
		return err
	})
	eventually(t, time.Minute, "memory is enough again", func() error {
		n, err := s.metric("piko_memory_state")
		if err == nil && n != 0 {
			err = fmt.Errorf("it is in state %v", n)
		}
		return err
	})
	if err := download(t.Context(), s, 10<<20); err != nil {
		t.Errorf("a download in the end: %v", err)
	}
	latencies(t, s, "fine", 50)
	if n := peak(); n > limit {
		t.Errorf("the node has used %d MiB", n>>20)
	}
}

// download reads n bytes from the endpoint and checks them.
func download(ctx context.Context, s *server, n int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url(fmt.Sprintf("/bytes?n=%d", n)), nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Piko-Endpoint", "fine")
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	h := sha256.New()
	if got, err := io.Copy(h, res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s, %d of %d bytes: %w", res.Status, got, n, cmp.Or(err, errNotYet))
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != generated(n) {
		return errors.New("the bytes are not those of the service")
	}
	return nil
}

// downloadApart reads n bytes from the endpoint in a process of its own, and checks them.
func (s *server) downloadApart(ctx context.Context, curl, endpoint string, n int64) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `"$0" -sS --fail --noproxy "*" --max-time 120 -H "X-Piko-Endpoint: $1" "$2" | sha256sum`,
		curl, endpoint, s.url(fmt.Sprintf("/bytes?n=%d", n)))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if sum, _, _ := strings.Cut(string(out), " "); err != nil || stderr.Len() > 0 || sum != generated(n) {
		return fmt.Errorf("the bytes are not those of the service: %w, %s", cmp.Or(err, errNotYet), stderr.String())
	}
	return nil
}

// TestServiceThatNeverAnswers: its requests end in time, and only so many wait at once; others are as fast as ever.
func TestServiceThatNeverAnswers(t *testing.T) {
	const each = 20
	s := startServer(t, "--proxy.limits.requests-per-tunnel", strconv.Itoa(each), "--proxy.timeout", "2s")
	silent := rawService(t, func(c *rawConn) { _, _ = io.Copy(io.Discard, c) })
	s.agent(t, "silent", silent)
	o := startOrigin(t, "origin")
	s.agent(t, "fine", o.addr)
	var wg sync.WaitGroup
	var mu sync.Mutex
	statuses := make(map[int]int)
	began := time.Now()
	for range 10 * each {
		wg.Go(func() {
			c, err := net.Dial("tcp", s.proxy)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX-Piko-Endpoint: silent\r\nConnection: close\r\n\r\n")
			answer, _ := io.ReadAll(c)
			var status int
			_, _ = fmt.Sscanf(string(answer), "HTTP/1.1 %d", &status)
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
		})
	}
	latencies(t, s, "fine", 100)
	wg.Wait()
	if statuses[http.StatusGatewayTimeout] < each || statuses[http.StatusGatewayTimeout]+statuses[http.StatusServiceUnavailable] != 10*each {
		t.Errorf("the clients got %v after %v", statuses, time.Since(began))
	}
}

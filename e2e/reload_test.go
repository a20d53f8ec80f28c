//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// paced is a load of some fifty GETs a second of each client.
func paced(int) exchange {
	<-time.After(20 * time.Millisecond)
	return exchange{method: http.MethodGet, target: "/"}
}

// writeConfig replaces a configuration file at once.
func writeConfig(t testing.TB, path, format string, args ...any) {
	t.Helper()
	if err := os.WriteFile(path+".new", fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// postReload asks an admin port for a reload and returns the status, and the error if there
// is one.
func postReload(t testing.TB, addr string) (status int, text string) {
	t.Helper()
	res, err := http.Post("http://"+addr+"/status/reload", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct{ Error string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer.Error
}

// TestReloadUnderLoad changes the configuration of a node and of an agent, by signal and by
// request, and with a mistake, and wants no request to fail.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	serverConfig, agentConfig := filepath.Join(dir, "server.yaml"), filepath.Join(dir, "agent.yaml")
	one, two := startOrigin(t, "one"), startOrigin(t, "two")
	writeConfig(t, serverConfig, "log: {level: info}\n")
	s := startServer(t, "--config.path", serverConfig, "--proxy.access-log.disable")
	own := freeAddr(t)
	const head = "connect: {url: 'http://%s'}\nserver: {enabled: true, bind_addr: '%s'}\nlisteners:\n" +
		"  - {endpoint_id: stays, addr: '%s', access_log: {disable: true}}\n" +
		"  - {endpoint_id: moves, addr: '%s', access_log: {disable: true}}\n"
	listeners := func(moves *origin, more string) {
		t.Helper()
		writeConfig(t, agentConfig, head+"%s", s.upstream, own, one.addr, moves.addr, more)
	}
	listeners(one, "")
	agent := start(t, "agent", nil, pikoBinary, "agent", "start", "--config.path", agentConfig)
	t.Cleanup(agent.checkLog)
	s.waitUpstreams(t, "stays", 1, 10*time.Second)
	s.waitUpstreams(t, "moves", 1, 10*time.Second)
	stays, moves := startLoad(s, "stays", 2, paced), startLoad(s, "moves", 2, paced)

	for i, to := range []*origin{two, one, two} {
		seen := to.requests.Load()
		more := fmt.Sprintf("  - {endpoint_id: extra-%d, addr: '%s'}\n", i, one.addr)
		listeners(to, more)
		writeConfig(t, serverConfig, "log: {level: %s}\nproxy: {deny: [10.0.0.%d]}\n", []string{"debug", "info"}[i%2], i)
		if i == 1 {
			s.signal(t, syscall.SIGHUP)
			agent.signal(t, syscall.SIGHUP)
		} else {
			for _, addr := range []string{s.admin, own} { // what is applied may have been seen in the file before
				if status, text := postReload(t, addr); status != http.StatusOK {
					t.Errorf("%s answers %d %s", addr, status, text)
				}
			}
		}
		to.waitRequests(t, seen+20)
		s.waitUpstreams(t, "moves", 1, 10*time.Second) // the old one has left
		s.waitUpstreams(t, fmt.Sprint("extra-", i), 1, 10*time.Second)
		if i > 0 {
			s.waitUpstreams(t, fmt.Sprint("extra-", i-1), 0, 10*time.Second)
		}
		s.waitLog(t, "what it took over", "configuration reloaded", "proxy.deny", "log.level")
		agent.waitLog(t, "what it took over", "configuration reloaded", "changed moves", fmt.Sprint("added extra-", i))
	}

	writeConfig(t, agentConfig, "listeners: [{endpoint_id: stays}]\n")
	writeConfig(t, serverConfig, "prox: 1\n")
	for who, addr := range map[*process]string{s.process: s.admin, agent: own} {
		if status, text := postReload(t, addr); status != http.StatusUnprocessableEntity {
			t.Errorf("%s takes a configuration with a mistake: %d %s", who.name, status, text)
		}
	}
	stays.waitMore(t, 20)
	moves.waitMore(t, 20)
	for _, p := range []*process{s.process, agent} {
		// Once; twice if it saw the file before it was asked.
		if got := p.grep("configuration not reloaded"); len(got) == 0 || len(got) > 2 {
			t.Errorf("%s logs the mistake %d times: %q", p.name, len(got), got)
		}
	}
	stays.end(t)
	moves.end(t)
	for _, want := range []string{"one", "two"} {
		if moves.by[want] == 0 {
			t.Errorf("nothing was sent to %s: %v", want, moves.by)
		}
	}
}

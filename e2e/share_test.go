//go:build e2e

package e2e

import (
	"syscall"
	"testing"
	"time"
)

// twoAgents starts a node with two agents on one endpoint, each before a service of its own.
func twoAgents(t testing.TB) (s *server, one, two *process) {
	t.Helper()
	s = startServer(t)
	one = s.agent(t, "e", startOrigin(t, "one").addr)
	two = s.agent(t, "e", startOrigin(t, "two").addr)
	return s, one, two
}

func TestTwoAgentsShareTheLoad(t *testing.T) {
	s, _, _ := twoAgents(t)
	// The services take the same time, so that a busy machine, which makes one agent slower and
	// so rightly gets it fewer requests, counts for little.
	l := startLoad(s, "e", 16, func(int) exchange { return exchange{method: "GET", target: "/slow?d=20ms"} })
	l.waitMore(t, 1500)
	l.end(t)
	for _, name := range []string{"slow one", "slow two"} {
		if share := float64(l.by[name]) / float64(l.done); share < 0.35 {
			t.Errorf("%s got %.0f %% of the requests, want about half", name, 100*share)
		}
	}
	// Also one request after the other.
	l = startLoad(s, "e", 1, gets)
	l.waitMore(t, 500)
	l.end(t)
	if l.by["one"] < l.done/4 || l.by["two"] < l.done/4 {
		t.Errorf("one client's requests went to %v, want about half to each", l.by)
	}
}

// TestAgentKilledUnderLoad kills one of two agents, several times: every GET can be tried
// again with the other, so none may fail.
func TestAgentKilledUnderLoad(t *testing.T) {
	s, _, two := twoAgents(t)
	l := startLoad(s, "e", 64, gets)
	for range 5 {
		l.waitMore(t, 3000)
		two.kill(t)
		l.waitMore(t, 2000)
		s.waitUpstreams(t, "e", 1, time.Second)
		two = s.agent(t, "e", startOrigin(t, "two").addr)
	}
	l.end(t)
	wantShare(t, l)
}

// TestAgentKilledWithRequestsInFlight is the same with requests that take a while, so that
// many are in flight at the agent that dies.
func TestAgentKilledWithRequestsInFlight(t *testing.T) {
	s, _, two := twoAgents(t)
	l := startLoad(s, "e", 64, func(int) exchange { return exchange{method: "GET", target: "/slow?d=100ms"} })
	for range 3 {
		l.waitMore(t, 500)
		two.kill(t)
		l.waitMore(t, 200)
		two = s.agent(t, "e", startOrigin(t, "two").addr)
	}
	l.end(t)
}

// TestAgentStoppedUnderLoad stops one of two agents with SIGTERM, several times: requests of
// any method go on without a failure, and the agent ends by itself.
func TestAgentStoppedUnderLoad(t *testing.T) {
	s, _, two := twoAgents(t)
	l := startLoad(s, "e", 64, mixed)
	for range 5 {
		l.waitMore(t, 3000)
		two.stop(t, 10*time.Second)
		l.waitMore(t, 1000)
		two = s.agent(t, "e", startOrigin(t, "two").addr)
	}
	l.end(t)
	wantShare(t, l)
}

// TestAgentStopFinishesRequests wants what an agent has begun to be finished, when it is
// the only one.
func TestAgentStopFinishesRequests(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	a := s.agent(t, "e", o.addr)
	answers := inFlight(t, s, o, "/slow?d=3s", "/slow-body?d=3s")
	a.stop(t, 15*time.Second)
	for range 2 {
		if r := <-answers; r.code != 0 || r.stdout != "slow origin" && r.stdout != "first halfother half" {
			t.Errorf("curl ended with status %d, %q %s", r.code, r.stdout, r.stderr)
		}
	}
}

// TestAgentFrozen stops an agent with SIGSTOP, so that it is silent without any packet that
// says so: requests go to the other at once or after their time-out, and the tunnel is gone
// after 15 s at most.
func TestAgentFrozen(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--proxy.timeout", "3s")
	s.agent(t, "e", startOrigin(t, "one").addr)
	two := s.agent(t, "e", startOrigin(t, "two").addr)
	two.signal(t, syscall.SIGSTOP)
	began := time.Now()
	l := startLoad(s, "e", 4, func(int) exchange {
		<-time.After(20 * time.Millisecond)
		return gets(0)
	})
	s.waitUpstreams(t, "e", 1, 16*time.Second)
	t.Logf("the tunnel was gone after %v", time.Since(began).Round(100*time.Millisecond))
	close(l.stop)
	l.wg.Wait()
	t.Logf("meanwhile %d requests of which %d failed: %q", l.done, l.failed, l.failures)
	// Until its time-out, a request at the frozen agent cannot be told from one at a slow
	// service; but the agent must not go on getting them: four clients, few times.
	if l.failed > 16 || l.by["one"] < 100 {
		t.Errorf("%d requests failed and %d succeeded, want few failures: a frozen agent is avoided", l.failed, l.by["one"])
	}
	two.signal(t, syscall.SIGCONT)
	s.waitUpstreams(t, "e", 2, 15*time.Second)
}

func wantShare(t testing.TB, l *load) {
	t.Helper()
	if l.by["one"] == 0 || l.by["two"] == 0 {
		t.Errorf("requests went to %v, so the test proves nothing", l.by)
	}
}

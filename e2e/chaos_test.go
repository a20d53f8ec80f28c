//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	streamKinds = []kind{kindEvents, kindDownload, kindWebSocket}
	allKinds    = []kind{kindGet, kindPost, kindEvents, kindDownload, kindWebSocket}
)

// secretFlags make nodes encrypt what they say to each other. Half of the scenarios have them.
var secretFlags = []string{"--cluster.secret", clusterSecret}

// rounds runs a scenario once, or three times in a long run.
func rounds(t *testing.T, scenario func(t *testing.T)) {
	for i := range pick(1, 3) {
		t.Run(fmt.Sprintf("round %d", i+1), scenario)
	}
}

// TestRollingRestartOfNodes ends every node and starts it again, one after the other. It
// excuses nothing: no request may be lost and no stream be cut.
func TestRollingRestartOfNodes(t *testing.T) {
	rounds(t, func(t *testing.T) {
		x := startChaos(t, startCluster(t, clusterOptions{}))
		x.restartNodes(0)
		x.finish()
	})
}

// TestRollingRestartOfAgents is the same with the agents.
func TestRollingRestartOfAgents(t *testing.T) {
	rounds(t, func(t *testing.T) {
		x := startChaos(t, startCluster(t, clusterOptions{server: secretFlags}))
		for _, a := range x.agents {
			x.end(t, a.process)
			x.startAgent(a)
			x.waitWhole(t, 15*time.Second)
			x.quiet(time.Second)
		}
		x.finish()
	})
}

// restartNodes is a rolling restart that waits, as a careful supervisor does, until each node
// is ready again, and then for the given time.
func (x *chaos) restartNodes(pause time.Duration) {
	x.t.Helper()
	x.base = nil // the processes before hold other things
	for _, n := range x.nodes {
		x.end(x.t, n.process)
		x.startNode(n)
		n.waitReady(x.t)
		x.lb.waitUp(x.t, n.id)
		x.quiet(pause)
	}
}

// TestKillNodes kills every node, one after the other, while requests go in through the
// others: no GET is lost, and no POST of which the killed node had nothing.
func TestKillNodes(t *testing.T) {
	rounds(t, func(t *testing.T) {
		x := startChaos(t, startCluster(t, clusterOptions{server: secretFlags}))
		x.base = nil
		for i, n := range x.nodes {
			x.load.enter(t, x.lb.without[i])
			<-time.After(rand.N(500 * time.Millisecond))
			killed := time.Now()
			n.kill(t)
			x.excuseKill(i, killed, n.exitedAt)
			t.Logf("%s was killed at %s and gone %v later", n.id, clock(killed), n.exitedAt.Sub(killed))
			x.quiet(2 * time.Second)
			x.startNode(n)
			n.waitReady(t)
			x.load.enter(t, n.proxy) // it is a node like any other at once
			x.quiet(500 * time.Millisecond)
			x.lb.waitUp(t, n.id)
		}
		x.finish()
		x.wantLostAt()
	})
}

// wantLostAt wants the log to say of each POST that was lost that it had gone to the node
// which was killed at that time.
func (x *chaos) wantLostAt() {
	x.t.Helper()
	logs := x.logs()
	for _, r := range x.load.records {
		i := slices.Index(x.lb.without, r.Entry)
		if r.Kind != kindPost || r.Failure == "" || i < 0 {
			continue
		}
		if said := evidence(logs, nil, r.ID); !strings.Contains(said, `"node":"`+x.nodes[i].id+`"`) {
			x.t.Errorf("%s was lost although it had nothing to do with %s: %s\n%s", r.ID, x.nodes[i].id, r.outcome(), said)
		}
	}
}

// noticed is how long after its end a process may still be sent the first byte of a POST: the
// kernel has told the others by then, but a busy machine may not have let them read it.
const noticed = 200 * time.Millisecond

// excuseKill declares what the death of a node breaks: the POSTs that it had a part of, and
// the streams that went through it.
func (x *chaos) excuseKill(i int, from, gone time.Time) {
	to, staying := gone.Add(noticed), []string{x.lb.without[i]}
	name := "kill of " + x.nodes[i].id
	x.excuse(name, from, to, staying, []kind{kindPost}, fail502)
	x.excuse(name, from, to, staying, streamKinds, failTruncated)
	// Streams that went in before may have done so through the node itself.
	x.excuse(name, from, to, x.entriesBut(staying[0]), streamKinds, failTruncated, failReset, fail502)
	x.healed = to
}

// entriesBut returns all entries but one.
func (x *chaos) entriesBut(but string) (all []string) {
	for _, e := range append([]string{x.lb.all}, x.lb.without...) {
		if e != but {
			all = append(all, e)
		}
	}
	for _, n := range x.nodes {
		all = append(all, n.proxy)
	}
	return all
}

// TestFreezeNode stops a node with SIGSTOP for 20 s, while requests go in through the others:
// each GET is answered within 3 s, each POST too, if only with 502 for those that the frozen
// node had a part of. Afterwards the node serves within 3 s.
func TestFreezeNode(t *testing.T) {
	rounds(t, func(t *testing.T) {
		x := startChaos(t, startCluster(t, clusterOptions{}))
		i := rand.IntN(len(x.nodes))
		n, staying := x.nodes[i], x.lb.without[i]
		x.load.enter(t, staying)
		x.limit[kindGet], x.limit[kindPost] = 3*time.Second, 3*time.Second

		frozen := time.Now()
		n.signal(t, syscall.SIGSTOP)
		t.Logf("%s was stopped at %s", n.id, clock(frozen))
		x.quiet(20 * time.Second)
		n.signal(t, syscall.SIGCONT)
		back := time.Now()
		x.quiet(time.Until(back.Add(3 * time.Second)))
		x.load.enter(t, n.proxy)
		x.quiet(time.Second)
		x.lb.waitUp(t, n.id)
		x.waitWhole(t, 15*time.Second)

		const silent = 3 * time.Second // until a node that fell silent gets nothing more
		x.excuse("freeze", frozen, frozen.Add(silent), []string{staying}, []kind{kindPost}, fail502)
		x.excuse("freeze", frozen, frozen.Add(silent), []string{staying}, streamKinds, failTruncated)
		x.excuse("freeze", frozen, back.Add(silent), x.entriesBut(staying), streamKinds, failTruncated, failReset, fail502)
		x.healed = back
		x.finish()
	})
}

// TestRestartEverything restarts all nodes and agents at once: within 3 s of the return of
// the last node everything is as before.
func TestRestartEverything(t *testing.T) {
	for i, sig := range pick([]syscall.Signal{syscall.SIGKILL}, []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL}) {
		t.Run(fmt.Sprintf("round %d %v", i+1, sig), func(t *testing.T) { restartEverything(t, sig) })
	}
}

func restartEverything(t *testing.T, sig syscall.Signal) {
	x := startChaos(t, startCluster(t, clusterOptions{server: secretFlags}))
	x.base = nil
	began := time.Now()
	for _, n := range x.nodes {
		n.signal(t, sig)
	}
	for _, a := range x.agents {
		a.signal(t, sig)
	}
	for _, n := range x.nodes {
		n.wait(t, grace+15*time.Second)
	}
	for _, a := range x.agents {
		a.wait(t, grace+15*time.Second)
		x.startAgent(a)
	}
	for _, n := range x.nodes {
		x.startNode(n)
	}
	for _, n := range x.nodes {
		n.waitReady(t)
	}
	x.healed = time.Now()
	t.Logf("all got %v at %s, all nodes were ready at %s", sig, clock(began), clock(x.healed))
	x.excuse("restart of everything", began, x.healed.Add(3*time.Second), nil, allKinds, failReset, failTruncated, failRefused, fail502, fail503)
	x.waitWhole(t, 15*time.Second)
	x.quiet(time.Until(x.healed.Add(5 * time.Second)))
	x.finish()
}

//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// chaos is one run of a cluster under load and faults, and what is known of it.
type chaos struct {
	*cluster
	t       testing.TB
	load    *traffic
	windows []window
	healed  time.Time
	limit   map[kind]time.Duration
	base    map[string]usage // of nodes that are never restarted, by name
	want    map[kind]int
}

// usage is what a process holds.
type usage struct{ goroutines, files int }

// streamTime is how long a stream of a run takes at most.
func streamTime() time.Duration { return pick(6*time.Second, 20*time.Second) }

// startChaos puts a cluster under load.
func startChaos(t testing.TB, c *cluster) *chaos {
	t.Helper()
	return startChaosWith(t, c, streamTime())
}

// startChaosWith is startChaos with another length of streams; 0 is no streams.
func startChaosWith(t testing.TB, c *cluster, streams time.Duration) *chaos {
	t.Helper()
	x := &chaos{cluster: c, t: t, want: map[kind]int{}, limit: map[kind]time.Duration{kindGet: 10 * time.Second, kindPost: 10 * time.Second}}
	x.base = x.usage()
	x.load = startTraffic(newSeed(t), c.lb.all, c.endpoints, streams, (&net.Dialer{Timeout: 5 * time.Second}).DialContext)
	for _, k := range streamKinds {
		if streams > 0 {
			x.want[k] = streamsPerKind
		}
	}
	x.quiet(2 * time.Second)
	return x
}

// quiet lets the load go on for a while without a fault.
func (x *chaos) quiet(d time.Duration) { <-time.After(d) }

// excuse declares that a fault may break requests that are under way at some time of the
// window, in the given ways.
func (x *chaos) excuse(name string, from, to time.Time, entries []string, kinds []kind, failures ...failure) {
	x.windows = append(x.windows, window{Name: name, From: from, To: to, Entries: entries, Kinds: kinds, Failures: failures})
}

// finish lets the load go on until there were enough requests, ends it and judges the run.
func (x *chaos) finish() {
	x.t.Helper()
	enough := pick(1500, 4000)
	eventually(x.t, 60*time.Second, "there were enough requests", func() error {
		if n := x.load.succeeded(); n < enough {
			return fmt.Errorf("%d of %d", n, enough)
		}
		return nil
	})
	x.load.end()
	x.want[kindGet], x.want[kindPost] = enough/3, enough/3
	h := history{
		Issued: x.load.issued, Requests: x.load.records, Executions: x.ledger.all(x.t),
		Windows: x.windows, Healed: x.healed, Want: x.want, Limit: x.limit,
	}
	x.report(h)
	x.wantNoLeak()
}

// report fails the test with what the checker found, and what the logs say about it.
func (x *chaos) report(h history) {
	x.t.Helper()
	x.t.Log(summary(h))
	violations := h.violations()
	if len(violations) == 0 {
		return
	}
	x.t.Errorf("%d violations", len(violations))
	logs := x.logs()
	shown := map[string]int{}
	for _, v := range violations {
		k, _, _ := strings.Cut(v.What, " ")
		if shown[k]++; shown[k] > 4 {
			continue
		}
		x.t.Errorf("%v", v)
		if v.ID != "" {
			x.t.Log(evidence(logs, h.Executions, v.ID))
		}
	}
	keepLogs(x.t, logs)
}

// logs returns the lines of all processes of the run, by name.
func (x *chaos) logs() map[string][]string {
	logs := map[string][]string{}
	for i, p := range x.processes {
		name := fmt.Sprintf("%s.%d", p.name, i)
		logs[name] = strings.Split(p.readOutput(), "\n")
	}
	return logs
}

// keepEnv names a directory where the logs of runs with violations are kept.
const keepEnv = "PIKO_E2E_KEEP"

func keepLogs(t testing.TB, logs map[string][]string) {
	dir := os.Getenv(keepEnv)
	if dir == "" {
		return
	}
	for name, lines := range logs {
		writeFile(t, dir, strings.ReplaceAll(t.Name(), "/", "-")+"-"+name+".log", strings.Join(lines, "\n"))
	}
}

// evidence is what is known of a request.
func evidence(logs map[string][]string, executions []execution, id string) string {
	var b strings.Builder
	for _, e := range executions {
		if e.ID == id {
			fmt.Fprintf(&b, "service %s at %s: received %.8s, answered %.8s\n", e.Service, clock(e.At), e.Received, e.Answer)
		}
	}
	for name, lines := range logs {
		for _, l := range lines {
			if strings.Contains(l, `"`+id+`"`) || strings.Contains(l, "{"+id+"}") {
				fmt.Fprintf(&b, "%s: %.900s\n", name, l)
			}
		}
	}
	return b.String()
}

// summary says how many requests of each kind there were, how they ended and how long they took.
func summary(h history) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests, %d executions", h.Issued, len(h.Executions))
	for _, k := range []kind{kindGet, kindPost, kindEvents, kindDownload, kindWebSocket} {
		var took []time.Duration
		failures := map[failure]int{}
		for _, r := range h.Requests {
			if r.Kind != k {
				continue
			}
			took = append(took, r.End.Sub(r.Start).Round(time.Millisecond))
			if r.Failure != "" {
				failures[r.Failure]++
			}
		}
		if slices.Sort(took); len(took) > 0 {
			fmt.Fprintf(&b, "\n%-9s %5d, p50 %v, p99 %v, max %v, failed %v", k, len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1], failures)
		}
	}
	for _, w := range h.Windows {
		fmt.Fprintf(&b, "\nfault %s from %s to %s: %v of %v", w.Name, clock(w.From), clock(w.To), w.Failures, w.Kinds)
	}
	return b.String()
}

// usage returns what each node holds that runs.
func (x *chaos) usage() map[string]usage {
	all := map[string]usage{}
	for _, n := range x.nodes {
		if n.process == nil || !n.running() {
			continue
		}
		g, err := n.goroutines()
		if err != nil {
			continue
		}
		files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.cmd.Process.Pid))
		all[n.id] = usage{g, len(files)}
	}
	return all
}

// slack is how much more a node may hold after a run than before: streams and connections to
// the other nodes that were opened under load and are kept for a while. In a long run there is
// the time to wait for their end.
func slack() int { return pick(100, 20) }

// wantNoLeak wants the nodes to hold, soon after the load, what they held before it. Where
// they were restarted the numbers before are those of the processes before.
func (x *chaos) wantNoLeak() {
	x.t.Helper()
	defer func() {
		for _, n := range x.nodes {
			if x.t.Failed() && n.running() {
				profile, _ := fetch("http://" + n.admin + "/debug/pprof/goroutine?debug=1")
				x.t.Logf("the goroutines of %s: %.6000s", n.id, profile)
			}
		}
	}()
	eventually(x.t, pick(30*time.Second, 4*time.Minute), "the nodes hold no more goroutines and files than before the load", func() error {
		now := x.usage()
		for id, before := range x.base {
			if u, ok := now[id]; !ok || u.goroutines > before.goroutines+slack() || u.files > before.files+slack() {
				return fmt.Errorf("%s: before %+v, now %+v", id, before, u)
			}
		}
		return nil
	})
}

package upstreamconn

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/tunnel"
)

func TestShedDecision(t *testing.T) {
	fifth := Rebalance{Threshold: 0.2, ShedRate: 0.005, MinConns: 50}
	fast := Rebalance{Threshold: 0.2, ShedRate: 1, MinConns: 50}
	for _, c := range []struct {
		name    string
		r       Rebalance
		own     int
		average float64
		seconds int // in which own stays what it is
		want    int // asked in all
	}{
		{"off", Rebalance{ShedRate: 1}, 1000, 10, 10, 0},
		{"no rate", Rebalance{Threshold: 0.2}, 1000, 10, 10, 0},
		{"negative rate", Rebalance{Threshold: 0.2, ShedRate: -1}, 1000, 10, 10, 0},
		{"average", fifth, 100, 100, 10, 0},
		{"below the threshold", fifth, 119, 100, 10, 0},
		{"at the threshold", fifth, 120, 100, 10, 0},
		{"above, first second: half a tunnel", fifth, 130, 100, 1, 0},
		{"above, one each two seconds", fifth, 130, 100, 10, 5},
		{"above, one a second", fifth, 300, 200, 10, 10},
		{"large", fifth, 20_000, 10_000, 10, 500},
		{"few have no share to give", fifth, 50, 10, 10, 0},
		{"never below min-conns", fast, 53, 40, 1, 3},
		{"never below the threshold", fast, 130, 100, 1, 10},
		{"part of a tunnel above the threshold", fast, 122, 101, 1, 1},
		{"as much as there is too much", fast, 1000, 100, 1, 100},
		{"no average", fast, 1000, 0, 10, 0},
		{"average that is none", fast, 1000, math.NaN(), 10, 0},
		{"average without end", fast, 1000, math.Inf(1), 10, 0},
		{"negative average", fast, 1000, -1, 10, 0},
		{"none", fast, 0, 100, 10, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked, carry, n := 0, 0.0, 0
			for range c.seconds {
				n, carry = c.r.shed(c.own, c.average, carry)
				asked += n
				if carry < 0 || carry >= 1 {
					t.Fatalf("%v are left over", carry)
				}
			}
			if asked != c.want {
				t.Errorf("%d asked, want %d", asked, c.want)
			}
		})
	}
}

// balanced opens tunnels to a node that takes the average for avg, and returns
// a balancer that nobody runs.
func balanced(t *testing.T, avg float64, r Rebalance) (*node, *balancer) {
	t.Helper()
	n := startNode(t, func(s *Server) {
		s.second = time.Hour
		s.Average = func() float64 { return avg }
		s.Rebalance = r
	})
	return n, newBalancer(n.Server)
}

// dialInstances opens a tunnel of each instance, which says when it is asked.
func dialInstances(t *testing.T, n *node, asked chan<- string, instances ...string) {
	t.Helper()
	before := n.Tunnels()
	for _, id := range instances {
		d := tunnel.Dialer{URL: n.url, Instance: id, Options: tunnel.Options{Events: tunnel.Events{
			Drain: func(m tunnel.DrainMessage) { asked <- id + " " + m.Reason },
		}}}
		sess, err := d.Dial(t.Context(), "endpoint")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sess.Close() })
	}
	n.waitFor(t, "endpoint", before+len(instances))
}

func TestNobodyIsAskedTwiceWithinAMinute(t *testing.T) {
	n, b := balanced(t, 1, Rebalance{Threshold: 0.2, ShedRate: 100, MinConns: 1})
	asked := make(chan string, 100)
	dialInstances(t, n, asked, "a", "b", "c")
	now := time.Now()
	b.balance(t.Context(), now)
	for range 2 { // one stays
		if got := <-asked; got != "a rebalance" && got != "b rebalance" && got != "c rebalance" {
			t.Errorf("asked: %s", got)
		}
	}
	for _, l := range n.waitFor(t, "endpoint", 3) {
		if l.Draining() {
			t.Error("an upstream that was asked for the balance is a last resort")
		}
	}
	b.balance(t.Context(), now.Add(time.Second)) // the others are on their way
	dialInstances(t, n, asked, "a", "b", "c")    // all come back to us
	for s := range 59 {
		b.balance(t.Context(), now.Add(time.Duration(s)*time.Second))
	}
	if len(b.asked) != 3 {
		t.Errorf("%d instances are remembered", len(b.asked))
	}
	<-asked // the one that had stayed
	if n := len(n.log.with("upstream asked to move")); n != 3 {
		t.Errorf("asked %d times, want each of three once", n)
	}
	b.balance(t.Context(), now.Add(2*askedAgain))
	<-asked
}

func TestDrainingNodeDoesNotRebalance(t *testing.T) {
	n, b := balanced(t, 1, Rebalance{Threshold: 0.2, ShedRate: 100, MinConns: 1})
	asked := make(chan string, 100)
	dialInstances(t, n, asked, "a", "b", "c")
	n.Drain(t.Context(), tunnel.DrainMessage{Reason: "stop"})
	b.balance(t.Context(), time.Now())
	for range 3 {
		if got := <-asked; got[2:] != "stop" {
			t.Errorf("asked: %s", got)
		}
	}
	if len(b.asked) != 0 {
		t.Error("asked for the balance")
	}
}

func TestDrainAsksThoseAgainThatWereAskedForTheBalance(t *testing.T) {
	n, b := balanced(t, 1, Rebalance{Threshold: 0.2, ShedRate: 100, MinConns: 1})
	asked := make(chan string, 100)
	dialInstances(t, n, asked, "a", "b")
	b.balance(t.Context(), time.Now())
	<-asked
	n.Drain(t.Context(), tunnel.DrainMessage{Reason: "stop"})
	for range 2 {
		if got := <-asked; got[2:] != "stop" {
			t.Errorf("asked: %s", got)
		}
	}
}

func TestOldAgentIsShedOnlyWhenIdleAndNotAtOnce(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := startNode(t, func(s *Server) {
		s.second, s.Registerer = time.Hour, reg
		s.Average = func() float64 { return 1 }
		s.Rebalance = Rebalance{Threshold: 0.2, ShedRate: 100, MinConns: 1}
	})
	b := newBalancer(n.Server)
	begun, release := make(chan struct{}), make(chan struct{})
	idle := dialOldAgent(t, n.url, "idle").serve(t, echo)
	busy := dialOldAgent(t, n.url, "busy").serve(t, slow(begun, release))
	n.waitFor(t, "idle", 1)
	result := inFlight(t, n.waitFor(t, "busy", 1)[0], begun)
	if err := n.send(http.MethodPost, "idle"); err != nil { // leaves a stream in the pool
		t.Fatal(err)
	}
	now := time.Now()
	b.balance(t.Context(), now)
	select {
	case err := <-idle:
		t.Fatalf("sent back as soon as it had come: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	b.balance(t.Context(), now.Add(askedAgain+time.Second))
	wantSentBack(t, "the idle agent", idle)
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	select {
	case err := <-busy:
		t.Errorf("the busy agent was sent back: %v", err)
	default:
	}
	wantMetric(t, reg, "piko_upstreams_shed_total", 1)
}

// Agents that are all on some of the nodes move until all have about as many,
// under load and without a failed request.
func TestRebalancingSpreadsAndLosesNothing(t *testing.T) {
	const agents = 40
	for _, c := range []struct {
		name                string
		nodes, full, tunnel int // nodes, of which so many have tunnels, and tunnels of each agent
	}{
		{"one of two nodes, one tunnel each", 2, 1, 1},
		{"two of three nodes, two tunnels each", 3, 2, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var known atomic.Bool
			tunnels := agents * c.tunnel
			n := startNodes(t, c.nodes, func(s *Server) {
				s.second = 50 * time.Millisecond
				s.ClusterSize = func() int { return c.tunnel } // how many an agent opens
				s.Rebalance = Rebalance{Threshold: 0.1, ShedRate: 0.1, MinConns: 5}
				s.Average = func() float64 {
					if !known.Load() {
						return 0
					}
					return float64(tunnels) / float64(c.nodes)
				}
			})
			n.balance(n.list[:c.full]...)
			for _, endpoint := range endpoints(agents) {
				startAgent(t, n.url, endpoint, echo)
			}
			n.settle(t, tunnels, func([]int) bool { return true })
			l := startLoad(t, n.list[0], http.MethodPost, endpoints(agents)...)
			l.more(t, agents)
			n.balance(n.list...)
			known.Store(true)
			n.settle(t, tunnels, func(list []int) bool {
				return float64(slices.Max(list)-slices.Min(list)) <= 0.4*float64(tunnels)/float64(c.nodes)
			})
			l.more(t, agents)
			t.Logf("tunnels: %v; %d requests", n.tunnels(), l.sent.Load())
		})
	}
}

// settle waits until there have been that many tunnels in all, and spread as
// wanted, for a while. It waits long: that a balancer by turns leads one of
// many agents ten times to where it is already happens in one run of 25.
func (c *nodes) settle(t *testing.T, sum int, spread func([]int) bool) {
	t.Helper()
	since := time.Now()
	within(t, 90*time.Second, func() error {
		all := 0
		list := c.tunnels()
		for _, n := range list {
			all += n
		}
		if all != sum || !spread(list) {
			since = time.Now()
		}
		if time.Since(since) < 500*time.Millisecond {
			return fmt.Errorf("tunnels: %v", list)
		}
		return nil
	})
}

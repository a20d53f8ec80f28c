package gossip

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func testLogger(t testing.TB, id string) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})).With("at", id)
}

// within fails the test unless f becomes nil in that time. It polls, which in a
// bubble costs no time.
func within(t testing.TB, d time.Duration, reason string, f func() error) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		err := f()
		if err == nil {
			return time.Since(start)
		}
		if time.Since(start) > d {
			t.Fatalf("%s: not within %v: %v", reason, d, err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// equal says what differs between what nodes serve and what the others know of it.
func equal(nodes ...*testNode) error {
	for _, a := range nodes {
		for _, b := range nodes {
			if a == b {
				continue
			}
			want, got := slices.Sorted(maps.Keys(b.undo)), []string(nil)
			for e := range a.NodeEndpoints(b.id) {
				got = append(got, e)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				return fmt.Errorf("%s knows %d endpoints of %s, which serves %d: %.200q, %.200q", a.id, len(got), b.id, len(want), got, want)
			}
			for _, e := range want {
				if !slices.Contains(a.routes(e), b.id) {
					return fmt.Errorf("%s does not route %s to %s", a.id, e, b.id)
				}
			}
		}
		if err := a.table.ConsistencyCheck(); err != nil {
			return fmt.Errorf("table of %s: %w", a.id, err)
		}
	}
	return nil
}

// statuses is "id:status" of all nodes, as n sees them.
func (n *testNode) statuses() (all []string) {
	for _, s := range n.Nodes() {
		all = append(all, s.ID+":"+s.Status)
	}
	return all
}

func (n *testNode) sees(want ...string) error {
	if got := n.statuses(); !slices.Equal(got, want) {
		return fmt.Errorf("%s sees %v, not %v", n.id, got, want)
	}
	return nil
}

func (n *testNode) routesTo(endpoint string, want ...string) error {
	if got := n.routes(endpoint); !slices.Equal(got, want) {
		return fmt.Errorf("%s routes %s to %v, not %v", n.id, endpoint, got, want)
	}
	return nil
}

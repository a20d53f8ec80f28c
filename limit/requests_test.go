package limit

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"piko/fault"
)

func newRequests(t testing.TB, l Limits, short func() bool) *Requests {
	t.Helper()
	r, err := NewRequests(l, short, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// noon is when all tests begin.
func (r *Requests) noon(after time.Duration) time.Time { return r.began.Add(time.Hour + after) }

// begun takes n requests, all of which there must be room for.
func begun(t *testing.T, r *Requests, n int, tenant, name string) []Pass {
	t.Helper()
	passes := make([]Pass, n)
	for i := range passes {
		var err error
		if passes[i], err = r.Begin(r.noon(0), tenant, name); err != nil {
			t.Fatalf("request %d of %d: %v", i+1, n, err)
		}
	}
	return passes
}

func refusedBy(t *testing.T, r *Requests, why reason, tenant, name string) {
	t.Helper()
	_, err := r.Begin(r.noon(0), tenant, name)
	if !errors.Is(err, codes[why]) || !errors.Is(err, causes[why]) {
		t.Errorf("got %v, want %v", err, causes[why])
	}
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name           string
		limits         Limits
		tenant, other  string // the endpoint is e
		why            reason
		otherIsBounded bool
	}{
		{"of the node", Limits{Requests: 3}, "", "", refusedNode, true},
		{"of an endpoint", Limits{PerEndpoint: 3}, "", "", refusedEndpoint, false},
		{"of a tenant", Limits{PerTenant: 3}, "a", "b", refusedTenant, false},
		{"of a tenant, with another endpoint", Limits{PerTenant: 3}, "a", "a", refusedTenant, true},
		{"the smallest counts", Limits{Requests: 9, PerEndpoint: 3, PerTenant: 6}, "a", "b", refusedEndpoint, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRequests(t, tt.limits, nil)
			passes := begun(t, r, 3, tt.tenant, tt.tenant+"/e")
			refusedBy(t, r, tt.why, tt.tenant, tt.tenant+"/e")
			if tt.otherIsBounded {
				refusedBy(t, r, tt.why, tt.other, tt.other+"/f")
			} else {
				passes = append(passes, begun(t, r, 3, tt.other, tt.other+"/f")...)
			}
			passes[0].End()
			passes[0] = begun(t, r, 1, tt.tenant, tt.tenant+"/e")[0] // and no more:
			refusedBy(t, r, tt.why, tt.tenant, tt.tenant+"/e")
			for _, p := range passes {
				p.End()
			}
			begun(t, r, 3, tt.tenant, tt.tenant+"/e")
		})
	}
}

// TestRatesAreTokenBuckets: what comes after a rest, what comes steadily, and when to come back.
func TestRatesAreTokenBuckets(t *testing.T) {
	for _, tt := range []struct {
		name    string
		rate    Rate
		burst   int           // that may come at once
		every   time.Duration // a token
		seconds int           // of Retry-After right after a burst
	}{
		{"with its burst", Rate{PerSecond: 10, Burst: 25}, 25, 100 * time.Millisecond, 1},
		{"with the burst of a second", Rate{PerSecond: 10}, 10, 100 * time.Millisecond, 1},
		{"slower than one a second", Rate{PerSecond: 0.25}, 1, 4 * time.Second, 4},
		{"one at a time", Rate{PerSecond: 1000, Burst: 1}, 1, time.Millisecond, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, limits := range []Limits{{EndpointRate: tt.rate}, {TenantRate: tt.rate}} {
				r := newRequests(t, limits, nil)
				take := func(at time.Duration) error {
					p, err := r.Begin(r.noon(at), "a", "a/e")
					p.End()
					return err
				}
				for i := range tt.burst {
					if err := take(0); err != nil {
						t.Fatalf("request %d of the burst: %v", i+1, err)
					}
				}
				err := take(0)
				if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != fault.RateLimited || f.RetryAfter <= 0 || f.RetryAfter > time.Duration(tt.seconds)*time.Second {
					t.Fatalf("beyond the burst: %v", err)
				}
				for i := range 5 {
					at := time.Duration(i+1) * tt.every
					if take(at-time.Nanosecond) == nil {
						t.Errorf("a token before %v", at)
					}
					if err := take(at); err != nil {
						t.Errorf("no token after %v: %v", at, err)
					}
				}
				if err := take(time.Hour); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestOneEndpointsFloodIsNotItsNeighbours (H11): of two endpoints and two tenants, one floods.
func TestOneEndpointsFloodIsNotItsNeighbours(t *testing.T) {
	r := newRequests(t, Limits{PerEndpoint: 10, PerTenant: 20, EndpointRate: Rate{PerSecond: 100}, TenantRate: Rate{PerSecond: 200}}, nil)
	refused := 0
	for range 100_000 {
		if _, err := r.Begin(r.noon(0), "bad", "bad/e"); err != nil {
			refused++
		}
	}
	if refused != 100_000-10 {
		t.Errorf("%d requests of the flood were refused", refused)
	}
	for i := range 10 {
		p, err := r.Begin(r.noon(0), "good", "good/e")
		if err != nil {
			t.Fatalf("request %d of the other tenant: %v", i, err)
		}
		p.End()
	}
}

// TestARefusalTakesNothing: a request that one limit refuses counts for no other.
func TestARefusalTakesNothing(t *testing.T) {
	r := newRequests(t, Limits{Requests: 100, PerEndpoint: 100, PerTenant: 1, EndpointRate: Rate{PerSecond: 1, Burst: 5}}, nil)
	p := begun(t, r, 1, "a", "a/e")[0]
	for range 1000 {
		refusedBy(t, r, refusedTenant, "a", "a/e")
	}
	p.End()
	for range 4 { // what is left of the burst
		p, err := r.Begin(r.noon(0), "a", "a/e")
		if err != nil {
			t.Fatal(err)
		}
		p.End()
	}
	if n := r.node.Load(); n != 0 {
		t.Errorf("%d requests in flight at the end", n)
	}
}

func TestShortMemoryRefusesAll(t *testing.T) {
	var short atomic.Bool
	reg := prometheus.NewPedanticRegistry()
	r, err := NewRequests(Limits{}, short.Load, reg)
	if err != nil {
		t.Fatal(err)
	}
	begun(t, r, 1, "", "e")
	short.Store(true)
	refusedBy(t, r, refusedMemory, "", "e")
	short.Store(false)
	begun(t, r, 1, "", "e")
	if n := testutil.ToFloat64(r.metrics.refused[refusedMemory]); n != 1 {
		t.Errorf("counted %v", n)
	}
	if _, err := NewRequests(Limits{}, nil, reg); err == nil {
		t.Error("the metrics were registered twice")
	}
}

// TestLimitsCanChange: also while requests are in flight that were counted, or not.
func TestLimitsCanChange(t *testing.T) {
	r := newRequests(t, Limits{}, nil)
	uncounted := begun(t, r, 2, "a", "a/e")
	r.Set(Limits{Requests: 1, PerEndpoint: 1, PerTenant: 1})
	counted := begun(t, r, 1, "a", "a/e")
	refusedBy(t, r, refusedNode, "a", "a/e")
	r.Set(Limits{})
	for _, p := range append(uncounted, counted...) {
		p.End()
	}
	r.Set(Limits{Requests: 1, PerEndpoint: 1, PerTenant: 1})
	begun(t, r, 1, "a", "a/e")
	refusedBy(t, r, refusedNode, "a", "a/e")
}

// TestNoNameIsKeptThatNobodyServes (H10), and of those that are served none longer than needed.
func TestNoNameIsKeptThatNobodyServes(t *testing.T) {
	r := newRequests(t, Limits{PerEndpoint: 10, EndpointRate: Rate{PerSecond: 1000, Burst: 10}}, nil)
	for range 100_000 {
		p, err := r.Begin(r.noon(0), "", "")
		if err != nil {
			t.Fatal(err)
		}
		p.End()
	}
	if n := r.endpoints.len(); n != 0 {
		t.Errorf("%d entries for names that nobody serves", n)
	}
	const names = 20_000
	for i := range names { // each at a time when those before are forgettable
		p, err := r.Begin(r.noon(time.Duration(i)*time.Millisecond), "", fmt.Sprint("e", i))
		if err != nil {
			t.Fatal(err)
		}
		p.End()
	}
	if n := r.endpoints.len(); n > shardCount*(minSweep+1) {
		t.Errorf("%d entries for %d names that are at rest", n, names)
	}
	for i := range names {
		if _, err := r.Begin(r.noon(time.Minute), "", fmt.Sprint("e", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.endpoints.len(); n < names {
		t.Errorf("%d entries for %d names with requests in flight", n, names)
	}
}

// TestCountsAreExactUnderLoad: no more than the limit is in flight at any time, and nothing is left over.
func TestCountsAreExactUnderLoad(t *testing.T) {
	const most = 4
	r := newRequests(t, Limits{Requests: 2 * most, PerEndpoint: most, PerTenant: most}, nil)
	var wg sync.WaitGroup
	var now [2]atomic.Int64
	for g := range 8 {
		wg.Go(func() {
			which := g % 2
			name := fmt.Sprint("e", which)
			for range 5000 {
				p, err := r.Begin(time.Now(), name, name)
				if err != nil {
					continue
				}
				if n := now[which].Add(1); n > most {
					t.Errorf("%d requests in flight", n)
				}
				runtime.Gosched()
				now[which].Add(-1)
				p.End()
			}
		})
	}
	wg.Wait()
	for i := range now {
		for range most {
			if _, err := r.Begin(time.Now(), "", fmt.Sprint("e", i)); err != nil {
				t.Errorf("after all have ended: %v", err)
			}
		}
	}
}

func TestRulesOfOddRates(t *testing.T) {
	for _, r := range []Rate{
		{PerSecond: math.SmallestNonzeroFloat64}, {PerSecond: math.MaxFloat64}, {PerSecond: 1e-9, Burst: math.MaxInt},
		{PerSecond: math.Inf(1)}, {PerSecond: math.NaN()}, {PerSecond: -1}, {PerSecond: 1, Burst: -1}, {PerSecond: 1, Burst: math.MaxInt},
	} {
		to := newRule(0, r)
		var e entry
		for _, now := range []int64{0, int64(time.Hour), int64(100 * 365 * 24 * time.Hour)} {
			if to.interval == 0 {
				continue
			}
			if after, ok := e.take(to, now); !ok {
				t.Errorf("%+v: a full bucket had no token, the next one comes in %v", r, after)
			}
		}
		if to.interval < 0 || to.burst < 0 {
			t.Errorf("%+v: %+v", r, to)
		}
	}
}

func TestBeginCostsNoMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	r := newRequests(t, Limits{Requests: 10, PerEndpoint: 10, PerTenant: 10, EndpointRate: Rate{PerSecond: 1e9}, TenantRate: Rate{PerSecond: 1e9}}, nil)
	if n := testing.AllocsPerRun(1000, func() {
		p, err := r.Begin(time.Now(), "a", "a/e")
		if err != nil {
			t.Fatal(err)
		}
		p.End()
	}); n != 0 {
		t.Errorf("%v allocations for each request", n)
	}
}

func BenchmarkBegin(b *testing.B) {
	for _, bb := range []struct {
		name   string
		limits Limits
	}{
		{"off", Limits{}},
		{"in flight", Limits{Requests: 1 << 20, PerEndpoint: 1 << 20}},
		{"all", Limits{Requests: 1 << 20, PerEndpoint: 1 << 20, PerTenant: 1 << 20, EndpointRate: Rate{PerSecond: 1e9}, TenantRate: Rate{PerSecond: 1e9}}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			r := newRequests(b, bb.limits, nil)
			now := time.Now()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p, err := r.Begin(now, "a", "a/e")
					if err != nil {
						b.Fatal(err)
					}
					p.End()
				}
			})
		})
	}
}

// TestRateIsReplaced: what is owed to a rate is not owed to a higher one that takes its place.
func TestRateIsReplaced(t *testing.T) {
	for name, of := range map[string]func(Rate) Limits{
		"endpoint": func(r Rate) Limits { return Limits{EndpointRate: r} },
		"tenant":   func(r Rate) Limits { return Limits{TenantRate: r} },
	} {
		r := newRequests(t, of(Rate{PerSecond: 1.0 / 3600}), nil)
		take := func(at time.Duration) bool {
			p, err := r.Begin(r.noon(at), "a", "a/e")
			p.End()
			return err == nil
		}
		if got := [2]bool{take(0), take(time.Second)}; got != [2]bool{true, false} {
			t.Errorf("%s, one an hour: %v", name, got)
		}
		r.Set(of(Rate{PerSecond: 1}))
		if got := [3]bool{take(2 * time.Second), take(2 * time.Second), take(3 * time.Second)}; got != [3]bool{true, false, true} {
			t.Errorf("%s, one a second: %v", name, got)
		}
	}
}

package stats

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBucketsAreInOrderAndRight(t *testing.T) {
	last := 0
	for d := time.Duration(0); d < 9*time.Minute; d += d/32 + time.Microsecond {
		b := bucketOf(d)
		if b < last || b >= buckets {
			t.Fatalf("%v is in bucket %d, after %d", d, b, last)
		}
		last = b
		if got := middle(b); d > 4*unit && math.Abs(got-d.Seconds())/d.Seconds() > 0.15 {
			t.Fatalf("%v counts as %v s", d, got)
		}
	}
	if last != buckets-1 {
		t.Errorf("the last bucket in use is %d of %d", last, buckets)
	}
	for d, want := range map[time.Duration]int{-time.Second: 0, 0: 0, 1 << 62: buckets - 1} {
		if got := bucketOf(d); got != want {
			t.Errorf("%v is in bucket %d, want %d", d, got, want)
		}
	}
}

func TestQuantiles(t *testing.T) {
	var h histogram
	for range 98 {
		h.observe(10 * time.Millisecond)
	}
	h.observe(time.Second)
	h.observe(time.Second)
	var c counts
	h.addTo(&c)
	p50, p99 := c.quantiles()
	if math.Abs(p50-0.01) > 0.002 || math.Abs(p99-1) > 0.15 {
		t.Errorf("got %v and %v, want about 10 ms and 1 s", p50, p99)
	}
	if p50, p99 := new(counts).quantiles(); p50 != 0 || p99 != 0 {
		t.Errorf("of nothing: %v and %v", p50, p99)
	}
}

// request is one that took 10 ms; failed is its code.
func request(tr *Traffic, endpoint, failed string) {
	e := tr.Begin(endpoint)
	var f *Failure
	if failed != "" {
		f = &Failure{Time: time.Now(), Code: failed, Status: 502, Detail: strings.Repeat("x", 1000)}
	}
	tr.End(e, 10*time.Millisecond, f)
}

// TestRatesAndHistory: 10 requests a second for a minute, one of them fails, and
// then none.
func TestRatesAndHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := New()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { tr.Run(ctx) })
		began := time.Now()
		<-time.After(50 * time.Millisecond) // no request at the moment of a sample
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := range 600 {
			failed := ""
			if i%10 == 9 {
				failed = "no-upstream"
			}
			request(tr, "e", failed)
			<-tick.C
		}
		for name, l := range map[string]Load{"node": tr.Node(time.Now()), "endpoint": tr.Endpoint("e", time.Now()).Load, "active": tr.Active(time.Now())["e"]} {
			if math.Abs(l.RequestsPerSecond-10) > 0.5 || math.Abs(l.ErrorsPerSecond-1) > 0.2 || math.Abs(l.P50-0.01) > 0.002 || l.InFlight != 0 {
				t.Errorf("%s: %+v", name, l)
			}
		}
		d := tr.Endpoint("e", time.Now())
		if len(d.Points) != 12 || len(d.Failures) != MaxErrors || len(d.Failures[0].Detail) != maxDetail {
			t.Fatalf("%d points, %d failures", len(d.Points), len(d.Failures))
		}
		if !d.Failures[0].Time.After(d.Failures[1].Time) || time.Since(d.Failures[0].Time) > time.Second {
			t.Errorf("the newest failure is of %v, the next of %v", d.Failures[0].Time, d.Failures[1].Time)
		}
		for i, p := range d.Points {
			if want := began.Add(time.Duration(i+1) * Interval); !p.Time.Equal(want) || p.Requests != 50 || p.Errors != 5 || math.Abs(p.P99-0.01) > 0.002 {
				t.Errorf("point %d at %v: %+v", i, p.Time.Sub(began), p)
			}
		}
		<-time.After(15 * time.Second)
		if l := tr.Endpoint("e", time.Now()).Load; l != (Load{}) {
			t.Errorf("after 15 quiet seconds: %+v", l)
		}
		<-time.After(14 * time.Minute)
		if got := len(tr.Endpoint("e", time.Now()).Points); got != Points {
			t.Errorf("%d points after 15 minutes", got)
		}
		<-time.After(2 * time.Minute)
		if got := tr.Endpoint("e", time.Now()); len(got.Points) != 0 || tr.tracked != 0 || tr.details != 0 {
			t.Errorf("an idle endpoint is kept: %+v, %d, %d", got, tr.tracked, tr.details)
		}
		cancel()
		running.Wait()
	})
}

func TestInFlightAndWhatIsNotKnown(t *testing.T) {
	tr := New()
	if tr.BeginKnown("e") != nil {
		t.Error("a name that nobody serves is counted")
	}
	tr.End(nil, time.Second, &Failure{})
	e := tr.Begin("e")
	known := tr.BeginKnown("e")
	if got := tr.Endpoint("e", time.Now()).Load.InFlight; got != 2 || known != e {
		t.Errorf("%d in flight, want 2", got)
	}
	tr.End(e, Connection, nil)
	tr.End(known, Connection, &Failure{Code: "x"})
	if d := tr.Endpoint("e", time.Now()); d.Load.InFlight != 0 || d.Load.P99 != 0 || len(d.Failures) != 1 {
		t.Errorf("got %+v", d)
	}
	if l := tr.Node(tr.sampled[1]); l.RequestsPerSecond != 3 || l.ErrorsPerSecond != 2 {
		t.Errorf("node: %+v", l)
	}
	var none *Traffic
	none.End(none.Begin("e"), 0, nil)
	if none.BeginKnown("e") != nil || none.Active(time.Now()) != nil || none.Node(time.Now()) != (Load{}) || none.Endpoint("e", time.Now()).Points != nil {
		t.Error("a nil Traffic counts")
	}
}

// TestBounds: details are kept for those that were active last, and no more
// endpoints are counted than may be.
func TestBounds(t *testing.T) {
	tr := New()
	now := time.Now()
	for i := range maxDetails + 10 {
		request(tr, fmt.Sprint(i), "")
	}
	if got := tr.details; got != maxDetails {
		t.Fatalf("%d details", got)
	}
	late := fmt.Sprint(maxDetails + 5)
	tr.Sample(now.Add(Interval)) // all were active: nobody gives anything away
	if d := tr.Endpoint(late, now); len(d.Points) != 0 {
		t.Errorf("%s has a history", late)
	}
	request(tr, late, "x")
	tr.Sample(now.Add(2 * Interval)) // all others were idle
	request(tr, late, "y")
	tr.Sample(now.Add(3 * Interval))
	if d := tr.Endpoint(late, now.Add(3*Interval)); len(d.Points) != 1 || d.Points[0].Requests != 1 || len(d.Failures) != 1 || tr.details != maxDetails {
		t.Errorf("%s: %+v, %d details in all", late, d, tr.details)
	}
	tr.tracked = maxTracked
	if tr.Begin("one more") != nil {
		t.Error("there is no bound")
	}
	tr.Sample(now.Add(2 * time.Minute))
	if got := maxTracked - tr.tracked; got != maxDetails+10 {
		t.Errorf("%d idle endpoints were forgotten when there was little room", got)
	}
}

func TestManyAtOnce(t *testing.T) {
	tr := New()
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 500 {
				request(tr, fmt.Sprint(rand.IntN(100)), "")
			}
		})
	}
	running.Go(func() {
		for range 20 {
			tr.Sample(time.Now())
			tr.Active(time.Now())
		}
	})
	running.Wait()
	if got := tr.total().ended; got != 4000 {
		t.Errorf("%d requests were counted", got)
	}
}

func TestRequestsAllocateNothing(t *testing.T) {
	tr := New()
	tr.End(tr.Begin("e"), time.Millisecond, nil)
	if got := testing.AllocsPerRun(100, func() { tr.End(tr.Begin("e"), time.Millisecond, nil) }); got != 0 {
		t.Errorf("%v allocations for each request", got)
	}
}

func BenchmarkRequest(b *testing.B) {
	tr := New()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			tr.End(tr.Begin("my-endpoint"), time.Millisecond, nil)
		}
	})
}

func BenchmarkSample100000(b *testing.B) {
	tr := New()
	for i := range maxTracked {
		request(tr, fmt.Sprint("endpoint-", i), "")
	}
	now := time.Now()
	for b.Loop() {
		now = now.Add(time.Millisecond)
		tr.Sample(now)
	}
}

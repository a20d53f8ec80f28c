package stats

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestEndpointSeriesAreBounded: two endpoints have series, the others are one;
// when one of the two was idle for long enough its place is another's.
func TestEndpointSeriesAreBounded(t *testing.T) {
	tr := New()
	c := tr.Collector(2)
	want := func(when string, lines ...string) {
		t.Helper()
		text := "# HELP piko_endpoint_requests_total Requests of clients by endpoint, counted at the node where they come in; those of endpoints without series of their own are (other).\n# TYPE piko_endpoint_requests_total counter\n"
		slices.Sort(lines)
		if err := testutil.CollectAndCompare(c, strings.NewReader(text+strings.Join(lines, "\n")+"\n"), "piko_endpoint_requests_total"); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	series := func(endpoint, tenant string, n int) string {
		return fmt.Sprintf("piko_endpoint_requests_total{endpoint=%q,tenant=%q} %d", endpoint, tenant, n)
	}
	want("at first", series("(other)", "", 0))
	for range 3 {
		request(tr, "a", "")
		request(tr, "acme/b", "no-upstream")
		request(tr, "c", "")
	}
	tr.End(nil, time.Millisecond, nil) // to an endpoint that nobody serves
	want("with three endpoints", series("a", "", 3), series("b", "acme", 3), series("(other)", "", 4))

	now := time.Now()
	tr.Sample(now)
	request(tr, "acme/b", "")
	request(tr, "c", "")
	tr.Sample(now.Add(idleTime + time.Second))
	request(tr, "c", "")
	tr.Sample(now.Add(idleTime + 6*time.Second))
	request(tr, "c", "")
	want("after a while", series("b", "acme", 4), series("c", "", 2), series("(other)", "", 5))
}

func TestEndpointLatencyInMetrics(t *testing.T) {
	tr := New()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(tr.Collector(10))
	e := tr.Begin("e")
	for _, took := range []time.Duration{100 * time.Microsecond, 5 * time.Millisecond, 100 * time.Millisecond, time.Minute, Connection} {
		tr.End(e, took, nil)
	}
	tr.Sample(time.Now())
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "piko_endpoint_request_latency_seconds" {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		if sum := h.GetSampleSum(); h.GetSampleCount() != 4 || sum < 53 || sum > 68 {
			t.Errorf("%d latencies of %v s together, want 4 of about 60", h.GetSampleCount(), sum)
		}
		var got []uint64
		for i, b := range h.GetBucket() {
			got = append(got, b.GetCumulativeCount())
			if i > 0 && b.GetUpperBound() != 4*h.GetBucket()[i-1].GetUpperBound() {
				t.Errorf("bucket %d ends at %v", i, b.GetUpperBound())
			}
		}
		if want := []uint64{1, 1, 2, 2, 3, 3, 3, 3, 3}; !slices.Equal(got, want) {
			t.Errorf("buckets %v, want %v", got, want)
		}
		return
	}
	t.Error("there is no latency")
}

// TestBoundsAreEdges: no bucket of the histogram is above a bound in part.
func TestBoundsAreEdges(t *testing.T) {
	for i, bound := range bounds {
		d := time.Duration(bound * float64(time.Second))
		if last, next := bucketOf(d-unit), bucketOf(d); last != firstEdge+i*edgeStep-1 || next != last+1 {
			t.Errorf("%v is between the buckets %d and %d", d, last, next)
		}
	}
}

package admin

import (
	"cmp"
	"iter"
	"slices"
	"time"
)

// Source is what a node has to show of its traffic. All funcs are set; they may
// be called by any goroutine at any time. Names are those of the routing table:
// with the tenant, where tenants have endpoints of their own.
type Source struct {
	// Self is this node, with its own endpoints alone in its totals.
	Self func() NodeOverview
	// Endpoints are all that somebody in the cluster serves, with the number of
	// tunnels, in any order; Size is their number.
	Endpoints func() iter.Seq2[string, int]
	Size      func() int
	// Endpoint is one of them, but for its load; ok is false if nobody serves it.
	Endpoint func(name string) (e Endpoint, ok bool)
	// Name is that of an endpoint of a tenant; it fails if there is no such name.
	Name func(tenant, endpoint string) (string, error)
	// Loads are those of the endpoints that had requests at this node lately,
	// without their tunnels.
	Loads func() map[string]Load
	// Traffic is what is known here of the requests to an endpoint.
	Traffic func(name string) Traffic
	// Upstreams are the tunnels of this node, of one endpoint or for "" of all.
	Upstreams func(name string) iter.Seq[Upstream]
}

// Traffic is what one node knows of the requests to an endpoint: the load
// without the tunnels.
type Traffic struct {
	Load         Load          `json:"load"`
	Points       []Point       `json:"points"`
	RecentErrors []RecentError `json:"recent_errors"`
	Upstreams    []Upstream    `json:"upstreams"`
}

// merge adds what another node says.
func (l Load) merge(o Load) Load {
	return Load{
		Tunnels:           l.Tunnels + o.Tunnels,
		InFlight:          l.InFlight + o.InFlight,
		RequestsPerSecond: l.RequestsPerSecond + o.RequestsPerSecond,
		ErrorsPerSecond:   l.ErrorsPerSecond + o.ErrorsPerSecond,
		P50:               mean(l.P50, l.RequestsPerSecond, o.P50, o.RequestsPerSecond),
		P99:               max(l.P99, o.P99),
	}
}

// mean is that of two values by weight.
func mean(a, weightA, b, weightB float64) float64 {
	return (a*weightA + b*weightB) / cmp.Or(weightA+weightB, 1)
}

// maxErrors bounds the errors that are shown of an endpoint.
const maxErrors = 50

func (t Traffic) merge(o Traffic) Traffic {
	t.Load = t.Load.merge(o.Load)
	t.Points = mergePoints(t.Points, o.Points)
	t.RecentErrors = slices.Concat(t.RecentErrors, o.RecentErrors)
	slices.SortStableFunc(t.RecentErrors, func(a, b RecentError) int { return b.Time.Compare(a.Time) })
	t.RecentErrors = t.RecentErrors[:min(len(t.RecentErrors), maxErrors)]
	t.Upstreams = slices.Concat(t.Upstreams, o.Upstreams)
	return t
}

// mergePoints adds up what ended at the same time, which nodes agree on.
func mergePoints(a, b []Point) []Point {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(x, y Point) int { return x.Time.Compare(y.Time) })
	out := all[:0]
	for _, p := range all {
		if n := len(out); n == 0 || !out[n-1].Time.Equal(p.Time) {
			out = append(out, p)
			continue
		}
		last := &out[len(out)-1]
		last.P50 = mean(last.P50, float64(last.Requests), p.P50, float64(p.Requests))
		last.P99 = max(last.P99, p.P99)
		last.Requests += p.Requests
		last.Errors += p.Errors
	}
	return out
}

func compareUpstreams(a, b Upstream) int {
	return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Node, b.Node), a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
}

// first keeps the least elements of many: add one after the other, then sorted.
type first[T any] struct {
	n       int
	compare func(a, b T) int
	list    []T
	full    bool // bound is the greatest of n that there are
	bound   T
}

func (f *first[T]) add(v T) {
	if f.full && f.compare(v, f.bound) >= 0 {
		return
	}
	if f.list = append(f.list, v); len(f.list) >= 2*f.n+1024 {
		f.sorted()
	}
}

func (f *first[T]) sorted() []T {
	slices.SortFunc(f.list, f.compare)
	f.list = f.list[:min(len(f.list), f.n)]
	if len(f.list) == f.n && f.n > 0 {
		f.full, f.bound = true, f.list[f.n-1]
	}
	return f.list
}

// now is the time of an answer.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

package admin

import (
	"cmp"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"piko/fault"
)

// Bounds of lists.
const (
	defaultLimit = 100
	maxLimit     = 1000
	maxUpstreams = 10_000
	maxOffset    = 1 << 30
)

// endpointQuery is what a list of endpoints is asked for.
type endpointQuery struct {
	search        string
	sort          string
	descending    bool
	offset, limit int
}

// sortKeys are what endpoints can be sorted by, beside their name. Whatever is
// not a name is sorted by name, too, where it is the same.
var sortKeys = map[string]func(Load) float64{
	"name":    nil,
	"tunnels": func(l Load) float64 { return float64(l.Tunnels) },
	"rps":     func(l Load) float64 { return l.RequestsPerSecond },
	"errors":  func(l Load) float64 { return l.ErrorsPerSecond },
	"p99":     func(l Load) float64 { return l.P99 },
}

func readEndpointQuery(q url.Values) (out endpointQuery, err error) {
	out.search, out.sort = strings.ToLower(q.Get("search")), cmp.Or(q.Get("sort"), "name")
	if _, ok := sortKeys[out.sort]; !ok {
		return out, badParam("sort", q.Get("sort"), "name, tunnels, rps, errors or p99")
	}
	switch q.Get("order") {
	case "desc":
		out.descending = true
	case "":
		out.descending = out.sort != "name"
	case "asc":
	default:
		return out, badParam("order", q.Get("order"), "asc or desc")
	}
	if out.offset, err = number(q, "offset", 0, maxOffset); err != nil {
		return out, err
	}
	out.limit, err = number(q, "limit", defaultLimit, maxLimit)
	return out, err
}

// number reads a parameter from 0 to most.
func number(q url.Values, name string, otherwise, most int) (int, error) {
	text := q.Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		return 0, badParam(name, text, fmt.Sprintf("0 to %d", most))
	}
	return n, nil
}

func badParam(name, value, want string) error {
	return &fault.Error{Code: fault.MalformedRequest, Detail: fmt.Sprintf("%s=%.64q: use %s", name, value, want)}
}

// row is an endpoint on its way into a list.
type row struct {
	name    string
	tunnels int
	key     float64
}

// compare puts rows in the order that q wants.
func (q *endpointQuery) compare(a, b row) int {
	c := cmp.Compare(a.key, b.key) // 0 for all if it is the name that counts
	if q.descending {
		c = -c
	}
	if c == 0 {
		c = strings.Compare(a.name, b.name)
		if q.descending && q.sort == "name" {
			c = -c
		}
	}
	return c
}

// find returns the rows that q wants, and how many it could have wanted.
func (q *endpointQuery) find(all iter.Seq2[string, int], loads map[string]Load) (rows []row, matched int) {
	chosen := first[row]{n: q.offset + q.limit, compare: q.compare}
	key := sortKeys[q.sort]
	for name, tunnels := range all {
		if q.search != "" && !strings.Contains(name, q.search) {
			continue
		}
		matched++
		found := row{name: name, tunnels: tunnels}
		if key != nil {
			l := loads[name]
			l.Tunnels = tunnels
			found.key = key(l)
		}
		chosen.add(found)
	}
	rows = chosen.sorted()
	return rows[min(q.offset, len(rows)):], matched
}

// serveEndpointList answers /status/endpoints: all endpoints that this node
// knows of, in the whole cluster, with the load that this node sees, or with
// ?cluster=true all nodes do.
func (s *status) serveEndpointList(w http.ResponseWriter, r *http.Request) {
	q, err := readEndpointQuery(r.URL.Query())
	if err != nil {
		fault.Write(w, r, err)
		return
	}
	loads, partial := s.source.Loads(), []Partial{}
	if wantsCluster(r) {
		answers := gather[map[string]Load](s.forward, r, "/status/loads", nil)
		partial = missing(s.Server, answers)
		for _, a := range answers {
			for name, l := range a.value {
				loads[name] = loads[name].merge(l)
			}
		}
	}
	rows, matched := q.find(s.source.Endpoints(), loads)
	list := EndpointList{Total: s.source.Size(), Matched: matched, Endpoints: []Endpoint{}, Partial: partial}
	for _, found := range rows {
		if e, ok := s.source.Endpoint(found.name); ok {
			e.Load = loads[found.name]
			e.Tunnels = found.tunnels
			list.Endpoints = append(list.Endpoints, e)
		}
	}
	s.writeJSON(w, list)
}

// serveLoads answers /status/loads, which other nodes ask for: the endpoints with
// a load here, by their names in the table.
func (s *status) serveLoads(w http.ResponseWriter, _ *http.Request) {
	loads := s.source.Loads()
	if loads == nil {
		loads = map[string]Load{}
	}
	s.writeJSON(w, loads)
}

// serveEndpoint answers /status/endpoints/{endpoint}.
func (s *status) serveEndpoint(w http.ResponseWriter, r *http.Request) {
	d, err := s.endpoint(r, r.PathValue("endpoint"), r.URL.Query().Get("tenant"))
	if err != nil {
		fault.Write(w, r, err)
		return
	}
	s.writeJSON(w, d)
}

// endpoint is all that is known of an endpoint. One that is served no more is
// known as long as its traffic is.
func (s *status) endpoint(r *http.Request, endpoint, tenant string) (EndpointDetail, error) {
	name, err := s.source.Name(tenant, endpoint)
	if err != nil {
		return EndpointDetail{}, err
	}
	traffic, partial := s.traffic(name), []Partial{}
	if wantsCluster(r) {
		query := url.Values{"name": {name}}
		answers := gather[Traffic](s.forward, r, "/status/traffic", query)
		partial = missing(s.Server, answers)
		for _, a := range answers {
			traffic = traffic.merge(a.value)
		}
	}
	e, served := s.source.Endpoint(name)
	if !served && len(traffic.Points) == 0 && len(traffic.Upstreams) == 0 {
		return EndpointDetail{}, &fault.Error{Code: fault.NotFound, Detail: fmt.Sprintf("nobody serves endpoint %q", endpoint)}
	}
	tunnels := e.Tunnels
	e.Load = traffic.Load
	if e.Tunnels = tunnels; wantsCluster(r) && len(partial) == 0 {
		e.Tunnels = len(traffic.Upstreams) // which is exact
	}
	slices.SortFunc(traffic.Upstreams, compareUpstreams)
	return EndpointDetail{
		Endpoint:     e,
		Upstreams:    orEmpty(traffic.Upstreams),
		History:      History{Interval: historyInterval, Points: orEmpty(traffic.Points)},
		RecentErrors: orEmpty(traffic.RecentErrors),
		Partial:      partial,
	}, nil
}

// historyInterval is that of a Source, in seconds.
const historyInterval = 5

// orEmpty is list, or one that JSON does not call null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// traffic is what is known here.
func (s *status) traffic(name string) Traffic {
	t := s.source.Traffic(name)
	for u := range s.source.Upstreams(name) {
		t.Upstreams = append(t.Upstreams, u)
	}
	return t
}

// serveTraffic answers /status/traffic?name=, which other nodes ask for.
func (s *status) serveTraffic(w http.ResponseWriter, r *http.Request) {
	s.writeJSON(w, s.traffic(r.URL.Query().Get("name")))
}

// serveUpstreams answers /status/upstreams.
func (s *status) serveUpstreams(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	limit, err := number(query, "limit", maxLimit, maxUpstreams)
	name := ""
	if endpoint := query.Get("endpoint"); endpoint != "" && err == nil {
		name, err = s.source.Name(query.Get("tenant"), endpoint)
	}
	if err != nil {
		fault.Write(w, r, err)
		return
	}
	chosen := first[Upstream]{n: limit, compare: compareUpstreams}
	for u := range s.source.Upstreams(name) {
		chosen.add(u)
	}
	partial := []Partial{}
	if wantsCluster(r) {
		answers := gather[UpstreamList](s.forward, r, "/status/upstreams", url.Values{
			"endpoint": query["endpoint"], "tenant": query["tenant"], "limit": {strconv.Itoa(limit)},
		})
		partial = missing(s.Server, answers)
		for _, a := range answers {
			for _, u := range a.value.Upstreams {
				chosen.add(u)
			}
		}
	}
	s.writeJSON(w, UpstreamList{Upstreams: orEmpty(chosen.sorted()), Partial: partial})
}

package admin

import "time"

// What the routes of the status answer. Times are UTC, durations and latencies
// in seconds, rates per second over the last 5 to 10 s, latencies those of
// requests that ended then; those of several nodes are added up with the mean of
// the medians and the highest 99th percentile. Names of endpoints are without
// their tenant.

// Load is what goes on at a node, a cluster or an endpoint.
type Load struct {
	Tunnels           int     `json:"tunnels"`   // as far as the node knows that answers: of an endpoint at other nodes at least so many
	InFlight          int     `json:"in_flight"` // requests and connections of clients
	RequestsPerSecond float64 `json:"requests_per_second"`
	ErrorsPerSecond   float64 `json:"errors_per_second"` // answers of 500 and above, and responses that broke off
	P50               float64 `json:"p50"`               // 0 if there was no request
	P99               float64 `json:"p99"`
}

// The states of a node in an Overview; StatusUnreachable is the fourth.
const (
	StateActive   = StatusActive
	StateDraining = StatusDraining
	StateLeaving  = "leaving"
)

// Overview is /status/overview: the node that answers, or with ?cluster=true
// all nodes of the cluster.
type Overview struct {
	Time    time.Time      `json:"time"`
	NodeID  string         `json:"node_id"` // of the node that answers
	Nodes   []NodeOverview `json:"nodes"`   // sorted by id
	Totals  Totals         `json:"totals"`  // over the nodes that answered
	Partial []Partial      `json:"partial"` // nodes that did not; empty if all did
}

// NodeOverview is one node. Of one that did not answer only ID, State and
// AdminAddr are known.
type NodeOverview struct {
	ID        string    `json:"id"`
	State     string    `json:"state"` // active, draining, leaving or unreachable
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	AdminAddr string    `json:"admin_addr"`
	Totals
	Drain *Drain `json:"drain"` // null unless it drains
}

// Totals are the numbers of a node or of the cluster. The endpoints of a
// cluster are counted once each, however many nodes serve them.
type Totals struct {
	Endpoints int `json:"endpoints"`
	Load
}

// Drain is how far a drain has come.
type Drain struct {
	StartedAt    time.Time `json:"started_at"`
	TunnelsLeft  int       `json:"tunnels_left"`
	RequestsLeft int       `json:"requests_left"` // in flight, of clients and of other nodes
	// Deadline is when what is left is cut; null while the node was asked to
	// drain and not to stop.
	Deadline *time.Time `json:"deadline"`
}

// Partial is a node whose part of an answer is missing.
type Partial struct {
	Node  string `json:"node"`
	Error string `json:"error"`
}

// EndpointList is /status/endpoints.
type EndpointList struct {
	Total     int        `json:"total"`   // endpoints that somebody serves
	Matched   int        `json:"matched"` // of those, what ?search= finds
	Endpoints []Endpoint `json:"endpoints"`
	Partial   []Partial  `json:"partial"`
}

// Endpoint is one endpoint, as clients see it: its requests are counted where
// they came in.
type Endpoint struct {
	Endpoint string   `json:"endpoint"`
	Tenant   string   `json:"tenant"` // "" unless tenants have endpoints of their own
	Nodes    []string `json:"nodes"`  // with tunnels for it, sorted
	Load
}

// EndpointDetail is /status/endpoints/{endpoint}?tenant=.
type EndpointDetail struct {
	Endpoint
	Upstreams    []Upstream    `json:"upstreams"`
	History      History       `json:"history"`
	RecentErrors []RecentError `json:"recent_errors"` // newest first, at most 50
	Partial      []Partial     `json:"partial"`
}

// History is what became of an endpoint in the last 15 minutes, oldest first.
// It is kept for endpoints with requests, and not for ever.
type History struct {
	Interval int     `json:"interval"` // of a point, in seconds
	Points   []Point `json:"points"`
}

// Point is one interval, which ended at Time.
type Point struct {
	Time     time.Time `json:"time"`
	Requests int       `json:"requests"` // that ended in it
	Errors   int       `json:"errors"`
	P50      float64   `json:"p50"`
	P99      float64   `json:"p99"`
}

// RecentError is a request that failed.
type RecentError struct {
	Time     time.Time `json:"time"`
	Code     string    `json:"code"`     // of a fault; "" is the service's own answer of 500 and above
	Status   int       `json:"status"`   // as the client saw it; 499 is a client that has gone
	Node     string    `json:"node"`     // where the request came in
	Upstream string    `json:"upstream"` // who had it last: the tunnel's remote address, or the other node's id; "" is nobody
	Detail   string    `json:"detail"`
}

// UpstreamList is /status/upstreams.
type UpstreamList struct {
	Upstreams []Upstream `json:"upstreams"` // sorted by endpoint, node and since
	Partial   []Partial  `json:"partial"`
}

// Upstream is one tunnel. What it counts began with it.
type Upstream struct {
	ID           string         `json:"id"` // of the tunnel, unique in the cluster
	Endpoint     string         `json:"endpoint"`
	Tenant       string         `json:"tenant"`
	Instance     string         `json:"instance"` // what the upstream calls itself; "" if it is of v0.9.0
	RemoteAddr   string         `json:"remote_addr"`
	AgentVersion string         `json:"agent_version"` // "" if it did not say
	Features     []string       `json:"features"`
	Node         string         `json:"node"` // that it is connected to
	Since        time.Time      `json:"since"`
	InFlight     int            `json:"in_flight"`
	Requests     uint64         `json:"requests"`  // and connections, that were sent to it
	BytesIn      uint64         `json:"bytes_in"`  // that it sent us
	BytesOut     uint64         `json:"bytes_out"` // that it got
	Errors       uint64         `json:"errors"`    // requests that it failed
	LastError    *UpstreamError `json:"last_error"`
	Weight       int            `json:"weight"` // 0 to 100; 0 is unhealthy
	Draining     bool           `json:"draining"`
}

// UpstreamError is why a tunnel last failed a request.
type UpstreamError struct {
	Time   time.Time `json:"time"`
	Code   string    `json:"code"`
	Detail string    `json:"detail"`
}

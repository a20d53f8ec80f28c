package proxy

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"piko/fault"
	"piko/relay"
	"piko/router"
	"piko/tracing"
	"piko/tunnel"
)

// PeerOptions are the settings of a Peer. Only Lookup is required.
type PeerOptions struct {
	// Lookup says where requests for an endpoint can go; only the local candidates count. As for Options.
	Lookup func(endpoint string) *router.Route
	// Buffers is that of Options.
	Buffers relay.Buffers
	// NodeID is this node's name in spans.
	NodeID string
	// Tracer makes spans of requests that the entry node has one of; nil makes none.
	Tracer *tracing.Tracer
	// Logger gets why requests failed, at debug. nil discards.
	Logger *slog.Logger
	// Registerer gets the metrics. nil is none.
	Registerer prometheus.Registerer
}

// Peer is the handler for requests of other nodes, which have proven that they are such: the owner's side of a hop. It
// forwards to upstreams of this node and has no way to any other. It sets no time-out, logs no request and changes no
// header but those that only nodes use: all that is the entry node's. Any number of goroutines may use it.
//
// What it cannot send to a service it answers with 421 and X-Piko-Miss, and a service that gave no whole response
// with 502 and X-Piko-Failed. All else is the service's answer, or the agent's.
//
// The http.Server in front of it must be reached by proven nodes only. It needs DisableGeneralOptionsHandler, and a
// MaxHeaderBytes above that of the proxy port, since a hop adds fields; no ReadTimeout or WriteTimeout.
type Peer struct {
	// Static after construction.
	forwarder
	metrics *peerMetrics
}

// NewPeer returns a handler. It fails if there is no Lookup or the metrics are registered already.
func NewPeer(opt PeerOptions) (*Peer, error) {
	o := Options{Lookup: opt.Lookup, Buffers: opt.Buffers, Logger: opt.Logger, NodeID: opt.NodeID, Tracer: opt.Tracer, Timeout: -1, ReadTimeout: -1, WriteTimeout: -1, SendTimeout: -1}
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	m, err := newPeerMetrics(opt.Registerer)
	if err != nil {
		return nil, err
	}
	return &Peer{forwarder: forwarder{opt: o}, metrics: m}, nil
}

// ServeHTTP forwards one request to an upstream of this node.
func (p *Peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{f: &p.forwarder, peer: p, w: w, r: r}
	p.metrics.inFlight.Inc()
	defer x.end()
	if p.opt.Tracer != nil {
		x.continueTrace()
	}
	var err error
	if x.endpoint, err = routeOf(r); err != nil {
		x.failHop(err, false)
		return
	}
	if isReserved(r.URL.Path) {
		if r.RequestURI == pathStream {
			x.stream()
		} else {
			x.status = fault.Write(w, r, fault.ReservedPath)
		}
		return
	}
	if x.first = x.pick(); !x.first.OK() { // before the body is touched: the connection stays as it is
		x.failHop(fault.NoUpstream, false)
		return
	}
	x.upgrade, _ = relay.UpgradeType(r.Header)
	x.forward(r.RequestURI)
}

// routeOf is the endpoint that the entry node found, with its tenant: a name in the table.
func routeOf(r *http.Request) (string, error) {
	values := r.Header[headerRoute]
	if len(values) != 1 {
		return "", errNoRoute
	}
	return parseRoute(values[0])
}

func parseRoute(value string) (string, error) { return tunnel.ParseName(value) }

var errNoRoute = errors.New("hop names no endpoint")

// prepareHop makes the header for the upstream of what the entry node sent, and notes what it asks of this node.
func (x *exchange) prepareHop() {
	x.outHeader = relay.OutHeader(x.r.Header, dropHop)
	if values := x.r.Header[headerExpect]; len(values) == 1 && values[0] == hopExpect {
		delete(x.outHeader, "Expect")
		x.call.hold = true
	}
	x.readAttempts()
}

// readAttempts reads how many attempts the entry node allows.
func (x *exchange) readAttempts() {
	x.attempt.most = 1 + moreAttempts(x.r.Header.Get(headerAttempts))
}

func moreAttempts(value string) int {
	more, err := strconv.Atoi(value)
	if err != nil {
		return 0
	}
	return min(max(more, 0), maxAttempts-1)
}

// dropHop says which fields of a hop end here.
func dropHop(name string) bool { return internal(name) && name != headerEndpoint }

// failHop answers the entry node, if it is there, in a way that it can judge.
func (x *exchange) failHop(err error, gone bool) {
	x.err = err
	if gone || x.body.Err() != nil || isClientError(err) {
		x.status, x.hopResult = statusClientGone, hopAborted
		panic(http.ErrAbortHandler) // the entry node knows what its client did
	}
	h := x.w.Header()
	x.answerHop(err, h)
	h["Date"] = nil
	x.w.WriteHeader(x.status)
}

// answerHop is what the entry node is told of a request that has no response.
func (x *exchange) answerHop(err error, h http.Header) {
	h["Content-Length"] = []string{"0"}
	h[headerReason] = []string{reasonText(err.Error())}
	switch {
	case x.attempt.uncertain:
		x.status, x.hopResult = http.StatusBadGateway, hopFailed
		h[headerFailed] = []string{failedSilent}
		if responded(err) {
			h[headerFailed] = []string{failedBroken}
		}
	default:
		x.status, x.hopResult = http.StatusMisdirectedRequest, hopMissed
		reason := reasonOf(err)
		x.peer.metrics.missed(reason)
		h[headerMiss] = []string{string(reason)}
		h[headerAttempts] = []string{strconv.Itoa(x.attempt.used)}
		if x.attempt.used > 0 && x.pick().OK() {
			h[headerLeft] = []string{"1"}
		}
	}
}

// maxReason bounds what nodes tell each other of a failure, in bytes; the status shows as much.
const maxReason = 200

// reasonText is what a header field can have of a text.
func reasonText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), maxReason)])
}

// reasonOf says why an upstream did not take a request.
func reasonOf(err error) missReason {
	switch {
	case errors.Is(err, fault.Overloaded):
		return missOverloaded
	case errors.Is(err, fault.Draining):
		return missDraining
	case isWrongProtocol(err):
		return missProtocol
	}
	return missNoUpstream
}

// endHop accounts for a request.
func (x *exchange) endHop() {
	m := x.peer.metrics
	m.inFlight.Dec()
	m.requests[x.hopResult].Inc()
	if x.trace != nil {
		x.endTrace()
	}
	if x.err != nil {
		x.f.opt.Logger.Debug("request of another node failed", "endpoint", x.endpoint, "status", x.status, "err", x.err)
	}
}

package proxy

import (
	"errors"
	"net/http"
	"time"

	"piko/accesslog"
	"piko/tunnel"
)

// pathPeer is where other nodes come in: what they may ask for, and who they are, Internal finds out.
const pathPeer = reserved + "/v1/peer"

// ServeHTTP forwards one request.
func (p *Public) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.opt.Internal != nil && r.URL.Path == pathPeer && r.ProtoMajor == 1 {
		p.opt.Internal.ServeHTTP(w, r)
		return
	}
	x := &exchange{f: &p.forwarder, w: w, r: r, start: time.Now()}
	p.metrics.inFlight.Inc()
	defer x.end()
	if p.opt.Tracer != nil {
		x.beginTrace()
	}
	p.budget.request()
	// HTTP/1.0 knows no Transfer-Encoding, and net/http ignores one there: what it would frame must not be read as a
	// request. A node that drains wants no more requests on the connection either.
	if r.ProtoMajor == 1 && (r.ProtoMinor == 0 || p.opt.Draining != nil && p.opt.Draining()) {
		w.Header()["Connection"] = []string{"close"}
	}
	target, upgrade, err := checkRequest(r)
	if err != nil {
		x.fail(err)
		return
	}
	tcp, isTCP := tcpEndpoint(r)
	if err := x.enter(tcp, isTCP); err != nil {
		x.fail(err)
		return
	}
	if isTCP {
		x.serveTCP()
		return
	}
	if err := x.admit(); err != nil {
		x.fail(err)
		return
	}
	x.upgrade = upgrade
	x.forward(target)
}

// end accounts for a request, also for one that is being aborted.
func (x *exchange) end() {
	x.call.end()
	if x.peer != nil {
		x.endHop()
		return
	}
	x.pass.End()
	f := x.f
	f.metrics.inFlight.Dec()
	d := time.Since(x.start)
	trace := ""
	if x.trace != nil {
		trace = x.trace.span.TraceID()
		x.endTrace()
	}
	f.metrics.observe(x.r.Method, x.status, d, x.body.Bytes(), x.bytesOut, x.upgraded, trace)
	f.metrics.tenants.observe(x.bearer.Tenant, x.status)
	x.countError()
	x.endTraffic(d)
	if errors.Is(x.err, errLapsed) || errors.Is(x.err, errRevoked) {
		f.metrics.lapsed.Inc()
	}
	if x.err != nil {
		f.opt.Logger.Debug("request failed", "endpoint", x.endpoint, "client", x.r.RemoteAddr, "status", x.status, "err", x.err)
	}
	if !f.opt.AccessLog.Enabled(x.status) {
		return
	}
	rec := x.record(accesslog.Request, d)
	if x.upgraded {
		rec.Kind = accesslog.Closed
	} else {
		rec.BytesIn = x.body.Bytes()
	}
	f.opt.AccessLog.Log(&rec)
}

// logOpened records that a connection was upgraded.
func (x *exchange) logOpened() {
	if x.f.opt.AccessLog.Enabled(x.status) {
		rec := x.record(accesslog.Opened, time.Since(x.start))
		x.f.opt.AccessLog.Log(&rec)
	}
}

// record is what the access log says.
func (x *exchange) record(kind accesslog.Kind, d time.Duration) accesslog.Record {
	r := x.r
	_, endpoint := tunnel.SplitName(x.endpoint)
	rec := accesslog.Record{
		Kind: kind, Proto: r.Proto, Method: r.Method, Host: r.Host, Path: r.URL.Path,
		Endpoint: endpoint, Tenant: x.bearer.Tenant, Subject: x.bearer.Grant.Subject(), TokenID: x.bearer.Grant.ID(),
		Client: r.RemoteAddr, Node: x.f.opt.NodeID,
		Status: x.status, BytesIn: x.bytesIn, BytesOut: x.bytesOut, Duration: d, Retries: x.retries,
		RequestID: x.outHeader.Get(headerRequestID), RequestHeader: r.Header, ResponseHeader: x.header,
	}
	if x.target.Node != nil {
		rec.Node, rec.Hop = x.target.Node.ID(), true
	} else {
		rec.Upstream = x.upstreamName()
	}
	if x.err != nil {
		rec.Err = x.err.Error()
	}
	if x.trace != nil {
		rec.TraceID = x.trace.span.TraceID()
	}
	return rec
}

package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"piko/fault"
	"piko/router"
	"piko/stats"
)

// codeBrokenOff is what a failure is called of which the client saw the beginning of a response and not the end.
const codeBrokenOff = "broken-off"

// beginTraffic counts the request for its endpoint, which somebody serves.
func (x *exchange) beginTraffic() {
	if !x.counted {
		x.counted = true
		x.traffic = x.f.opt.Traffic.Begin(x.endpoint)
	}
}

// endTraffic counts the end of the request.
func (x *exchange) endTraffic(took time.Duration) {
	if x.upgraded {
		took = stats.Connection
	}
	failure := x.failure()
	if !x.counted && failure != nil {
		x.traffic = x.f.opt.Traffic.BeginKnown(x.endpoint)
	}
	x.f.opt.Traffic.End(x.traffic, took, failure)
}

// failure says how the request failed, nil if it did not: what an operator wants to know of, and so nothing that its
// client did. How a connection ended that was upgraded says nothing.
func (x *exchange) failure() *stats.Failure {
	if x.status < http.StatusInternalServerError && x.err == nil || x.f.opt.Traffic == nil {
		return nil
	}
	code := ""
	if values := x.header[headerError]; len(values) > 0 { // ours, or an agent's
		code = values[0]
	}
	switch {
	case x.status >= http.StatusInternalServerError, code != "" && fault.Code(code).Status() >= http.StatusInternalServerError: // for gRPC the status is 200
	case code != "", x.upgraded, x.status == statusClientGone, x.clientsFault(x.err):
		return nil
	default:
		code = codeBrokenOff
	}
	f := &stats.Failure{Time: time.Now(), Code: code, Status: x.status, Upstream: x.upstreamName()}
	switch {
	case x.err != nil:
		f.Detail = x.err.Error()
	case code != "":
		f.Detail = "the agent answered " + statusLine(x.status)
	default:
		f.Detail = "the service answered " + statusLine(x.status)
	}
	return f
}

func statusLine(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}

// upstreamName names who had the request last; "" is nobody.
func (x *exchange) upstreamName() string { return targetName(x.target) }

func targetName(t router.Target) string {
	switch {
	case t.Node != nil:
		return t.Node.ID()
	case t.Local != nil:
		if s, ok := t.Local.Upstream().(fmt.Stringer); ok {
			return s.String()
		}
	}
	return ""
}

// noteFailure tells an upstream of this node, if it wants to know, why an exchange with it failed.
func (x *exchange) noteFailure(target router.Target, err error) {
	if u := accountant(target); u != nil {
		code := fault.UpstreamUnreachable
		if f, ok := errors.AsType[*fault.Error](err); ok {
			code = f.Code
		} else if x.call.timedOut() {
			code = fault.UpstreamTimeout
		}
		u.NoteFailure(code, err.Error())
	}
}

// noteAnswer is noteFailure for an answer that says so itself.
func noteAnswer(target router.Target, res *http.Response) {
	u := accountant(target)
	switch {
	case u == nil:
	case agentError(res):
		u.NoteFailure(fault.Code(res.Header[headerError][0]), "the agent answered "+res.Status)
	default:
		u.NoteFailure("", "the service answered "+res.Status)
	}
}

// An accounter is an upstream that keeps account of its failures.
type accounter interface {
	NoteFailure(code fault.Code, detail string)
}

func accountant(target router.Target) accounter {
	if target.Local == nil {
		return nil
	}
	u, _ := target.Local.Upstream().(accounter)
	return u
}

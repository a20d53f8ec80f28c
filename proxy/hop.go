package proxy

import (
	"maps"
	"net/http"
	"strconv"
	"time"

	"piko/fault"
	"piko/router"
)

// The entry node's side of a hop. The request keeps its form; what this node decided about it travels in fields that
// only connections between nodes may carry. Their values are shared by all requests.
var (
	valueExpect   = []string{"100-continue"}
	valueHop      = []string{hopExpect}
	valueAttempts = [maxAttempts][]string{{"0"}, {"1"}, {"2"}}
)

// hopExpect is the value of headerExpect.
const hopExpect = "hop"

// missReason says why an owner has nothing for a request; these are all the values of headerMiss.
type missReason string

const (
	missNoUpstream missReason = "no-upstream"
	missDraining   missReason = "draining"
	missOverloaded missReason = "overloaded"
	missProtocol   missReason = "wrong-protocol"
)

// missError is what became of an attempt whose owner sent it to no service.
type missError struct {
	node   string
	reason missReason
	text   string // what the owner says of it, if anything
	left   bool   // the owner has upstreams that it was not to try
	used   int    // attempts that it made
}

// readMiss reads the header of an owner's 421.
func readMiss(node string, h http.Header) *missError {
	used, _ := strconv.Atoi(h.Get(headerAttempts))
	return &missError{node: node, reason: missReason(h.Get(headerMiss)), text: reasonText(h.Get(headerReason)), left: h[headerLeft] != nil, used: min(used, maxAttempts)}
}

// Error implements error.
func (e *missError) Error() string {
	return "ask node " + e.node + ": " + withReason(string(e.reason), e.text)
}

// withReason adds what the owner says, if it says more.
func withReason(what, text string) string {
	if text == "" || text == what {
		return what
	}
	return what + ": " + text
}

// Refused says that no service has seen anything of the request.
func (e *missError) Refused() bool { return true }

// Unwrap returns what the client is told if nobody else answers.
func (e *missError) Unwrap() error {
	switch e.reason {
	case missOverloaded:
		return fault.New(fault.Overloaded, nil)
	case missProtocol:
		return fault.New(fault.WrongProtocol, nil)
	}
	return fault.New(fault.NoUpstream, nil)
}

// hopError is what became of an attempt that failed behind the owner, which itself is well.
type hopError struct {
	node      string
	responded bool   // the beginning of a response was seen
	text      string // what the owner says of it, if anything
}

// Values of headerFailed.
const (
	failedSilent = "no-response"
	failedBroken = "broken-response"
)

// Error implements error.
func (e *hopError) Error() string {
	if e.responded {
		return withReason("read response: malformed, says node "+e.node, e.text)
	}
	return withReason("read response: none, says node "+e.node, e.text)
}

// headerFor is the header for one attempt. That of the attempt before is left as it is: somebody may still look at it.
func (x *exchange) headerFor(target router.Target) http.Header {
	h := x.outHeader
	if x.attempt.used > 0 && (target.Node != nil || h[headerRoute] != nil) {
		h = maps.Clone(h)
		if h[headerExpect] != nil {
			delete(h, "Expect")
		}
		for _, name := range []string{headerRoute, headerAttempts, headerExpect} {
			delete(h, name)
		}
		x.outHeader = h
	}
	if target.Node != nil {
		x.addHop(h)
	}
	return h
}

// addHop says to the owner what this node has decided.
func (x *exchange) addHop(h http.Header) {
	x.route[0] = x.endpoint
	h[headerRoute] = x.route[:]
	h[headerAttempts] = valueAttempts[x.attemptsLeft()]
	// A body that cannot be kept must not be drawn from the client before the owner has somewhere to send it.
	if x.body != nil && h["Expect"] == nil && (x.r.ContentLength < 0 || x.r.ContentLength > maxKept) {
		h["Expect"], h[headerExpect] = valueExpect, valueHop
	}
}

// attemptsLeft is how many attempts an owner may make beyond one.
func (x *exchange) attemptsLeft() int {
	left := x.attempt.most - x.attempt.used - 1
	if left > 0 && x.attempt.candidates > x.tried.Len()+1 {
		left-- // one is for another node: all upstreams of this one may be on their way there
	}
	return left
}

// lose takes note that a node could not be asked.
func (x *exchange) lose(target router.Target) {
	target.Node.Failed(time.Now())
	x.attempt.lost, x.attempt.down = target, false
}

// missed takes note of what an owner said that had nothing for the request.
func (x *exchange) missed(target router.Target, miss *missError) {
	x.f.metrics.missed(miss.reason)
	if miss.reason != missOverloaded && miss.reason != missProtocol && !miss.left {
		target.Missed(time.Now())
		x.tried.Remove(target) // its next word on the endpoint is as good as another node's
	}
	x.attempt.used += max(miss.used-1, 0)
}

// hop sends the request to another node.
func (x *exchange) hop(target router.Target, out *http.Request) (*http.Response, error) {
	x.attempt.hopped = true
	m := x.f.metrics
	m.hops.of(target.Node.ID()).Inc()
	start := time.Now()
	res, err := target.Upstream(x.endpoint).RoundTrip(out)
	if err == nil {
		m.hopLatency.Observe(time.Since(start).Seconds())
		return x.judge(target, res)
	}
	// That a service takes its time is not the node's fault: whether the node lives, the connections to it know.
	if x.targetsFault(err) && !x.call.timedOut() {
		x.lose(target)
	}
	return nil, err
}

// judge tells what the owner says from what a service answered through it. A service's own 421 is an answer: the owner
// has taken what only nodes may say out of it.
func (x *exchange) judge(target router.Target, res *http.Response) (*http.Response, error) {
	node := target.Node.ID()
	var err error
	failed := res.Header[headerFailed]
	switch {
	case res.StatusCode == http.StatusMisdirectedRequest && len(res.Header[headerMiss]) == 1:
		miss := readMiss(node, res.Header)
		x.missed(target, miss)
		err = miss
	case res.StatusCode == http.StatusBadGateway && len(failed) == 1:
		err = &hopError{node: node, responded: failed[0] == failedBroken, text: reasonText(res.Header.Get(headerReason))}
	default:
		return res, nil
	}
	_ = res.Body.Close()
	target.Node.Succeeded() // it did what it should
	return nil, err
}

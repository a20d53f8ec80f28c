package proxy

import (
	"errors"
	"strings"
	"time"

	"piko/fault"
	"piko/tunnel"
)

// admit asks whether the request is to be taken: it must not have come by too often, and no limit may be in its way. What
// an endpoint and a tenant may have is counted here, where the request came in, and what a tunnel may have at its owner.
func (x *exchange) admit() error {
	if passes(x.r.Header[headerLoop]) >= maxPasses {
		return fault.New(fault.LoopDetected, nil)
	}
	limits := x.f.opt.Limits
	if limits == nil {
		return nil
	}
	tenant, _ := tunnel.SplitName(x.endpoint)
	name := x.endpoint
	if x.f.opt.Lookup(name) == nil {
		name = "" // there is no end of such names
	}
	var err error
	x.pass, err = limits.Begin(time.Now(), tenant, name)
	return err
}

// errFull is what became of an attempt at a tunnel that has as many requests as it may. Nobody has failed.
var errFull = fault.New(fault.Overloaded, fullError{})

type fullError struct{}

// Error says why nothing was sent.
func (fullError) Error() string { return "tunnel has as many requests in flight as it may" }

// Refused says that no service has seen anything of the request.
func (fullError) Refused() bool { return true }

// full counts an attempt that a tunnel had no room for.
func (x *exchange) full() error {
	x.f.opt.Limits.RefusedTunnel()
	return errFull
}

// headerLoop is CDN-Loop (RFC 8586): each node through which a request comes in adds its name, and no service or client
// can take it out of what it passes on without knowing. So a service that is itself reached through a node, and leads
// back to where the request came from, is found out. A field of our own would not do: those end with each hop. Via
// would, but servers answer requests that have it in other ways: nginx compresses nothing for them.
const (
	headerLoop = "Cdn-Loop"
	loopName   = "piko"
)

// maxPasses is how often a request may come in. Some have a reason to come in twice, hardly any three times.
const maxPasses = 8

var valueLoop = []string{loopName}

// passes counts the times that our name is in the header, whatever its parameters.
func passes(values []string) int {
	n := 0
	for _, v := range values {
		for member := range strings.SplitSeq(v, ",") {
			name, _, _ := strings.Cut(member, ";")
			if strings.EqualFold(strings.Trim(name, " \t"), loopName) {
				n++
			}
		}
	}
	return n
}

// addPass adds our name. What others have said stays as it is.
func addPass(values []string) []string {
	if len(values) == 0 {
		return valueLoop
	}
	return []string{strings.Join(values, ", ") + ", " + loopName}
}

// isWrongProtocol reports whether an upstream takes no TCP connections, and never will.
func isWrongProtocol(err error) bool { return errors.Is(err, fault.WrongProtocol) }

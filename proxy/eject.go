package proxy

import (
	"errors"
	"fmt"
	"time"

	"piko/router"
)

// ejectionsLogged is how many failures in a row are worth a line in the log: one or two are a service's restart.
const ejectionsLogged = 3

// blame takes note that an exchange failed for a reason that lies with its target: the upstream, or the services behind
// another node, which alone are meant then. The target is avoided for a while, which grows as long as nothing succeeds.
func (x *exchange) blame(target router.Target, err error) {
	if _, missed := errors.AsType[*missError](err); missed {
		return // the node has nothing for the endpoint, which is no failure of anybody's
	}
	if target.Local != nil {
		x.noteFailure(target, err)
	}
	ejected, failures := target.Failed(time.Now())
	if !ejected {
		return
	}
	if x.peer != nil {
		x.peer.metrics.ejections.Inc()
	} else {
		x.f.metrics.ejections.Inc()
	}
	if failures == ejectionsLogged {
		x.f.opt.Logger.Warn("upstream fails again and again, and is avoided", append(targetAttrs(x.endpoint, target), "failures", failures, "err", err)...)
	}
}

// praise takes note that an exchange went well.
func (x *exchange) praise(target router.Target) {
	if failures := target.Succeeded(); failures >= ejectionsLogged {
		x.f.opt.Logger.Info("upstream works again", targetAttrs(x.endpoint, target)...)
	}
}

// targetAttrs are the attributes of a line about a target.
func targetAttrs(endpoint string, target router.Target) []any {
	if target.Node != nil {
		return []any{"endpoint", endpoint, "node", target.Node.ID()}
	}
	attrs := []any{"endpoint", endpoint}
	if s, ok := target.Local.Upstream().(fmt.Stringer); ok {
		attrs = append(attrs, "upstream", s.String())
	}
	return attrs
}

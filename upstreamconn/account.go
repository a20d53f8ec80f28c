package upstreamconn

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"piko/fault"
	"piko/tunnel"
)

// account is what one tunnel has done. Safe for concurrent use; the zero value
// is nothing.
type account struct {
	requests, failed atomic.Uint64
	last             atomic.Pointer[Failure]
}

// Failure is why a tunnel last failed a request.
type Failure struct {
	Time   time.Time
	Code   fault.Code // "" is an answer of 500 and above of the service's own
	Detail string
}

// failureText bounds what is kept of a failure, in bytes.
const failureText = 200

// NoteFailure says that the tunnel, or the service behind it, failed a request.
// Any goroutine may call it.
func (u *upstream) NoteFailure(code fault.Code, detail string) {
	u.account.failed.Add(1)
	u.account.last.Store(&Failure{time.Now(), code, string([]byte(detail[:min(len(detail), failureText)]))})
}

// numbers gives each tunnel of a node a number, beginning at a random one so
// that a node that was started anew does not give one again.
type numbers struct{ last atomic.Uint64 }

func (n *numbers) init()        { n.last.Store(rand.Uint64N(1<<32) << 20) }
func (n *numbers) next() uint64 { return n.last.Add(1) }

// id names the tunnel in the cluster: the node, a dot and its number.
func (u *upstream) id() string { return fmt.Sprintf("%s.%x", u.server.NodeID, u.number) }

// Change is what happened to a tunnel.
type Change struct {
	Connected        bool // otherwise it has ended
	ID               string
	Endpoint, Tenant string
	Remote           string
	Reason           string // why it ended
}

// changed tells whoever wants to know.
func (u *upstream) changed(connected bool, remote, reason string) {
	if u.server.OnChange == nil {
		return
	}
	_, endpoint := tunnel.SplitName(u.instance.endpoint)
	u.server.OnChange(Change{connected, u.id(), endpoint, u.tenant, remote, reason})
}

// Disconnect ends the tunnel with the id, which takes no more requests at once
// and is closed when its streams have ended, after 10 s at the latest. Its
// upstream will connect again, here or elsewhere. It says whether there was one.
func (s *Server) Disconnect(id string) bool {
	s.init()
	for _, u := range s.registry.all() {
		if u.id() == id && u.session() != nil {
			u.retire("an operator wants it to")
			return true
		}
	}
	return false
}

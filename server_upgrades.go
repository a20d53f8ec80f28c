package main

import (
	"context"
	"net/http"
	"time"
)

// farewellTime is what a WebSocket gets at the end: a second to be between two
// frames and for both sides to answer, and a moment to unwind.
const farewellTime = 1500 * time.Millisecond

// upgrades are the requests that ask for another protocol. When the node stops
// they end before all else does: a WebSocket is told why over connections, to
// agents and to other nodes, that must still be there.
type upgrades struct {
	// Static after construction.
	ctx context.Context
	cut context.CancelCauseFunc

	open tally
}

func newUpgrades() *upgrades {
	u := new(upgrades)
	u.ctx, u.cut = context.WithCancelCause(context.Background())
	return u
}

// join has r end with u; done must be called.
func (u *upgrades) join(r *http.Request) (joined *http.Request, done func()) {
	ctx, cancel := context.WithCancelCause(r.Context())
	unhook := context.AfterFunc(u.ctx, func() { cancel(context.Cause(u.ctx)) })
	u.open.add()
	return r.WithContext(ctx), func() {
		unhook()
		cancel(nil)
		u.open.done()
	}
}

// end ends all of them for the given reason, and returns when they have ended,
// or farewellTime is over.
func (u *upgrades) end(ctx context.Context, reason error) {
	ctx, cancel := context.WithTimeout(ctx, farewellTime)
	defer cancel()
	u.cut(reason)
	u.open.wait(ctx)
}

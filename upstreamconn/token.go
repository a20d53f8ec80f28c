package upstreamconn

import (
	"cmp"
	"errors"
	"net/netip"
	"time"

	"piko/auth"
	"piko/fault"
	"piko/tunnel"
)

// verifyPause is how long a fresh token waits that could not be verified because
// the keys cannot be had.
const verifyPause = 5 * time.Second

// onToken: the upstream has a fresh token. Verifying it may take as long as
// fetching keys does, so that is done by a goroutine of its own: one at a time,
// and the newest token wins.
func (u *upstream) onToken(token string) {
	if u.server.Auth == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.token, u.waiting, u.retry = token, "", time.Time{}
	u.startVerifying()
}

// verifyAgain verifies a token that could not be verified before.
func (u *upstream) verifyAgain() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.token == "" {
		u.token = u.waiting
	}
	u.waiting, u.retry = "", time.Time{}
	u.startVerifying()
	u.schedule()
}

// startVerifying needs mu. A token that comes before the tunnel is in the table
// waits for that.
func (u *upstream) startVerifying() {
	if u.token == "" || u.sess == nil || u.ended != nil || u.verifying != nil {
		return
	}
	u.verifying = make(chan struct{})
	go u.verify(u.verifying)
}

// verify verifies tokens until there is none. gone waits for it.
func (u *upstream) verify(done chan struct{}) {
	defer close(done)
	for {
		u.mu.Lock()
		token := u.token
		u.token = ""
		if token == "" || u.ended != nil {
			u.verifying = nil
			u.mu.Unlock()
			return
		}
		u.mu.Unlock()
		u.renewGrant(token)
	}
}

// renewGrant has the tunnel live by the token, or end by it.
func (u *upstream) renewGrant(token string) {
	grant, err := u.server.Auth.Verify(u.tenant, token)
	if _, endpoint := tunnel.SplitName(u.instance.endpoint); err == nil && !grant.MayListen(endpoint) {
		err = fault.New(fault.EndpointNotPermitted, nil)
		u.server.Auth.Refuse(netip.Addr{}, auth.Bearer{Grant: grant, Tenant: u.tenant}, err)
	}
	switch {
	case errors.Is(err, fault.AuthUnavailable):
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.token == "" { // else there is a newer one, which is next
			u.waiting, u.retry = token, time.Now().Add(cmp.Or(u.server.retry, verifyPause))
			u.schedule()
		}
	case err != nil:
		u.expire("token was refused: " + fault.From(err).Code.Text())
	default:
		u.mu.Lock()
		was := u.grant
		u.grant = grant
		u.schedule()
		u.mu.Unlock()
		u.server.places.swap(was.ID(), grant.ID())
		u.checkGrant()
		u.server.log.Debug("upstream has a fresh token", u.attrs("expires", grant.Expiry())...)
	}
}

package upstreamconn

import (
	"context"
	"maps"
	"math"
	"math/rand/v2"
	"time"

	"piko/tunnel"
)

// Rebalance says when a node that has more tunnels than others asks some of
// them to move. Its zero value is never.
type Rebalance struct {
	// Threshold is by which fraction a node may be above the average: 0.2 is a
	// fifth. 0 turns rebalancing off.
	Threshold float64
	// ShedRate is which fraction of the average is asked to move in a second.
	// More is balanced sooner, and more reconnects at a time.
	ShedRate float64
	// MinConns is how many tunnels a node has at least before it asks any:
	// with few, chance alone is above the threshold.
	MinConns int
}

// limit is how many tunnels a node may keep.
func (r Rebalance) limit(average float64) float64 {
	return max(average*(1+r.Threshold), float64(r.MinConns))
}

// shed is how many of own tunnels to ask in this second, never so many that
// fewer than the limit would stay. carry is what the last call returned as
// rest: the part of a tunnel that was not asked yet.
func (r Rebalance) shed(own int, average, carry float64) (n int, rest float64) {
	excess := float64(own) - r.limit(average)
	// Not ">": an average that is no number is none.
	if r.Threshold <= 0 || !(average > 0) || !(excess > 0) {
		return 0, 0
	}
	whole, rest := math.Modf(carry + average*max(r.ShedRate, 0))
	return int(min(whole, math.Ceil(excess))), rest
}

const (
	// askedAgain is how long an upstream is not asked again that has been
	// asked to move because of the balance. If it comes back, it was led to us
	// again, or has nowhere else to go.
	askedAgain = time.Minute

	// shedSpread is over what time upstreams that are asked spread their move:
	// the next are asked a second later.
	shedSpread = time.Second

	// shedOldTime is what idle v0.9.0 upstreams get to end their last streams.
	shedOldTime = 500 * time.Millisecond
)

// askedKey names an upstream that was asked: its instance, or the tunnel of one
// that does not say which it is.
type askedKey struct {
	instance
	tunnel *upstream // nil if the instance is known
}

func (u *upstream) key() askedKey {
	if u.instance.id == "" {
		return askedKey{u.instance, u}
	}
	return askedKey{instance: u.instance}
}

// askedOne is when, and which of the instance's tunnels.
type askedOne struct {
	at time.Time
	u  *upstream
}

// balancer asks tunnels to move away when there are too many. It belongs to
// the goroutine of Run.
type balancer struct {
	s     *Server
	carry float64
	asked map[askedKey]askedOne // in the last minute
}

func newBalancer(s *Server) *balancer {
	return &balancer{s: s, asked: make(map[askedKey]askedOne)}
}

// balance is called once a second.
func (b *balancer) balance(ctx context.Context, now time.Time) {
	maps.DeleteFunc(b.asked, func(_ askedKey, a askedOne) bool { return now.Sub(a.at) >= askedAgain })
	if b.s.Average == nil || b.s.Rebalance.Threshold <= 0 {
		return
	}
	average := b.s.Average()
	_, most := b.s.Table.Totals()
	if draining, _ := b.s.registry.stage(); draining || float64(most) <= b.s.Rebalance.limit(average) {
		b.carry = 0
		return
	}
	c := b.census(now)
	n, rest := b.s.Rebalance.shed(c.stay, average, b.carry)
	b.carry = rest
	if n == 0 {
		return
	}
	asked := b.askSome(c.able, n, now)
	sent := b.sendSome(ctx, c.old, n-asked)
	b.s.metrics.shed.Add(float64(asked + sent))
	if asked+sent > 0 {
		b.s.log.Info("upstreams asked to move: this node has more than its share", "asked", asked, "sent_back", sent,
			"upstreams", c.stay, "average", average, "keeps", int(b.s.Rebalance.limit(average)))
	}
}

// census is which tunnels there are.
type census struct {
	stay int         // that serve and are not about to move away
	able []*upstream // those of them that can be asked
	old  []*upstream // those of v0.9.0 that are idle and have been here for a while
}

func (b *balancer) census(now time.Time) (c census) {
	for _, u := range b.s.registry.all() {
		sess := u.session()
		if sess == nil || u.goes() || u.local.Draining() {
			continue
		}
		before, asked := b.asked[u.key()]
		if asked && before.u == u {
			continue // on its way
		}
		c.stay++
		switch {
		case asked:
		case sess.HasControl():
			c.able = append(c.able, u)
		case now.Sub(u.since) >= askedAgain && u.local.InFlight() == 0:
			c.old = append(c.old, u)
		}
	}
	return c
}

// askSome asks n tunnels of the list to move, any of them: they stay what they
// are until their upstreams have opened others.
func (b *balancer) askSome(list []*upstream, n int, now time.Time) (asked int) {
	for _, i := range rand.Perm(len(list)) {
		u := list[i]
		if asked == n {
			break
		}
		if _, again := b.asked[u.key()]; again { // two tunnels of one instance
			continue
		}
		b.asked[u.key()] = askedOne{now, u}
		_ = u.session().Drain(tunnel.DrainMessage{Reason: "rebalance", ReconnectWithin: shedSpread})
		b.s.log.Debug("upstream asked to move", u.attrs("instance", u.instance.id, "reason", "rebalance")...)
		asked++
	}
	return asked
}

// sendSome sends n v0.9.0 upstreams of the list back, those that are still idle.
func (b *balancer) sendSome(ctx context.Context, list []*upstream, n int) (sent int) {
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	list = list[:min(n, len(list))]
	bounded, cancel := context.WithTimeout(ctx, shedOldTime)
	defer cancel()
	return b.s.sendIdleBack(bounded, list)
}

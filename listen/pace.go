package listen

import "time"

// What a port takes while other work goes on that must not wait for it. Each new
// connection makes work for a goroutine of its own, and the runtime has them take
// turns with those that are at work for others: who accepts as fast as the
// system gives has hundreds before each of their turns, and the collector's work
// for the memory of all of them. A nap of a millisecond is the shortest after
// which the runtime has asked the system for what came for others meanwhile.
const (
	paceNap     = time.Millisecond
	paceLate    = 5 * paceNap / 2        // a nap that took so long says that others wait, too
	paceOnTime  = 3 * paceNap / 2        // one that took no longer says that there is room
	paceMemory  = 100 * time.Millisecond // for so long after the last sign of other work it is taken to go on
	paceBurst   = 16                     // connections that may come at once after a rest
	paceLeast   = 1.0                    // connections each millisecond, however late naps are
	paceMost    = 6.0                    // however punctual
	paceAtFirst = 4.0
	paceUp      = 0.05 // for each nap on time
	paceDown    = 0.8  // for each that was late
)

// pace says when to take the next connection. Owned by who calls Accept.
type pace struct {
	busy time.Time // when there was other work
	last time.Time // when tokens was counted
	rate float64   // connections each millisecond
	left float64   // connections that may be taken now
}

// next waits until the next connection may be taken; others says whether there
// is other work now.
func (p *pace) next(others bool) {
	now := time.Now()
	if others {
		p.busy = now
	}
	if now.Sub(p.busy) > paceMemory {
		p.rate = 0
		return
	}
	if p.rate == 0 {
		p.rate, p.last, p.left = paceAtFirst, now, paceBurst
	}
	for p.count(now); p.left < 1; p.count(now) {
		time.Sleep(paceNap)
		was := now
		now = time.Now()
		p.adapt(now.Sub(was))
	}
	p.left--
}

// count adds what may be taken for the time that has passed.
func (p *pace) count(now time.Time) {
	p.left = min(p.left+p.rate*float64(now.Sub(p.last))/float64(time.Millisecond), paceBurst)
	p.last = now
}

// adapt learns from a nap how others fare.
func (p *pace) adapt(nap time.Duration) {
	switch {
	case nap >= paceLate:
		p.rate = max(p.rate*paceDown, paceLeast)
	case nap <= paceOnTime:
		p.rate = min(p.rate+paceUp, paceMost)
	}
}

package client

import (
	"slices"
	"time"

	"piko/tunnel"
)

const (
	// growSpread is over what time listeners spread the tunnels that they open
	// when their nodes tell all of them that there is one more.
	growSpread = time.Second

	// surplusTime is how long there have to be too many tunnels before one is
	// left. A node may count few nodes because another has just died, whose
	// tunnel we take for alive: it was asked by then for a sign of life, for
	// which it has 5 s.
	surplusTime = 10 * time.Second

	// moveTime is how long a tunnel that is to be left waits for what replaces
	// it while another one serves: a load balancer may lead to that one's node
	// only, and the node that is to be left may be waiting for nothing else to
	// stop.
	moveTime = 3 * time.Second
)

// manager owns a listener's tunnels: how many there are, which are left, and
// when the next attempt is. plan.go has the decisions. It is one goroutine,
// which is woken by what happens and then looks at everything anew.
type manager struct {
	// Static after construction.
	l       *Listener
	results chan dialled // holds as many as there are attempts

	// Owned by run.
	held     []*link     // open, and not left
	urls     []urlState  // of l.urls
	allURLs  []int       // their numbers
	flying   []time.Time // when the attempts under way began
	up       bool        // there was a tunnel at some time
	emptied  time.Time   // when the last tunnel was lost
	failures int         // attempts that failed since one did not
	outage   outage
	search   search
	nextDial time.Time // not before
	lastDial time.Time
	crowded  time.Time // since when there are too many tunnels; zero: there are not
}

func newManager(l *Listener) *manager {
	m := &manager{l: l, results: make(chan dialled, maxDials), urls: make([]urlState, len(l.urls))}
	for u := range m.urls {
		m.allURLs = append(m.allURLs, u)
	}
	return m
}

// run keeps the tunnels open until the listener stops or, as long as there was
// none, cannot succeed. It waits for the attempts that are under way.
func (m *manager) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(m.step(time.Now()))
		select {
		case <-m.l.keeping.Done():
			for len(m.flying) > 0 {
				m.landed(<-m.results) // what was opened is the listener's already
			}
			return
		case <-m.l.wake:
		case <-timer.C:
		case d := <-m.results:
			m.landed(d)
			if err := m.finish(d, time.Now()); err != nil {
				m.l.first <- err
				m.l.stop()
			}
		}
	}
}

// step does what is to be done now, and says when to look again if nothing
// happens.
func (m *manager) step(now time.Time) time.Duration {
	if m.l.keeping.Err() != nil {
		return 0
	}
	m.notice(now)
	p := m.plan(now)
	wait := m.trim(p, now)
	return min(wait, m.open(p, now), m.untilLate(now))
}

func (m *manager) plan(now time.Time) plan {
	return decide(m.l.connections, len(m.urls), m.holdings(now))
}

// holdings is what the decisions need to know of the tunnels.
func (m *manager) holdings(now time.Time) []holding {
	m.l.mu.Lock()
	defer m.l.mu.Unlock()
	list := make([]holding, len(m.held))
	for i, lk := range m.held {
		list[i] = lk.holding(now)
	}
	return list
}

// holding needs the listener's mu.
func (lk *link) holding(now time.Time) holding {
	return holding{
		place: placeOf(lk.sess.Peer().NodeID, lk.urls[0]),
		urls:  lk.urls,
		since: lk.since,
		asked: lk.moved,
		late:  !lk.moved.IsZero() && !now.Before(lk.until),
		nodes: max(lk.nodes, 1),
		said:  lk.said,
	}
}

// notice takes up what has happened to the tunnels.
func (m *manager) notice(now time.Time) {
	for _, lk := range slices.Clone(m.held) {
		m.l.mu.Lock()
		asked, nodes := lk.asked, lk.nodes
		m.l.mu.Unlock()
		grown := nodes > lk.seen
		lk.seen = nodes
		switch err := lk.sess.Err(); {
		case err != nil:
			m.lost(lk, err, now)
		case asked != nil && lk.moved.IsZero():
			lk.moved = now
			m.ask(lk, asked, now)
		case grown:
			m.grown(now)
		}
	}
}

// grown has one more node tried, now that there is one.
func (m *manager) grown(now time.Time) {
	if now.Sub(m.lastDial) >= longPause {
		m.outage, m.search = outage{}, search{}
	}
	if at := now.Add(jitter(growSpread)); !m.nextDial.After(now) || at.Before(m.nextDial) {
		m.nextDial = at
	}
}

// lost takes a tunnel that has ended away.
func (m *manager) lost(lk *link, err error, now time.Time) {
	m.drop(lk)
	if len(m.held) == 0 {
		m.emptied = now
	}
	m.l.lost(lk, err, m.disturbed(lk, now, 0))
}

// ask begins the move that a node asked for.
func (m *manager) ask(lk *link, msg *tunnel.DrainMessage, now time.Time) {
	m.l.log.Info("server asks to move", "node", lk.sess.Peer().NodeID, "reason", msg.Reason)
	least := jitter(msg.ReconnectWithin)
	lk.until = now.Add(least + moveTime)
	m.disturbed(lk, now, least)
}

// untilLate is how long until the next tunnel is late.
func (m *manager) untilLate(now time.Time) time.Duration {
	wait := time.Duration(1<<63 - 1)
	for _, lk := range m.held {
		if lk.until.After(now) {
			wait = min(wait, lk.until.Sub(now))
		}
	}
	return wait
}

// disturbed plans the next attempt, not before least has passed, and says how
// long that is from now. If lk has lived for a while it is replaced at once;
// otherwise servers that close tunnels, or ask us to move, again and again would
// keep us dialling.
func (m *manager) disturbed(lk *link, now time.Time, least time.Duration) time.Duration {
	lived := now.Sub(lk.since)
	switch {
	case lived >= healthyAfter:
		m.outage, m.search = outage{}, search{}
	case lived >= calmAfter:
		m.outage.soothe(now)
	}
	at := now.Add(max(least, m.outage.next(now, nil)))
	pending := m.nextDial.After(now)
	switch {
	case len(m.held) == 0 || !pending:
		m.nextDial = at // nobody waits for the end of an unhurried search
	case lived >= calmAfter == at.Before(m.nextDial):
		m.nextDial = at // the sooner of the two if it was a good one, else the later
	}
	return m.nextDial.Sub(now)
}

func (m *manager) drop(lk *link) {
	m.held = slices.DeleteFunc(m.held, func(o *link) bool { return o == lk })
	m.urls[lk.urls[0]].tunnels--
}

// trim leaves what the plan says can be left, and says when to look again.
func (m *manager) trim(p plan, now time.Time) time.Duration {
	var leave []*link
	for _, i := range p.leave {
		leave = append(leave, m.held[i])
	}
	wait := time.Duration(1<<63 - 1)
	switch {
	case len(p.surplus) == 0:
		m.crowded = time.Time{}
	case m.crowded.IsZero():
		m.crowded, wait = now, surplusTime
		for _, lk := range m.held {
			lk.sess.Probe()
		}
	case now.Sub(m.crowded) < surplusTime:
		wait = surplusTime - now.Sub(m.crowded)
	default:
		for _, i := range p.surplus {
			leave = append(leave, m.held[i])
		}
		m.crowded = time.Time{}
	}
	for _, lk := range leave {
		m.drop(lk)
		m.l.leave(lk)
	}
	return wait
}

package agent

import (
	"fmt"
	"slices"
	"time"
)

const (
	// replaceTime is how long a listener that was changed goes on at most while
	// the one in its place has no tunnel.
	replaceTime = 30 * time.Second

	// overlapTime is how long both are connected, so that every node knows of the
	// new one before the old one leaves.
	overlapTime = time.Second
)

// Change is a new list of listeners that was checked. Commit puts it in force;
// a Change that is not committed has no effect.
type Change struct {
	// The endpoints that it is about.
	Added, Changed, Removed []string

	agent *Agent
	next  []*listener
	start []*listener
	stop  []stopping
}

// stopping is a listener that is in the list no more, and the one with its
// endpoint that is; nil if there is none.
type stopping struct{ old, by *listener }

// Prepare checks what the agent would do with another list of listeners. Those
// with the ID of a listener that runs stay as they are; so an ID must stand for
// everything that a Listener says. Call it from one goroutine at a time, and
// Commit before the next call or never.
func (a *Agent) Prepare(list []Listener) (*Change, error) {
	if len(list) == 0 {
		return nil, errNoListeners
	}
	a.mu.Lock()
	running := slices.DeleteFunc(slices.Clone(a.listeners), (*listener).isGone)
	a.mu.Unlock()
	c := &Change{agent: a}
	for _, lc := range list {
		if i := slices.IndexFunc(running, func(l *listener) bool { return lc.ID != "" && l.cfg.ID == lc.ID }); i >= 0 {
			c.next = append(c.next, running[i])
			running = slices.Delete(running, i, i+1)
			continue
		}
		l, err := a.build(lc)
		if err != nil {
			return nil, fmt.Errorf("listener %q: %w", lc.Endpoint, err)
		}
		c.next, c.start = append(c.next, l), append(c.start, l)
	}
	c.pair(running)
	return c, nil
}

// pair says what becomes of listeners that are in the list no more.
func (c *Change) pair(old []*listener) {
	replaced := map[*listener]bool{}
	for _, o := range old {
		s := stopping{old: o}
		if i := slices.IndexFunc(c.start, func(l *listener) bool { return l.cfg.Endpoint == o.cfg.Endpoint }); i >= 0 {
			s.by = c.start[i]
			replaced[s.by] = true
		} else {
			c.Removed = append(c.Removed, o.cfg.Endpoint)
		}
		c.stop = append(c.stop, s)
	}
	for _, l := range c.start {
		if replaced[l] {
			c.Changed = append(c.Changed, l.cfg.Endpoint)
		} else {
			c.Added = append(c.Added, l.cfg.Endpoint)
		}
	}
}

// Commit starts the listeners that are new, and drains those that are in the
// list no more; one that was changed only when the new one serves. It does not
// wait for any of that. Before Run it says what Run begins with.
func (c *Change) Commit() {
	a := c.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners = c.next
	if a.live == 0 {
		return // Run has not begun, or is over
	}
	for _, l := range c.start {
		a.start(l)
	}
	for _, s := range c.stop {
		if s.by == nil {
			s.old.cancel()
			continue
		}
		a.work.Go(func() { a.replace(s) })
	}
}

// replace drains a listener when the one in its place serves, or cannot.
func (a *Agent) replace(s stopping) {
	defer s.old.cancel()
	late := time.NewTimer(replaceTime)
	defer late.Stop()
	select {
	case <-s.by.up:
		late.Reset(overlapTime)
	case <-s.by.gone:
		return
	case <-s.old.gone:
		return
	case <-late.C:
		a.log.Warn("listener is replaced though the new one is not connected yet", "endpoint", s.old.cfg.Endpoint)
		return
	}
	select {
	case <-late.C:
	case <-s.old.gone:
	}
}

func (l *listener) isGone() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

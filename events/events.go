// Package events says what has changed in the cluster, for people and programs
// that watch it: endpoints and nodes that come up, go down or drain, and the
// tunnels of this node.
//
// Three parts that know nothing of each other: a Log has the last events, and
// readers that follow it; a Tracker turns what a node sees into events, such that
// what comes back within two seconds was never away; a Webhook sends events on,
// signed. Main puts them together.
package events

import (
	"crypto/rand"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Event is something that has happened.
type Event struct {
	Type     string    `json:"type"` // one of the constants below
	Time     time.Time `json:"time"`
	Node     string    `json:"node"`     // that it is about; of an endpoint, which noticed it
	Endpoint string    `json:"endpoint"` // "" if it is about a node
	Tenant   string    `json:"tenant"`
	Upstream string    `json:"upstream"` // id of the tunnel; "" if it is not about one
	Detail   string    `json:"detail"`   // more about it, such as why, if that is known
}

// The types of events. Of endpoints a node says what holds for the whole cluster,
// as far as it knows; of tunnels it knows its own.
const (
	EndpointUp           = "endpoint-up"
	EndpointDown         = "endpoint-down"
	NodeUp               = "node-up"
	NodeDown             = "node-down"
	NodeDraining         = "node-draining"
	UpstreamConnected    = "upstream-connected"
	UpstreamDisconnected = "upstream-disconnected"
)

var types = []string{EndpointUp, EndpointDown, NodeUp, NodeDown, NodeDraining, UpstreamConnected, UpstreamDisconnected}

// logSize is how many events a Log keeps.
const logSize = 1024

// Log has the last 1,024 events of a node. All methods may be called by any
// goroutine at any time. Use NewLog.
type Log struct {
	// Static after construction.
	epoch string // of this log, in the ids of its events

	// Guarded by mu, under which no other lock is taken.
	mu     sync.Mutex
	ring   [logSize]Event
	last   uint64        // number of the newest event; 0: there is none
	change chan struct{} // closed with the next event
	count  map[string]uint64
	lost   uint64 // by readers
}

// NewLog returns a log without events.
func NewLog() *Log {
	return &Log{epoch: strings.ToLower(rand.Text()[:8]), change: make(chan struct{}), count: make(map[string]uint64, len(types))}
}

// Publish adds an event. It does not block.
func (l *Log) Publish(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.ring[l.last%logSize] = e
	l.count[e.Type]++
	close(l.change)
	l.change = make(chan struct{})
}

// Reader follows a log. It belongs to one goroutine.
type Reader struct {
	log  *Log
	next uint64 // number of the event that is read next
	lost uint64 // events that were gone before they were read
}

// Lost is how many events were gone before they were read, since it was asked
// last.
func (r *Reader) Lost() uint64 {
	n := r.lost
	r.lost = 0
	return n
}

// Follow returns a reader of the events that come.
func (l *Log) Follow() *Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Reader{log: l, next: l.last + 1}
}

// FollowAfter returns a reader of the events after the one with the id. Those
// that are not kept any more are left out; of an id that the log does not know,
// since it is of another node or start, come all that are kept.
func (l *Log) FollowAfter(id string) *Reader {
	r := l.Follow()
	r.next = 1
	if epoch, number, ok := strings.Cut(id, "-"); ok && epoch == l.epoch {
		if n, err := strconv.ParseUint(number, 10, 64); err == nil {
			l.mu.Lock()
			r.next = min(n, l.last) + 1
			l.mu.Unlock()
		}
	}
	return r
}

// Next returns the next event and its id. If there is none yet, ok is false and
// more is closed when there is.
func (r *Reader) Next() (e Event, id string, more <-chan struct{}, ok bool) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if oldest := max(l.last, logSize) - logSize + 1; r.next < oldest { // who is slow loses the oldest
		r.lost += oldest - r.next
		l.lost += oldest - r.next
		r.next = oldest
	}
	if r.next > l.last {
		return Event{}, "", l.change, false
	}
	e, id = l.ring[r.next%logSize], l.epoch+"-"+strconv.FormatUint(r.next, 10)
	r.next++
	return e, id, nil, true
}

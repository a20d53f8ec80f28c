package inspect

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// maxExchanges bounds how many exchanges are kept, whatever their size: a
	// page shows no more.
	maxExchanges = 2000
	// maxMessages bounds how many messages of one exchange are kept: the latest.
	maxMessages = 1000
	// exchangeCost is what an exchange weighs besides its texts, in bytes.
	exchangeCost = 1 << 10
	// messageCost is the same of a message.
	messageCost = 96
)

// store holds the latest exchanges. Safe for concurrent use: the lock is held
// for the copy of one piece at most.
type store struct {
	// Static after construction.
	maxBytes, maxBody int

	// Guarded by mu.
	mu      sync.Mutex
	list    []*exchange // by id
	last    uint64      // id
	total   int         // bytes of the list
	version uint64      // of the latest change
}

// exchange is a request and its answer, as far as they have come.
type exchange struct {
	// Static once it was added.
	id                          uint64
	to                          route
	start                       time.Time
	method, target, host, proto string
	shownTarget                 string // without secrets, unless they are shown
	header                      http.Header
	length                      int64 // of the request's body; -1: it ends by itself
	client                      string
	replayOf                    uint64 // 0: a client's
	edited                      bool   // a replay that is not the same as the original

	// Guarded by the store's mu.
	version   uint64
	cost      int
	gone      bool // no longer in the list
	kind      string
	request   capture
	response  capture
	status    int // 0: there is none yet
	answer    http.Header
	trailer   http.Header
	firstByte time.Duration // until the head of the answer
	took      time.Duration // set once done
	done      bool
	failure   string
	messages  []*message
	kept      int // bytes of the messages' data
	in, out   int // how many messages there were
}

// The values of exchange.kind.
const (
	kindHTTP      = "http"
	kindGRPC      = "grpc"
	kindEvents    = "sse"
	kindWebSocket = "websocket"
	kindUpgrade   = "upgrade" // to anything else
)

// capture is a body: what has passed, and what of it is kept. data is only
// appended to, so that whoever has it may read it without the lock.
type capture struct {
	data  []byte
	size  int64
	ended bool // the whole body has passed
}

// whole reports whether all that has passed is kept.
func (c *capture) whole() bool { return c.size == int64(len(c.data)) }

// message is a piece of an exchange that both sides take for one: a frame of a
// WebSocket, a message of gRPC, an event. data is only appended to.
type message struct {
	at         time.Time
	out        bool // from the service to the client
	kind       string
	size       int64 // as it was announced, or has passed
	data       []byte
	compressed bool
	gone       bool // it made room for later ones
}

func newStore(maxBytes, maxBody int) *store {
	return &store{maxBytes: maxBytes, maxBody: maxBody}
}

// add gives an exchange its id and a place in the list.
func (s *store) add(x *exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	x.id, x.kind = s.last, kindHTTP
	s.list = append(s.list, x)
	s.changed(x, exchangeCost+len(x.target)*2+headerCost(x.header))
	for len(s.list) > maxExchanges {
		s.evict()
	}
}

// change calls f for an exchange that is still in the list; f returns the bytes
// that it has taken.
func (s *store) change(x *exchange, f func() (cost int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !x.gone {
		s.changed(x, f())
	}
}

// changed makes room for what x has taken. Whoever holds mu calls it.
func (s *store) changed(x *exchange, cost int) {
	s.version++
	x.version = s.version
	x.cost += cost
	s.total += cost
	for s.total > s.maxBytes && len(s.list) > 1 {
		s.evict()
	}
}

// evict forgets the oldest exchange.
func (s *store) evict() {
	x := s.list[0]
	x.gone = true
	s.total -= x.cost
	s.list = slices.Delete(s.list, 0, 1)
	s.version++
}

// clear forgets all.
func (s *store) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.list) > 0 {
		s.evict()
	}
}

// body keeps what fits of a piece of a body, and returns what that has cost.
// Whoever holds mu calls it.
func (s *store) body(c *capture, p []byte) (cost int) {
	c.size += int64(len(p))
	room := s.room(len(c.data))
	if c.size != int64(len(c.data)+len(p)) {
		room = 0 // there is a hole already
	}
	p = p[:min(len(p), room)]
	if len(p) == 0 {
		return 0
	}
	before := cap(c.data)
	c.data = append(c.data, p...)
	return cap(c.data) - before
}

// room is how many bytes more may be kept of something that has so many; never
// more than all is allowed to have, however small that is.
func (s *store) room(has int) int { return max(min(s.maxBody, s.maxBytes/4)-has, 0) }

// begin adds a message to an exchange. Whoever holds mu calls it.
func (s *store) begin(x *exchange, m *message) (cost int) {
	x.messages = append(x.messages, m)
	if m.out {
		x.out++
	} else {
		x.in++
	}
	cost = messageCost
	for len(x.messages) > maxMessages {
		cost -= x.forget()
	}
	return cost
}

// extend keeps what fits of a piece of the exchange's latest message m. The
// latest messages are those worth having: older ones make room.
func (s *store) extend(x *exchange, m *message, p []byte) (cost int) {
	limit := s.room(0)
	p = p[:min(len(p), max(limit/4-len(m.data), 0))]
	if len(p) == 0 || m.gone {
		return 0
	}
	before := cap(m.data)
	m.data = append(m.data, p...)
	grown := cap(m.data) - before
	x.kept += grown
	cost = grown
	for x.kept > limit && len(x.messages) > 1 && x.messages[0] != m {
		cost -= x.forget()
	}
	return cost
}

// forget drops the exchange's oldest message and returns what that frees.
func (x *exchange) forget() int {
	m := x.messages[0]
	x.messages = slices.Delete(x.messages, 0, 1)
	x.kept -= cap(m.data)
	freed := messageCost + cap(m.data)
	m.data, m.gone = nil, true
	return freed
}

// find returns a copy of an exchange, which is no longer changed, or nil.
func (s *store) find(id uint64) *exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := slices.BinarySearchFunc(s.list, id, func(x *exchange, id uint64) int {
		return int(int64(x.id) - int64(id))
	})
	if !ok {
		return nil
	}
	return s.list[i].snapshot()
}

// all returns copies of all exchanges, the oldest first.
func (s *store) all() []*exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*exchange, len(s.list))
	for i, x := range s.list {
		list[i] = x.snapshot()
	}
	return list
}

// snapshot copies an exchange: its bytes are shared, as they are never changed
// once they are there.
func (x *exchange) snapshot() *exchange {
	c := *x
	c.messages = make([]*message, len(x.messages))
	for i, m := range x.messages {
		c.messages[i] = new(*m)
	}
	return &c
}

// headerCost is about what a header takes.
func headerCost(h http.Header) int {
	n := 0
	for name, values := range h {
		n += 64 + len(name)
		for _, v := range values {
			n += 16 + len(v)
		}
	}
	return n
}

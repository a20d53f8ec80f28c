package relay

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// maxLaneHead is how long a request's head may be; longer ones are left to others.
const maxLaneHead = 64 << 10

// Lane carries the requests of one connection to a Pool, one after the other, by following the bounds of the messages: it
// reads and checks the heads, follows lengths and chunks, and makes neither an http.Request nor an http.Response. What it
// sends is what RoundTrip and CopyResponse behind a net/http server would send, but for the order and the letter case of
// fields, the reason phrase, and Date, which it does not add.
//
// It carries plain requests only. What asks for more than that (an upgrade, Expect, gRPC, another version ...), and
// whatever is not beyond doubt in syntax or framing, is given back as it came, for net/http's server to judge.
//
// A service that hangs up between two requests is not noticed by the other side; one that does so in a response ends the
// connection with a reset.
type Lane struct {
	// Static, but that the Keeper may choose another Pool for each attempt, in Begin and in Again.

	Pool   *Pool
	Keeper LaneKeeper
	// Prefix is put before each target, without a slash at its end; Query before its query.
	Prefix, Query string
	// Drop is a field that is taken out of responses; "" is none.
	Drop string
	// Filter looks at all other fields; nil lets them pass.
	Filter LaneFilter
	// Keep is how many bytes of a body are kept that has not come with its head, so that it can be sent again; 0 is none,
	// and bodies of unknown length are never kept. Buffers counts them; nil takes everything.
	Keep    int
	Buffers Buffers
	// Heads has Request.Head and Request.ResponseHead filled in. Begin may change it.
	Heads bool

	// Request is the one under way; it belongs to the goroutine of Serve, and so to the Keeper while that is called.
	Request LaneRequest

	// Owned by Serve.
	ctx       context.Context
	in        conn // the client's; owned by upload while that runs
	head      laneHead
	out       []byte // the request as it is sent, as far as it has come with its head
	outBuf    *[]byte
	c         *conn
	uploading bool
	responded bool
	wrote     bool
	closing   bool // the response says that the connection ends behind it
	begun     bool // of the final response something may have been written
	uploaded  chan struct{}

	// Of the body's upload.
	chunks   chunks  // owned by upload
	log      *[]byte // what has come of the body behind out; nil if it is not kept. Owned by upload while that runs
	reserved int     // of Buffers
	moved    bool    // an upload has read the client's connection
	complete atomic.Bool
	stopping atomic.Bool
	pos      atomic.Int64 // bytes of the body that have come

	// Guarded by mu, which is never held for long and under which the client's connection is not used.
	mu       sync.Mutex
	cause    error // why everything ends
	attached *conn // that a cause aborts
	dialling context.CancelCauseFunc
	writeErr error // of the request
}

// LaneRequest is what a Lane knows of a request.
type LaneRequest struct {
	// Of the request; known when Begin is called, but for Head.

	Method string
	Length int64  // of the body; -1 is unknown
	Whole  bool   // the body has come with the head
	Stream bool   // NeedsHTTP2
	Head   string // if Lane.Heads, from the request line to the empty line
	Start  time.Time

	// Of the exchange; known when End is called.

	Status       int
	Retries      int
	Received     int64 // bytes of the request's body
	Sent         int64 // bytes of the response's body
	ResponseHead string
	Err          error // why the exchange failed, if it did
}

// LaneKeeper decides what a Lane leaves open. Its methods are called by the goroutine of Serve.
type LaneKeeper interface {
	// Begin says whether the lane may carry the request, of which nothing has been sent: otherwise Serve gives it back.
	// Each request that may has an End.
	Begin(l *Lane) bool
	// Again says whether to send a request once more that got no response, and which could be: what its Pool does by itself
	// for a connection that was used before is not asked about. opened says that there was a connection.
	Again(l *Lane, err error, opened bool) bool
	// Failed is called for a request that got no response. It returns an answer, from status line to body, which it notes
	// in Request.Status; nil resets the connection. With back, which it may say only if intact, Serve gives the request back.
	Failed(l *Lane, err error, intact bool) (answer []byte, back bool)
	// Answered is called when the head of a final response has come, with its status in Request. head begins with its
	// status line, and is valid until Answered returns.
	Answered(l *Lane, head []byte)
	// Closing says whether the connection shall end behind the response that is about to be sent.
	Closing() bool
	// End is called when the exchange is over.
	End(l *Lane)
}

// LaneFilter decides about fields, in any letter case, and about what else of a head has to be looked at. Its methods are
// called by the goroutine of Serve, before the Keeper is. What they are given is valid until they return.
type LaneFilter interface {
	// Target looks at the target of a request; ok is false for one that is not for the lane.
	Target(target []byte) (ok bool)
	// RequestField looks at a field of a request that means nothing to the lane. keep says to send it on; ok is that of
	// Target.
	RequestField(name, value []byte) (keep, ok bool)
	// ResponseField does so for a response. With ok false the head is parsed, and given to ResponseHeader.
	ResponseField(status int, name, value []byte) (keep, ok bool)
	// ResponseHeader takes out of the header of a response what is not to be sent on.
	ResponseHeader(status int, h http.Header)
}

// LaneConn is a connection that a Lane can serve. OnEnd has f called when the other side has ended the connection, in
// order or not, also if that was before; f does not wait, and uses no method of the connection. nil takes f back.
type LaneConn interface {
	net.Conn
	OnEnd(f func())
}

// Serve carries the requests of nc until that ends, or the lane is aborted, and then closes nc. With back it has met a
// request that is not for it: nc and what was read of it, which begins with that request, are the caller's. ctx bounds
// dials; read is what was read of nc before. It is called once.
func (l *Lane) Serve(ctx context.Context, nc LaneConn, read []byte) (left []byte, back bool) {
	l.ctx = ctx
	l.in.nc = nc
	l.in.hold()
	if len(read) > len(l.in.buf) {
		l.in.drop()
		l.in.buf = read
	}
	l.in.w = copy(l.in.buf, read)
	l.uploaded = make(chan struct{}, 1)
	nc.OnEnd(l.clientGone)
	for {
		switch l.next() {
		case laneGoOn:
			continue
		case laneBack:
			nc.OnEnd(nil)
			left = append(left, l.in.buf[l.in.r:l.in.w]...)
			back = true
		case laneLinger:
			l.linger()
			_ = nc.Close()
		case laneClose:
			_ = nc.Close()
		case laneReset:
			resetConn(nc)
		}
		l.in.drop()
		return left, back
	}
}

// Abort ends the exchange under way, and all that would follow: Serve resets the connection and returns. It does not wait.
// An idle lane goes on waiting until its connection is closed.
func (l *Lane) Abort(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.cause = cause
	}
	if l.attached != nil {
		l.attached.abort()
		l.attached = nil
	}
	if l.dialling != nil {
		l.dialling(cause)
	}
}

func (l *Lane) clientGone() { l.Abort(errClientGone) }

// Cause is why the lane was aborted: nil if it was not.
func (l *Lane) Cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// laneEnd is what becomes of a lane after a request.
type laneEnd uint8

const (
	laneGoOn laneEnd = iota
	laneClose
	laneLinger
	laneReset
	laneBack
)

// next carries one request.
func (l *Lane) next() laneEnd {
	if l.in.buffered() == 0 && len(l.in.buf) > readBuffer {
		l.in.drop() // an idle connection is not to hold what one long head needed
		l.in.hold()
	}
	raw, err := l.in.head(maxLaneHead)
	switch {
	case err != nil && l.in.buffered() > 0:
		return laneBack // too long, or cut off
	case err != nil:
		return laneClose
	}
	begin := l.in.r - len(raw)
	end := laneBack
	if l.begin(raw) {
		end = l.carry()
		putLaneBuffer(l.outBuf)
	}
	l.out, l.outBuf = nil, nil
	if end == laneBack {
		l.in.r = begin
	}
	return end
}

// begin makes the request ready to be sent. It is false if that is not the lane's.
func (l *Lane) begin(raw []byte) bool {
	l.outBuf = laneBuffer(len(raw) + l.in.buffered() + len(l.Prefix) + len(l.Query) + laneRoom)
	ok := false
	l.out, ok = l.head.scan((*l.outBuf)[:0], raw, l.Prefix, l.Query, l.Filter)
	l.Request = LaneRequest{Method: l.head.method, Length: l.head.length, Stream: l.head.streams, Start: time.Now()}
	r := &l.Request
	r.Whole = r.Length >= 0 && r.Length <= int64(l.in.buffered())
	if !ok || !l.Keeper.Begin(l) {
		putLaneBuffer(l.outBuf)
		return false
	}
	if l.Heads {
		r.Head = string(raw)
	}
	l.closing, l.begun, l.moved, l.writeErr = l.head.close, false, false, nil
	l.complete.Store(r.Length == 0)
	l.stopping.Store(false)
	l.pos.Store(0)
	return true
}

// laneRoom is what a head may get longer by.
const laneRoom = 64

// laneBuffer returns a buffer of a pool that holds size bytes, if there is one.
func laneBuffer(size int) *[]byte {
	if size <= readBuffer {
		return readBuffers.Get().(*[]byte)
	}
	return copyBuffers.Get().(*[]byte)
}

func putLaneBuffer(b *[]byte) {
	if b != nil && len(*b) == readBuffer {
		readBuffers.Put(b)
	} else if b != nil {
		copyBuffers.Put(b)
	}
}

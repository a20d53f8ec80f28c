package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"
)

const (
	// The peer opens the control stream, and reads what we say on it, within:
	controlOpenTime  = 10 * time.Second
	controlWriteTime = 30 * time.Second

	// A peer that says more than this is read no faster; what it says waits in
	// its stream's window.
	// There is such a pause behind every token, which costs more to look at.
	controlBurst = 64
	controlPause = 100 * time.Millisecond
)

// control is the control stream of a session: a goroutine for moments that reads,
// and one that writes what is to be said. A peer that says nothing costs none.
type control struct {
	// Static after construction.
	s *Session

	// Owned by who reads.
	lines lineReader
	read  int // messages since the last pause

	// Guarded by mu.
	mu      sync.Mutex
	stream  *Stream     // nil until it is open
	late    *time.Timer // at a node, until the stream is open
	reading bool        // readNews runs, or will
	news    bool        // there may be something to read
	writing bool
	over    bool      // end was called
	queue   []message // at most one of each type, in the order they were first said
}

// newControl returns one that takes tokens, or has no use for them.
func newControl(s *Session, tokens bool) *control {
	return &control{s: s, lines: lineReader{tokens: tokens}}
}

// opened says whether the stream is there and counts as one.
func (c *control) opened() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stream != nil
}

// start opens the control stream, or at a node has it awaited. The mux runs by now.
func (c *control) start(node bool) {
	if node {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.stream == nil && !c.over {
			c.late = time.AfterFunc(controlOpenTime, func() {
				c.s.end(&ProtocolError{Reason: "no control stream within 10 s"})
			})
		}
		return
	}
	st, _, err := c.s.m.tryOpen(netip.AddrPort{}) // the first stream of all waits for none
	if err != nil {
		c.s.end(fmt.Errorf("open control stream: %w", err))
		return
	}
	c.onFrame(st)
}

// onFrame is called by the mux's read loop: something has come on the stream.
func (c *control) onFrame(st *Stream) {
	c.mu.Lock()
	first := c.stream == nil
	c.stream = st
	if c.late != nil {
		c.late.Stop()
		c.late = nil
	}
	over := c.over
	if c.news = true; !c.reading && !over {
		c.reading = c.s.spawn(c.readNews)
	}
	c.mu.Unlock()
	switch {
	case over:
		st.Reset()
	case first:
		if !st.opener {
			st.accepted()
		}
		c.flush()
	}
}

// end lets go of the stream, once the session has ended.
func (c *control) end() {
	c.mu.Lock()
	c.over = true
	if c.late != nil {
		c.late.Stop()
	}
	st := c.stream
	c.mu.Unlock()
	if st != nil {
		st.Reset()
	}
}

// readNews reads what there is.
func (c *control) readNews() {
	for {
		c.mu.Lock()
		st, news := c.stream, c.news
		c.reading, c.news = news, false
		c.mu.Unlock()
		if !news {
			return
		}
		if err := c.readAll(st); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, ErrStreamReset) {
				err = &ProtocolError{Reason: "control stream ended before the tunnel"}
			}
			c.s.end(err) // without effect if it was the session that ended
			return       // reading stays true: nothing can follow
		}
	}
}

// readAll reads until it would have to wait.
func (c *control) readAll(st *Stream) error {
	var buf [128]byte
	for {
		n, err := st.readNow(buf[:])
		if lineErr := c.lines.feed(buf[:n], c.handle); lineErr != nil {
			return lineErr
		}
		if err != nil || n == 0 {
			return err
		}
		if c.read >= controlBurst {
			c.read = 0
			c.pause()
		}
	}
}

// pause lets a peer that talks without end wait.
func (c *control) pause() {
	t := time.NewTimer(controlPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.s.done:
	}
}

// handle passes one message on.
func (c *control) handle(line []byte) error {
	c.read++
	m, err := parseMessage(line)
	if err != nil {
		return err
	}
	ev := &c.s.events
	switch m.Type {
	case typeDrain:
		if ev.Drain != nil {
			ev.Drain(m.drain())
		}
	case typeDrained:
		if ev.Drained != nil {
			ev.Drained(m.Last)
		}
	case typeCluster:
		if ev.Cluster != nil {
			ev.Cluster(max(m.Nodes, 0))
		}
	case typeWeight:
		if ev.Weight != nil && m.Weight != nil {
			ev.Weight(min(max(*m.Weight, 0), maxWeight))
		}
	case typeToken:
		if ev.Token != nil && c.lines.tokens {
			ev.Token(m.Token)
			c.pause()
		}
	}
	return nil
}

// send queues m, in place of an older message of its type.
func (c *control) send(m message) {
	c.mu.Lock()
	c.enqueue(m)
	c.mu.Unlock()
	c.flush()
}

// enqueue needs mu.
func (c *control) enqueue(m message) {
	for i := range c.queue {
		if c.queue[i].Type == m.Type {
			c.queue[i] = m
			return
		}
	}
	c.queue = append(c.queue, m)
}

// flush has the queue written, unless somebody is at it or the stream is not
// open yet.
func (c *control) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream == nil || c.writing || len(c.queue) == 0 {
		return
	}
	c.writing = c.s.spawn(c.writeQueue)
}

// writeQueue writes until the queue is empty.
func (c *control) writeQueue() {
	for {
		c.mu.Lock()
		queue := c.queue
		c.queue = nil
		c.writing = len(queue) > 0
		st := c.stream
		c.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		if err := writeMessages(st, queue); err != nil {
			// writing stays true: nothing can follow half a message.
			c.s.end(fmt.Errorf("write control message: %w", err))
			return
		}
	}
}

func writeMessages(st *Stream, queue []message) error {
	var b []byte
	for _, m := range queue {
		b = appendMessage(b, m)
	}
	if err := st.SetWriteDeadline(time.Now().Add(controlWriteTime)); err != nil {
		return err
	}
	_, err := st.Write(b)
	return err
}

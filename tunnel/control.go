package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// control is the control stream of a session: one goroutine that reads, and
// one for moments that writes what is to be said.
type control struct {
	// Static after construction.
	s *Session

	// Owned by run.
	lines lineReader
	read  int // messages since the last pause
	buf   [128]byte

	// Guarded by mu.
	mu      sync.Mutex
	stream  *Stream // nil until it is open
	writing bool
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

// run gets the stream and reads it until the session ends.
func (c *control) run(node bool) {
	st, err := c.get(node)
	if err != nil {
		c.s.end(fmt.Errorf("open control stream: %w", err))
		return
	}
	c.mu.Lock()
	c.stream = st
	c.mu.Unlock()
	c.flush()
	err = c.readAll(st)
	if errors.Is(err, io.EOF) || errors.Is(err, ErrStreamReset) {
		err = &ProtocolError{Reason: "control stream ended before the tunnel"}
	}
	c.s.end(err) // without effect if it was the session that ended
	st.Reset()
}

// get opens the control stream, or at a node waits for it.
func (c *control) get(node bool) (*Stream, error) {
	if !node {
		return c.s.m.open(sessionContext{s: c.s})
	}
	late := time.AfterFunc(controlOpenTime, func() {
		c.s.end(&ProtocolError{Reason: "no control stream within 10 s"})
	})
	defer late.Stop()
	return c.s.m.accept()
}

func (c *control) readAll(st *Stream) error {
	for {
		n, err := st.Read(c.buf[:])
		if lineErr := c.lines.feed(c.buf[:n], c.handle); lineErr != nil {
			return lineErr
		}
		if err != nil {
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

// sessionContext ends with its session. It stands in for a context where the
// session itself is the caller.
type sessionContext struct{ s *Session }

func (c sessionContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c sessionContext) Done() <-chan struct{}       { return c.s.done }
func (c sessionContext) Value(any) any               { return nil }

func (c sessionContext) Err() error {
	if c.s.Err() == nil {
		return nil
	}
	return context.Canceled
}

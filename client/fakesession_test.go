package client

import (
	"fmt"
	"net"
	"slices"
	"time"

	"piko/tunnel"
)

// fakeSession is a session as far as the manager can see. Its node answers a
// drain at once.
type fakeSession struct {
	// Static.
	node   *fakeNode
	events tunnel.Events
	peer   tunnel.Peer
	done   chan struct{}
	noMore chan struct{}
	since  time.Time
	ill    bool // as the handshake said

	// Guarded by the cluster's mu.
	err     error
	drained time.Time // when it was asked to drain, or got a GoAway
	ended   time.Time
	weights []int
	tokens  []string // that were sent
	probes  int
	busy    bool // a stream is open that does not end
	mute    bool // the node is gone, which nobody knows: dead 5 s after a probe
}

func (s *fakeSession) Accept() (*tunnel.Stream, error) {
	select {
	case <-s.done:
		return nil, s.Err()
	case <-s.noMore:
		return nil, net.ErrClosed
	}
}

func (s *fakeSession) StopAccepting() { close(s.noMore) }

func (s *fakeSession) end(err error) {
	ended := false
	s.node.c.do(func() {
		if ended = s.err == nil; ended {
			s.err, s.ended = err, time.Now()
			close(s.done)
		}
	})
	if ended && s.events.Closed != nil {
		s.events.Closed(err)
	}
}

func (s *fakeSession) Drain(tunnel.DrainMessage) error {
	var err error
	mute := false
	s.node.c.do(func() { s.drained, err, mute = time.Now(), s.err, s.mute })
	if err == nil && !mute {
		s.events.Drained(0)
	}
	return err
}

func (s *fakeSession) GoAway(uint32) error {
	s.node.c.do(func() { s.drained = time.Now() })
	return nil
}

func (s *fakeSession) Weight(w int) error {
	s.node.c.do(func() { s.weights = append(s.weights, w) })
	return nil
}

func (s *fakeSession) SendToken(token string) error {
	if !slices.Contains(s.peer.Features, tunnel.FeatureToken) {
		return tunnel.ErrNoToken
	}
	s.node.c.do(func() { s.tokens = append(s.tokens, token) })
	return nil
}

func (s *fakeSession) Probe() {
	s.node.c.do(func() {
		s.probes++
		if s.mute {
			time.AfterFunc(5*time.Second, func() { s.end(tunnel.ErrDead) })
		}
	})
}

func (s *fakeSession) NumStreams() (n int) {
	s.node.c.do(func() {
		if s.busy {
			n = 1
		}
	})
	return n
}

func (s *fakeSession) Close() error {
	s.end(tunnel.ErrClosedByUs)
	return nil
}

func (s *fakeSession) Err() (err error) {
	s.node.c.do(func() { err = s.err })
	return err
}

func (s *fakeSession) Done() <-chan struct{} { return s.done }
func (s *fakeSession) HasControl() bool      { return s.peer.NodeID != "" }
func (s *fakeSession) Peer() tunnel.Peer     { return s.peer }
func (s *fakeSession) RemoteAddr() net.Addr  { return address(fmt.Sprintf("node %s", s.node.id)) }

package tunnel

import (
	"slices"
	"time"
)

// Limits and defaults of a session.
const (
	defaultStreamWindow = 512 << 10
	minStreamWindow     = 256 << 10
	maxStreamWindow     = 16 << 20
	defaultMaxStreams   = 4096

	// plainWindow is the window towards a peer without features: what v0.9.0
	// has, which never saw another one.
	plainWindow = 256 << 10

	// maxBuffered is what a session may hold of bytes that nobody has read
	// yet, over all its streams: 512 slow downloads with a full window. The
	// stream that would go over it is reset.
	maxBuffered = 256 << 20

	// upstreamBacklog is how many streams a node may have opened that the
	// upstream has not accepted yet, as in default yamux.
	upstreamBacklog = 256
)

// Codes of a GoAway frame. CodeReconnect is yamux's "internal error": a
// v0.9.0 agent takes an orderly close for its own and exits, but comes back at
// once when this frame stands before it.
const (
	CodeNormal    uint32 = 0
	CodeReconnect uint32 = 2
)

// Options are the settings of a session. The zero value works.
type Options struct {
	// StreamWindow is how many bytes a peer may send on a stream before we
	// read any of them: 256 KiB to 16 MiB, 0 means 512 KiB. A stream carries
	// at most a window per round trip. Peers without features get 256 KiB.
	StreamWindow int
	// MaxStreams bounds the streams that are open at once; 0 means 4096.
	MaxStreams int
	// Wheel watches whether the peer is alive; nil means a timer of the
	// session's own.
	Wheel *Wheel
	// Budget bounds the memory of unread bytes over all sessions that share it;
	// nil is none.
	Budget *Budget
	// Events are called when something happens to the session.
	Events Events
}

// Events are told what the peer says and how the session ends. Each may be
// nil. They are called from the session's goroutines, may be called before
// Accept or Dial has returned, must not block, and must not call Close.
type Events struct {
	// Drain: the peer asks us to use the session no longer (at a node), or to
	// move elsewhere (at an upstream).
	Drain func(DrainMessage)
	// Drained: the node has opened its last stream, which has this id (0 if
	// there was none); its SYN has arrived.
	Drained func(last uint32)
	// Cluster: the number of nodes that are not draining.
	Cluster func(nodes int)
	// Weight: how much of the traffic the upstream wants, 0 to 100.
	Weight func(w int)
	// Token: the upstream has a fresh token, in place of the one of its
	// handshake: at most MaxToken bytes, that nobody has looked at. There are at
	// most ten a second. Nodes only.
	Token func(token string)
	// GoAway: a frame of that kind came. The peer takes no new streams.
	GoAway func(code uint32)
	// Closed: the session has ended, with what Err returns. It is the last
	// event, and comes exactly once.
	Closed func(err error)
}

// DrainMessage asks the peer to move its work.
type DrainMessage struct {
	// Reason is for the log; at most 200 bytes of it are sent.
	Reason string
	// ReconnectWithin is over what time the peers should spread their new
	// tunnels; at most 10 minutes.
	ReconnectWithin time.Duration
}

// Peer is what the other side said of itself when the tunnel was made. A node
// sets NodeID and ClusterSize, an upstream Instance and Protocol; a v0.9.0 peer
// sets none.
type Peer struct {
	NodeID      string
	ClusterSize int
	Instance    string
	Protocol    string
	Features    []string // what both sides speak
	Version     string   // of an upstream's piko; "" if it did not say
}

// mux translates the options for the mux of a session.
func (o Options) mux(node bool, peer Peer, onGoAway func(uint32)) muxOptions {
	window := o.StreamWindow
	if window == 0 {
		window = defaultStreamWindow
	}
	if len(peer.Features) == 0 {
		window = plainWindow
	}
	streams := o.MaxStreams
	if streams <= 0 {
		streams = defaultMaxStreams
	}
	allow := upstreamBacklog
	if node {
		allow = 0
		if slices.Contains(peer.Features, FeatureControl) {
			allow = 1
		}
	}
	return muxOptions{
		window:           min(max(window, minStreamWindow), maxStreamWindow),
		maxStreams:       streams,
		maxBuffered:      maxBuffered,
		budget:           o.Budget,
		allowPeerStreams: allow,
		meta:             slices.Contains(peer.Features, FeatureControl) && slices.Contains(peer.Features, FeatureMeta),
		onGoAway:         onGoAway,
	}
}

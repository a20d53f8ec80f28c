package admin

import (
	"cmp"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"piko/fault"
)

// The states of a node, as another one sees it: v0.9.0's and draining.
const (
	StatusActive      = "active"
	StatusDraining    = "draining"
	StatusUnreachable = "unreachable"
	StatusLeft        = "left"
)

// Node is what this node knows of one of its cluster, itself included. The
// values are those of one moment; whoever has one may keep it.
type Node struct {
	ID         string
	Epoch      string // of the node's process: another one after a restart
	Status     string // one of the constants above
	ProxyAddr  string // host:port, as other nodes reach it; so are the next two
	AdminAddr  string
	GossipAddr string

	Endpoints int    // with at least one upstream
	Upstreams int    // over all endpoints
	Version   uint64 // of the node's endpoints: how many of its changes are known here
	Synced    bool   // all endpoints of the node are known here
	// Expiry is when a node that is unreachable or has left is forgotten; zero
	// for others.
	Expiry time.Time

	// Serves has the endpoints of the node with the number of upstreams of
	// each, in any order, as they are when it is called; nil is none.
	Serves iter.Seq2[string, int]
}

// NodeSummary is one line of /status/cluster/nodes.
type NodeSummary struct {
	ID        string `json:"id"`
	Status    string `json:"status"`
	ProxyAddr string `json:"proxy_addr"`
	AdminAddr string `json:"admin_addr"`
	Endpoints int    `json:"endpoints"`
	Upstreams int    `json:"upstreams"`
}

// NodeDetail is /status/cluster/nodes/{id}: a node with its endpoints and the
// number of upstreams of each.
type NodeDetail struct {
	ID        string         `json:"id"`
	Status    string         `json:"status"`
	ProxyAddr string         `json:"proxy_addr"`
	AdminAddr string         `json:"admin_addr"`
	Endpoints map[string]int `json:"endpoints"`
}

// GossipNode is one line of /status/gossip/nodes.
type GossipNode struct {
	ID          string    `json:"id"`
	Addr        string    `json:"addr"`
	Version     uint64    `json:"version"`
	Left        bool      `json:"left"`
	Unreachable bool      `json:"unreachable"`
	Expiry      time.Time `json:"expiry"`
}

// GossipNodeDetail is /status/gossip/nodes/{id}: what a node has told the others.
type GossipNodeDetail struct {
	GossipNode
	Entries []GossipEntry `json:"Entries"` // capital, as in v0.9.0
}

// GossipEntry is one thing that a node has told.
type GossipEntry struct {
	Key      string `json:"key"`
	Value    string `json:"value"`
	Version  uint64 `json:"version"`
	Internal bool   `json:"internal"` // of the protocol rather than of the node
	Deleted  bool   `json:"deleted"`  // v0.9.0's tombstones; we have none
}

func (n *Node) summary() NodeSummary {
	return NodeSummary{n.ID, n.Status, n.ProxyAddr, n.AdminAddr, n.Endpoints, n.Upstreams}
}

func (n *Node) detail() NodeDetail {
	endpoints := make(map[string]int)
	if n.Serves != nil {
		maps.Insert(endpoints, n.Serves)
	}
	return NodeDetail{n.ID, n.Status, n.ProxyAddr, n.AdminAddr, endpoints}
}

func (n *Node) gossip() GossipNode {
	return GossipNode{n.ID, n.GossipAddr, n.Version, n.Status == StatusLeft, n.Status == StatusUnreachable, n.Expiry}
}

// gossipDetail has v0.9.0's keys. It had a version for each entry; ours have
// one for all endpoints of a node, and the addresses are those of its epoch.
func (n *Node) gossipDetail() GossipNodeDetail {
	entries := []GossipEntry{
		{Key: "_internal:epoch", Value: n.Epoch, Internal: true},
		{Key: "_internal:synced", Value: strconv.FormatBool(n.Synced), Internal: true},
		{Key: "admin_addr", Value: n.AdminAddr},
		{Key: "proxy_addr", Value: n.ProxyAddr},
	}
	fixed := len(entries)
	if n.Serves != nil {
		for endpoint, count := range n.Serves {
			entries = append(entries, GossipEntry{Key: "endpoint:" + endpoint, Value: strconv.Itoa(count), Version: n.Version})
		}
	}
	slices.SortFunc(entries[fixed:], func(a, b GossipEntry) int { return cmp.Compare(a.Key, b.Key) })
	return GossipNodeDetail{n.gossip(), entries}
}

// nodes are all nodes, sorted by id.
func (s *Server) nodes() []Node {
	if s.Nodes == nil {
		return nil
	}
	return slices.SortedFunc(slices.Values(s.Nodes()), func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
}

// node is the one with the id, or this node for "local".
func (s *Server) node(id string) (Node, error) {
	if id == "local" {
		id = s.NodeID
	}
	for _, n := range s.nodes() {
		if n.ID == id {
			return n, nil
		}
	}
	return Node{}, unknownNode(id)
}

// unknownNodeText begins what a client is told of a node that is not there. It
// has no code of its own: v0.9.0 says 404 without a word.
const unknownNodeText = "unknown node"

func unknownNode(id string) error {
	return &fault.Error{Code: fault.NotFound, Detail: unknownNodeText + " " + strconv.Quote(id)}
}

// serveNodes answers with view of every node.
func serveNodes[T any](s *Server, view func(*Node) T) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		list := []T{} // not null
		for _, n := range s.nodes() {
			list = append(list, view(&n))
		}
		s.writeJSON(w, list)
	}
}

// serveNode answers with view of the node in the path.
func serveNode[T any](s *Server, view func(*Node) T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, err := s.node(r.PathValue("id"))
		if err != nil {
			fault.Write(w, r, err)
			return
		}
		s.writeJSON(w, view(&n))
	}
}

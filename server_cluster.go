package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"piko/admin"
	"piko/gossip"
	"piko/peer"
	"piko/proxy"
	"piko/relay"
	"piko/router"
)

// logPath is where a node tells others which endpoints it serves; only proven
// nodes reach it.
const logPath = "/_piko/v1/cluster/log"

// newPeers makes the connections to other nodes, in both directions: what
// proven nodes send over them is served by hops, but for the node's log.
func (s *server) newPeers(log *slog.Logger, registry prometheus.Registerer, secure bool) (*peer.Peers, error) {
	hops, err := proxy.NewPeer(proxy.PeerOptions{
		Lookup:     s.table.Lookup,
		Buffers:    s.budget,
		NodeID:     s.id,
		Tracer:     s.tracer,
		Logger:     subsystem(log, "proxy"),
		Registerer: registry,
	})
	if err != nil {
		return nil, err
	}
	s.hops = &gate{next: hops, upgrades: s.upgrades}
	newLane := func() *relay.Lane { return s.hops.lane(hops.NewLane()) }
	if s.cfg.ParseHops {
		newLane = nil
	}
	return peer.New(peer.Options{
		Epoch:      s.epoch,
		Secure:     secure,
		Authority:  s.clusterTLS.authority(),
		Lookup:     s.lookupPeer,
		Handler:    http.HandlerFunc(s.servePeer),
		NewLane:    newLane,
		Budget:     s.budget,
		Logger:     subsystem(log, "peer"),
		Registerer: registry,
	})
}

// servePeer is what other nodes reach. A hop keeps the path of its request,
// whatever that is: only the one path is looked for that no client may ask for.
func (s *server) servePeer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != logPath {
		s.hops.ServeHTTP(w, r)
		return
	}
	// Nobody is kept waiting by a log, which has no end.
	ctx, cancel := context.WithCancel(r.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		select {
		case <-s.peers.Draining():
			cancel()
		case <-ctx.Done():
		}
	})
	s.gossip.LogHandler().ServeHTTP(w, r.WithContext(ctx))
}

// lookupPeer says who a caller is; gossip knows.
func (s *server) lookupPeer(epoch string) (peer.Node, bool) {
	m, ok := s.gossip.Lookup(epoch)
	return peerNode(m), ok
}

func peerNode(m gossip.Member) peer.Node {
	return peer.Node{ID: m.ID, Epoch: m.Epoch, Addr: m.ProxyAddr, Key: m.Key}
}

// newGossip makes the node a member of its cluster. The ports are open.
func (s *server) newGossip(log *slog.Logger, registry prometheus.Registerer, secrets []string) error {
	cfg := &s.cfg.Cluster
	advertise, _ := cfg.Gossip.AdvertiseAddr.split()
	bind, _ := splitHostPort(string(cfg.Gossip.BindAddr))
	ip, err := gossip.AdvertiseIP(bind, advertise)
	if err != nil {
		return fmt.Errorf("--cluster.gossip.advertise-addr: %w", err)
	}
	join := make([]string, len(cfg.Join))
	for i, a := range cfg.Join {
		join[i] = string(a)
	}
	s.gossip, err = gossip.New(gossip.Options{
		NodeID:           s.id,
		Epoch:            s.epoch,
		BindAddr:         string(cfg.Gossip.BindAddr),
		AdvertiseAddr:    string(cfg.Gossip.AdvertiseAddr),
		Name:             cfg.Name,
		Secrets:          secrets,
		Join:             join,
		JoinTimeout:      cfg.JoinTimeout,
		AbortIfJoinFails: cfg.AbortIfJoinFails,
		Interval:         cfg.Gossip.Interval,
		MaxPacketSize:    int(cfg.Gossip.MaxPacketSize),
		ProxyAddr:        advertised(s.cfg.Proxy.AdvertiseAddr, s.ProxyAddr(), ip),
		AdminAddr:        advertised(s.cfg.Admin.AdvertiseAddr, s.AdminAddr(), ip),
		Key:              s.peers.Key(),
		Table:            s.table,
		Connect:          s.connectPeer,
		OnSize:           s.upstreams.TellClusterSize,
		Logger:           subsystem(log, "gossip"),
		Registerer:       registry,
	})
	if err != nil {
		return fmt.Errorf("listen on %s (--cluster.gossip.bind-addr): %w%s", cfg.Gossip.BindAddr, shortNetError(err), listenRemedy(err))
	}
	return nil
}

// advertised is where others reach a port: as configured, else at the address
// that it listens on, else at ip.
func advertised(configured advertiseAddr, listening net.Addr, ip string) string {
	host, port := configured.split()
	tcp, ok := listening.(*net.TCPAddr)
	if !ok {
		return string(configured)
	}
	if host == "" {
		host = ip
		if addr, ok := netip.AddrFromSlice(tcp.IP); ok && !addr.IsUnspecified() {
			host = addr.Unmap().WithZone(tcp.Zone).String()
		}
	}
	return net.JoinHostPort(host, cmp.Or(port, strconv.Itoa(tcp.Port)))
}

// connectPeer is what gossip calls for each other node.
func (s *server) connectPeer(m gossip.Member, reachable func(bool)) gossip.Peer {
	return &peerLink{s.peers.Connect(peerNode(m), reachable)}
}

// peerLink is the way to another node, as gossip wants it.
type peerLink struct{ *peer.Link }

// Upstream implements gossip.Peer.
func (l *peerLink) Upstream(endpoint string) router.Upstream {
	return proxy.NewRemote(l.Link, endpoint)
}

// Subscribe implements gossip.Peer.
func (l *peerLink) Subscribe(ctx context.Context, epoch string, since uint64) (io.ReadCloser, error) {
	query := url.Values{"epoch": {epoch}, "since": {strconv.FormatUint(since, 10)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node"+logPath+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	res, err := l.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("ask for the node's log: status %d", res.StatusCode)
	}
	return res.Body, nil
}

// clusterSize is how many nodes take work, this one included unless it drains.
func (s *server) clusterSize() int { return s.gossip.Size() }

// others reports whether another node takes work.
func (s *server) others() bool {
	if s.isDraining.Load() {
		return s.gossip.Size() > 0
	}
	return s.gossip.Size() > 1
}

// nodes are the nodes of the cluster, as the admin port shows them.
func (s *server) nodes() []admin.Node {
	var list []admin.Node
	for _, n := range s.gossip.Nodes() {
		list = append(list, admin.Node{
			ID: n.ID, Epoch: n.Epoch, Status: n.Status, ProxyAddr: n.ProxyAddr, AdminAddr: n.AdminAddr, GossipAddr: n.GossipAddr,
			Endpoints: n.Endpoints, Upstreams: n.Upstreams, Version: n.Seq, Synced: n.Synced, Expiry: n.Expiry,
			Serves: s.gossip.NodeEndpoints(n.ID),
		})
	}
	return list
}

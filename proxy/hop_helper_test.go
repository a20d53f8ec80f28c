package proxy

import (
	"context"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"piko/relay"
	"piko/router"
	"piko/tunnel"
)

// way is how requests get to upstreams in a test.
type way string

const (
	noHop     way = "no hop"     // the node has the upstreams itself
	oneOwner  way = "one owner"  // another node has them all
	laneOwner way = "lanes"      // the same, and plain requests take lanes there
	manyNodes way = "many nodes" // each is at a node of its own
	manyLanes way = "many lanes" // the same, and plain requests take lanes there
)

// worldMaker is newWorld for one way.
type worldMaker func(testing.TB, func(*Options)) *world

// everyWay runs a test with and without a hop: clients and services must see no difference.
func everyWay(t *testing.T, test func(*testing.T, worldMaker)) {
	theseWays(t, test, noHop, oneOwner, laneOwner, manyNodes)
}

// parsedWays is everyWay without lanes, for what those have no part in.
func parsedWays(t *testing.T, test func(*testing.T, worldMaker)) {
	theseWays(t, test, noHop, oneOwner, manyNodes)
}

func theseWays(t *testing.T, test func(*testing.T, worldMaker), ways ...way) {
	for _, how := range ways {
		t.Run(string(how), func(t *testing.T) {
			test(t, func(t testing.TB, change func(*Options)) *world { return newWorldFor(t, how, change) })
		})
	}
}

// owner is another node: a Peer in front of a table of its own, and what the entry node has of it. Its link is a pool of
// TCP connections to an http.Server that nobody else knows.
type owner struct {
	t     testing.TB
	table *router.Table
	peer  *Peer
	addr  string
	link  *relay.Pool
	node  *router.Node
	entry *router.Table

	mu     sync.Mutex
	serves map[string]int
}

// ownerFor is the node that the next upstream is at.
func (w *world) ownerFor() *owner {
	if len(w.owners) > 0 && (w.way == oneOwner || w.way == laneOwner) {
		return w.owners[0]
	}
	o := newOwner(w.t, "owner-"+strconv.Itoa(len(w.owners)+1), w.entry, w.way == laneOwner || w.way == manyLanes)
	w.owners = append(w.owners, o)
	return o
}

func newOwner(t testing.TB, id string, entry *router.Table, lanes bool) *owner {
	o := &owner{t: t, table: router.NewTable(), entry: entry, serves: make(map[string]int)}
	var err error
	if o.peer, err = NewPeer(PeerOptions{Lookup: o.table.Lookup}); err != nil {
		t.Fatal(err)
	}
	if lanes {
		_, open := serveLanes(t, o.peer, o.peer.NewLane)
		o.link = &relay.Pool{Dial: open}
	} else {
		o.addr = servePeer(t, o.peer)
		o.link = &relay.Pool{Dial: dialLink(o.addr)}
	}
	t.Cleanup(o.link.Close)
	o.node = router.NewNode(id, func(endpoint string) router.Upstream { return NewRemote(o.link, endpoint) })
	return o
}

// linkConn can be reset, as the streams between nodes can.
type linkConn struct{ *net.TCPConn }

func (c linkConn) Reset() {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func dialLink(addr string) func(context.Context) (net.Conn, error) {
	dial := dialTo(addr)
	return func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return linkConn{c.(*net.TCPConn)}, nil
	}
}

// serveLanes returns what serves streams by lanes, as far as those go, and else by h, and what opens such streams.
func serveLanes(t testing.TB, h http.Handler, newLane func() *relay.Lane) (*relay.LaneServer, func(context.Context) (net.Conn, error)) {
	sessions := make(chan *tunnel.Session, 1)
	port := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := tunnel.Accept(w, r, tunnel.Reply{}, tunnel.Options{})
		if err != nil {
			t.Error(err)
		}
		sessions <- s
	}))
	t.Cleanup(port.Close)
	there, err := (&tunnel.Dialer{URL: port.URL}).Dial(t.Context(), "hops")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	slow := newPeerServer(t, h)
	slow.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			conns.Done()
		}
	}
	server := relay.NewLaneServer(context.WithoutCancel(t.Context()), slow, &conns, newLane)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(accepting{there})
	}()
	here := <-sessions
	t.Cleanup(func() {
		here.Close()
		there.Close()
		server.Close()
		<-served
		conns.Wait()
	})
	return server, func(ctx context.Context) (net.Conn, error) {
		s, err := here.Open(ctx)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}

// accepting is the listener of a session's streams.
type accepting struct{ *tunnel.Session }

func (l accepting) Accept() (net.Conn, error) {
	s, err := l.Session.Accept()
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (accepting) Addr() net.Addr { return nil }

// newPeerServer is the server in front of a peer.
func newPeerServer(t testing.TB, h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, DisableGeneralOptionsHandler: true, MaxHeaderBytes: 2 << 20, ErrorLog: log.New(noPanics{t}, "", 0),
	}
}

// servePeer opens a port that only nodes come to.
func servePeer(t testing.TB, h http.Handler) (addr string) {
	s := httptest.NewUnstartedServer(h)
	s.Config = newPeerServer(t, h)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// add gives the owner an upstream and tells the entry node.
func (o *owner) add(endpoint string, l *router.Local) {
	o.t.Cleanup(o.table.Add(endpoint, l))
	o.claim(endpoint)
}

// claim tells the entry node that the owner serves an endpoint.
func (o *owner) claim(endpoint string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.serves[endpoint] += 100
	o.entry.SetNode(o.node, o.serves)
}

// local makes an upstream of a function that opens connections.
func (o *owner) local(endpoint string, dial func(context.Context) (net.Conn, error)) *router.Local {
	pool := &relay.Pool{Dial: dial}
	o.t.Cleanup(pool.Close)
	l := router.NewLocal(upstream{pool})
	o.add(endpoint, l)
	return l
}

package upstreamconn

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/relay"
	"piko/router"
	"piko/tunnel"
)

// nodes are several nodes behind a load balancer.
type nodes struct {
	url   string
	list  []*node
	takes atomic.Pointer[[]*node] // where new connections go, in turn
}

// balance says where new connections go.
func (c *nodes) balance(list ...*node) { c.takes.Store(&list) }

// tunnels is how many each node has.
func (c *nodes) tunnels() (list []int) {
	for _, n := range c.list {
		list = append(list, n.Tunnels())
	}
	return list
}

// startNodes runs count nodes behind a load balancer. They share one table, as if what each serves were known to all at once.
func startNodes(t testing.TB, count int, set func(*Server)) *nodes {
	t.Helper()
	c := &nodes{}
	table := router.NewTable()
	t.Cleanup(func() { // when all have ended: it wants no changes meanwhile
		if err := table.ConsistencyCheck(); err != nil {
			t.Error(err)
		}
	})
	for range count {
		c.list = append(c.list, startNode(t, func(s *Server) {
			s.Table = table
			if set != nil {
				set(s)
			}
		}))
	}
	c.balance(c.list...)
	var next atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list := *c.takes.Load()
		list[int(next.Add(1))%len(list)].Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	c.url = srv.URL
	return c
}

// sendPatiently is send that waits for a second, as a proxy does, for an
// upstream that may come back when all there are refuse.
func (n *node) sendPatiently(method, endpoint string) error {
	for end := time.Now().Add(time.Second); ; {
		err := n.send(method, endpoint)
		if !errors.Is(err, errNoUpstream) || time.Now().After(end) {
			return err
		}
		<-time.After(5 * time.Millisecond)
	}
}

var errNoUpstream = errors.New("no upstream")

// send does what a proxy would: it picks an upstream, and another one if the
// first has not seen the request.
func (n *node) send(method, endpoint string) error {
	var tried router.Tried
	for {
		target := n.Table.Lookup(endpoint).Pick(time.Now(), uint64(time.Now().UnixNano()), &tried)
		if !target.OK() {
			return fmt.Errorf("%w after %d", errNoUpstream, tried.Len())
		}
		tried.Add(target)
		target.Begin()
		got, err := do(target.Upstream(endpoint), method, "hello")
		target.End()
		if relay.NeverExecuted(err) {
			continue
		}
		if err == nil && got != "hello" {
			err = fmt.Errorf("read %q", got)
		}
		return err
	}
}

// load sends requests, four at a time, until it is stopped.
type load struct {
	sent    atomic.Int64
	stop    context.CancelFunc
	senders sync.WaitGroup
}

// startLoad sends requests with the method to the endpoints until the test ends
// or stop has been called. A request that is lost fails the test.
func startLoad(t *testing.T, n *node, method string, endpoints ...string) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel}
	for i := range 4 {
		l.senders.Go(func() {
			for k := i; ctx.Err() == nil; k++ {
				endpoint := endpoints[k%len(endpoints)]
				if err := n.sendPatiently(method, endpoint); err != nil {
					t.Errorf("request %d to %s was lost: %v", l.sent.Load(), endpoint, err)
					return
				}
				l.sent.Add(1)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		l.senders.Wait()
	})
	return l
}

// more waits until so many more requests have been answered.
func (l *load) more(t *testing.T, count int64) {
	t.Helper()
	before := l.sent.Load()
	eventually(t, func() error {
		if n := l.sent.Load() - before; n < count {
			return fmt.Errorf("%d requests of %d", n, count)
		}
		return nil
	})
}

// endpoints are count names.
func endpoints(count int) (list []string) {
	for i := range count {
		list = append(list, fmt.Sprint("endpoint-", i))
	}
	return list
}

// sizes opens a tunnel and returns where it is told the cluster's size.
func sizes(t *testing.T, n *node, instance string) (*tunnel.Session, <-chan int) {
	t.Helper()
	told := make(chan int, 100)
	d := tunnel.Dialer{URL: n.url, Instance: instance, Options: tunnel.Options{Events: tunnel.Events{
		Cluster: func(nodes int) { told <- nodes },
	}}}
	sess, err := d.Dial(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sess.Close() })
	return sess, told
}

func wantSize(t *testing.T, what string, told <-chan int, want int) {
	t.Helper()
	late := time.After(5 * time.Second)
	for {
		select {
		case got := <-told:
			if got == want {
				return
			}
		case <-late:
			t.Fatalf("%s: the upstream was not told that there are %d nodes", what, want)
		}
	}
}

func TestUpstreamsKnowTheSizeOfTheCluster(t *testing.T) {
	var size atomic.Int64
	size.Store(3)
	n := startNode(t, func(s *Server) { s.ClusterSize = func() int { return int(size.Load()) } })
	sess, first := sizes(t, n, "first")
	if got := sess.Peer().ClusterSize; got != 3 {
		t.Errorf("the answer to the handshake says %d nodes", got)
	}
	dialOldAgent(t, n.url, "endpoint").serve(t, echo)
	n.waitFor(t, "endpoint", 2)

	n.TellClusterSize(2)
	wantSize(t, "after one has left", first, 2)
	for i := range 50 {
		n.TellClusterSize(10 + i)
	}
	n.TellClusterSize(4)
	wantSize(t, "the newest", first, 4)
	n.TellClusterSize(4)

	// The function may be behind what was told.
	sess, second := sizes(t, n, "second")
	if got := sess.Peer().ClusterSize; got != 3 {
		t.Errorf("the answer to the handshake says %d nodes", got)
	}
	wantSize(t, "one that came later", second, 4)
	n.TellClusterSize(1)
	wantSize(t, "alone", first, 1)
	wantSize(t, "alone", second, 1)
	if len(first)+len(second) > 0 {
		t.Error("an upstream was told what it knew")
	}
}

func TestSizeIsToldToNobodyWithoutRunAndBlocksNobody(t *testing.T) {
	s := &Server{Table: router.NewTable()}
	for i := range 1000 {
		s.TellClusterSize(i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestStatusTellsTheTunnels(t *testing.T) {
	n := startNode(t, nil)
	startAgent(t, n.url, "ours", echo)
	dialOldAgent(t, n.url, "old").serve(t, echo)
	n.waitFor(t, "ours", 1)
	n.waitFor(t, "old", 1)[0].Begin()
	defer n.waitFor(t, "old", 1)[0].End()
	byEndpoint := make(map[string]Status)
	for st := range n.Upstreams() {
		byEndpoint[st.Endpoint] = st
	}
	ours, old := byEndpoint["ours"], byEndpoint["old"]
	if len(byEndpoint) != 2 || ours.Instance == "" || ours.Protocol != "http" || !ours.Control || ours.InFlight != 0 || ours.Leaving || ours.Draining {
		t.Errorf("ours is %+v", ours)
	}
	if old.Instance != "" || old.Control || old.InFlight != 1 || old.Remote == "" || time.Since(old.Since) > time.Minute {
		t.Errorf("that of v0.9.0 is %+v", old)
	}
	for range n.Upstreams() {
		break
	}
}

func TestWeightsAreToldToTheTable(t *testing.T) {
	weights := make(chan int, 100)
	n := startNode(t, func(s *Server) {
		s.Table.Observe(func(endpoint string, weight int) { weights <- weight })
	})
	want := func(what string, want int) {
		t.Helper()
		late := time.After(5 * time.Second)
		for {
			select {
			case got := <-weights:
				if got == want {
					return
				}
			case <-late:
				t.Fatalf("%s: the table did not tell a weight of %d", what, want)
			}
		}
	}
	a := startAgent(t, n.url, "endpoint", echo)
	want("an upstream", 100)
	a.SetWeight(30)
	want("less of it", 30)
	dialOldAgent(t, n.url, "endpoint").serve(t, echo)
	want("another one", 130)
	a.Close()
	want("the other one alone", 100)
}

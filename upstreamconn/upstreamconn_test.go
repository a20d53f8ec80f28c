package upstreamconn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/client"
	"piko/fault"
	"piko/relay"
	"piko/router"
	"piko/tunnel"
)

// handshake sends a GET that is a correct handshake but for edit, and returns
// the answer and the code in its JSON.
func handshake(t *testing.T, url string, edit func(*http.Request)) (*http.Response, fault.Code) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	if edit != nil {
		edit(req)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		return res, ""
	}
	var answer struct {
		Error string
		Code  fault.Code
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.Error == "" {
		t.Errorf("%s: body is no JSON with an error: %v", res.Status, err)
	}
	return res, answer.Code
}

func TestRefusals(t *testing.T) {
	n := startNode(t, nil)
	path := n.url + "/piko/v1/upstream/"
	for _, c := range []struct {
		name, url string
		edit      func(*http.Request)
		status    int
		code      fault.Code
	}{
		{"no endpoint", path, nil, 400, fault.MissingEndpoint},
		{"a space in the endpoint", path + "my%20endpoint", nil, 400, fault.InvalidEndpoint},
		{"a slash in the endpoint", path + "my%2Fendpoint", nil, 400, fault.InvalidEndpoint},
		{"a line feed in the endpoint", path + "my%0Aendpoint", nil, 400, fault.InvalidEndpoint},
		{"254 bytes", path + strings.Repeat("x", 254), nil, 400, fault.InvalidEndpoint},
		{"300 bytes", path + strings.Repeat("x", 300), nil, 400, fault.InvalidEndpoint},
		{"more path", path + "endpoint/more", nil, 404, fault.NotFound},
		{"another path", n.url + "/", nil, 404, fault.NotFound},
		{"the path of the proxy port", n.url + "/_piko/v1/upstream/endpoint", nil, 404, fault.NotFound},
		{"POST", path + "endpoint", func(r *http.Request) { r.Method = http.MethodPost }, 405, fault.MethodNotAllowed},
		{"no upgrade", path + "endpoint", func(r *http.Request) { r.Header.Del("Upgrade") }, 400, fault.MalformedRequest},
		{"another version", path + "endpoint", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") }, 400, fault.MalformedRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, code := handshake(t, c.url, c.edit)
			if res.StatusCode != c.status || code != c.code {
				t.Errorf("answered %s %q, want %d %q", res.Status, code, c.status, c.code)
			}
		})
	}
	if refused := n.log.with("upstream refused", "remote=127.0.0.1"); len(refused) == 0 {
		t.Error("no line says who was refused")
	}
	if n.Tunnels() != 0 {
		t.Error("a tunnel was opened")
	}
}

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var l logLimit
	now := time.Unix(1000, 0)
	logged, dropped := 0, 0
	for i := range 1000 {
		ok, d := l.allow(now.Add(time.Duration(i) * 10 * time.Millisecond)) // for 10 s
		if ok {
			logged++
		}
		dropped += d
	}
	if logged > 10*linesPerSecond || logged+dropped < 900 {
		t.Errorf("%d lines, %d said to be dropped, of 1000", logged, dropped)
	}
}

func TestEndpointsAreComparedInLowerCase(t *testing.T) {
	n := startNode(t, nil)
	startAgent(t, n.url, "My-Endpoint", echo)
	n.waitFor(t, "my-endpoint", 1)
	dialOldAgent(t, n.url, "%6Dy-%65ndpoint")
	n.waitFor(t, "my-endpoint", 2)
}

func TestRequestsGoThrough(t *testing.T) {
	n := startNode(t, nil)
	startAgent(t, n.url, "ours", echo)
	dialOldAgent(t, n.url, "old").serve(t, echo)
	for _, endpoint := range []string{"ours", "old"} {
		u := n.waitFor(t, endpoint, 1)[0].Upstream()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 50 {
					want := strings.Repeat(fmt.Sprint(i, j), 1+j*100)
					method := []string{http.MethodPost, http.MethodPut}[j%2]
					if got, err := do(u, method, want); err != nil || got != want {
						t.Errorf("%s: %d bytes of %d came back, %v", endpoint, len(got), len(want), err)
						return
					}
				}
			})
		}
		wg.Wait()
		c, err := u.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nraw")
		if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), "raw") {
			t.Errorf("%s: raw stream read %q, %v", endpoint, b, err)
		}
		c.Close()
	}
}

func TestUpstreamIsGoneWithItsTunnel(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := startNode(t, func(s *Server) { s.Registerer = reg })
	a := startAgent(t, n.url, "endpoint", echo)
	old := dialOldAgent(t, n.url, "endpoint")
	old.serve(t, echo)
	n.waitFor(t, "endpoint", 2)
	wantMetric(t, reg, "piko_upstreams_connected_upstreams", 2)
	wantMetric(t, reg, "piko_upstreams_registered_endpoints", 1)
	do(n.waitFor(t, "endpoint", 2)[0].Upstream(), http.MethodGet, "")
	wantMetric(t, reg, "piko_upstreams_upstream_requests_total", 1)

	a.Close()
	n.waitFor(t, "endpoint", 1)
	old.ws.NetConn().Close() // without a word
	n.waitFor(t, "endpoint", 0)
	wantMetric(t, reg, "piko_upstreams_connected_upstreams", 0)
	wantMetric(t, reg, "piko_upstreams_registered_endpoints", 0)
	wantMetric(t, reg, "piko_upstreams_disconnects_total", 2)
	for _, what := range []string{"upstream connected", "upstream disconnected"} {
		if got := n.log.with(what, "endpoint=endpoint", "remote=127.0.0.1:"); len(got) != 2 {
			t.Errorf("%d lines say %q: %s", len(got), what, got)
		}
	}
	if got := n.log.with("upstream disconnected", "instance=", "duration=", "reason=\"tunnel closed by the peer\""); len(got) != 2 {
		t.Errorf("the log does not say why: %s", n.log.with("disconnected"))
	}
}

// wantMetric sums the metric over its labels.
func wantMetric(t *testing.T, reg *prometheus.Registry, name string, want float64) {
	t.Helper()
	eventually(t, func() error {
		families, err := reg.Gather()
		if err != nil {
			return err
		}
		got := 0.0
		for _, f := range families {
			if f.GetName() != name {
				continue
			}
			for _, m := range f.GetMetric() {
				got += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		if got != want {
			return fmt.Errorf("%s is %v, want %v", name, got, want)
		}
		return nil
	})
}

// slow answers after release is closed; begun gets a token for each request.
func slow(begun chan<- struct{}, release <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-release
		io.WriteString(w, "late")
	})
}

// inFlight sends a request, waits until the service has it, and returns where
// its result will be.
func inFlight(t *testing.T, l *router.Local, begun <-chan struct{}) <-chan error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		l.Begin()
		defer l.End()
		got, err := do(l.Upstream(), http.MethodPost, "")
		if err == nil && got != "late" {
			err = fmt.Errorf("read %q", got)
		}
		result <- err
	}()
	<-begun
	return result
}

func TestAgentThatDrainsGetsNothingNewAndEndsWhatItHas(t *testing.T) {
	n := startNode(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	a := startAgent(t, n.url, "endpoint", slow(begun, release))
	l := n.waitFor(t, "endpoint", 1)[0]
	result := inFlight(t, l, begun)

	stopped := make(chan error, 1)
	go func() { stopped <- a.Shutdown(t.Context()) }()
	n.waitFor(t, "endpoint", 0)
	if _, err := do(l.Upstream(), http.MethodPost, ""); !relay.NeverExecuted(err) {
		t.Errorf("a request after the drain: %v", err)
	}
	if _, err := l.Upstream().Open(t.Context()); !errors.Is(err, errLeaving) {
		t.Errorf("a stream after the drain: %v", err)
	}
	select {
	case err := <-stopped:
		t.Fatalf("the agent has stopped with a request in flight: %v", err)
	default:
	}
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("the agent's stop: %v", err)
	}
}

// Requests of any method that meet an agent's drain are done there or refused
// before they are done: at another upstream they all succeed.
func TestDrainLosesNoRequest(t *testing.T) {
	n := startNode(t, nil)
	var served atomic.Int64
	count := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		echo(w, r)
	})
	startAgent(t, n.url, "endpoint", count)
	var sent atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if err := n.postSomewhere("endpoint"); err != nil {
					t.Errorf("a request was lost: %v", err)
					return
				}
				sent.Add(1)
			}
		})
	}
	for range 10 {
		a := startAgent(t, n.url, "endpoint", count)
		n.waitFor(t, "endpoint", 2)
		before := served.Load()
		eventually(t, func() error {
			if served.Load() < before+50 {
				return errors.New("no traffic")
			}
			return nil
		})
		if err := a.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	clients.Wait()
	if served.Load() != sent.Load() {
		t.Errorf("%d requests were sent, %d served", sent.Load(), served.Load())
	}
}

// postSomewhere does what a proxy would: it picks an upstream, and another one
// if the first has not seen the request.
func (n *node) postSomewhere(endpoint string) error {
	var tried router.Tried
	for {
		target := n.Table.Lookup(endpoint).Pick(time.Now(), uint64(time.Now().UnixNano()), &tried)
		if !target.OK() {
			return fmt.Errorf("no upstream after %d", tried.Len())
		}
		tried.Add(target)
		target.Begin()
		got, err := do(target.Upstream(endpoint), http.MethodPost, "hello")
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

func TestNoStreamComesAfterTheLastOne(t *testing.T) {
	n := startNode(t, nil)
	for range 20 {
		var last atomic.Uint32
		drained := make(chan uint32, 4)
		d := tunnel.Dialer{URL: n.url, Options: tunnel.Options{Events: tunnel.Events{
			Drained: func(id uint32) { drained <- id },
		}}}
		sess, err := d.Dial(t.Context(), "endpoint")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				st, err := sess.Accept()
				if err != nil {
					return
				}
				last.Store(max(last.Load(), st.ID()))
				st.Close()
			}
		})
		u := n.waitFor(t, "endpoint", 1)[0].Upstream()
		for range 8 {
			wg.Go(func() {
				for {
					c, err := u.Open(context.Background())
					if err != nil {
						return
					}
					c.Close()
				}
			})
		}
		eventually(t, func() error {
			if last.Load() < 100 {
				return errors.New("no streams")
			}
			return nil
		})
		sess.Drain(tunnel.DrainMessage{})
		said := <-drained
		eventually(t, func() error {
			if got := last.Load(); got != said {
				return fmt.Errorf("the last stream was %d, said was %d", got, said)
			}
			return nil
		})
		sess.Close()
		wg.Wait()
	}
}

func TestAgentIsAskedToMove(t *testing.T) {
	n := startNode(t, nil)
	asked := make(chan tunnel.DrainMessage, 1)
	d := tunnel.Dialer{URL: n.url, Options: tunnel.Options{Events: tunnel.Events{
		Drain: func(m tunnel.DrainMessage) { asked <- m },
	}}}
	sess, err := d.Dial(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	l := n.waitFor(t, "endpoint", 1)[0]
	msg := tunnel.DrainMessage{Reason: "node stops", ReconnectWithin: time.Second}
	n.Drain(t.Context(), msg)
	if got := <-asked; got != msg {
		t.Errorf("asked %v", got)
	}
	if !l.Draining() {
		t.Error("the tunnel is no last resort")
	}
	n.waitFor(t, "endpoint", 1) // until it has moved it serves

	res, code := handshake(t, n.url+"/piko/v1/upstream/endpoint", nil)
	if res.StatusCode != 503 || code != fault.Draining || res.Header.Get("Retry-After") == "" {
		t.Errorf("a new tunnel is answered %s %q, Retry-After %q", res.Status, code, res.Header.Get("Retry-After"))
	}
}

func TestCloseCutsAndCounts(t *testing.T) {
	n := startNode(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	startAgent(t, n.url, "endpoint", slow(begun, release))
	result := inFlight(t, n.waitFor(t, "endpoint", 1)[0], begun)
	if cut := n.Close(t.Context()); cut != 1 {
		t.Errorf("%d requests cut, want 1", cut)
	}
	if err := <-result; err == nil || relay.NeverExecuted(err) {
		t.Errorf("the request that was cut: %v", err)
	}
	n.waitFor(t, "endpoint", 0)
}

func TestNewestTunnelOfAnInstanceIsPreferred(t *testing.T) {
	n := startNode(t, nil)
	dial := func(instance string) *tunnel.Session {
		d := tunnel.Dialer{URL: n.url, Instance: instance}
		sess, err := d.Dial(t.Context(), "endpoint")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sess.Close() })
		return sess
	}
	wantDraining := func(why string, want ...bool) {
		t.Helper()
		locals := n.waitFor(t, "endpoint", len(want))
		eventually(t, func() error {
			for i, l := range locals {
				if l.Draining() != want[i] {
					return fmt.Errorf("%s: upstream %d: draining %v", why, i, l.Draining())
				}
			}
			return nil
		})
	}
	dial("a")
	n.waitFor(t, "endpoint", 1)
	dial("b")
	n.waitFor(t, "endpoint", 2)
	wantDraining("two instances", false, false)
	second := dial("a")
	n.waitFor(t, "endpoint", 3)
	wantDraining("instance a came back", true, false, false)
	third := dial("a")
	n.waitFor(t, "endpoint", 4)
	wantDraining("and again", true, false, true, false)
	second.Close()
	n.waitFor(t, "endpoint", 3)
	wantDraining("the one in the middle ended", true, false, false)
	third.Drain(tunnel.DrainMessage{})
	n.waitFor(t, "endpoint", 2)
	wantDraining("the newest leaves", false, false)
}

func TestWeightZeroIsALastResort(t *testing.T) {
	n := startNode(t, nil)
	a := startAgent(t, n.url, "endpoint", echo)
	l := n.waitFor(t, "endpoint", 1)[0]
	startAgent(t, n.url, "endpoint", echo)
	n.waitFor(t, "endpoint", 2)
	picked := func() bool {
		for i := range uint64(100) {
			if n.Table.Lookup("endpoint").Pick(time.Now(), i<<57|i, &router.Tried{}).Local == l {
				return true
			}
		}
		return false
	}
	for _, c := range []struct {
		weight int
		want   bool
	}{{0, false}, {100, true}} {
		a.SetWeight(c.weight)
		eventually(t, func() error {
			if picked() != c.want {
				return fmt.Errorf("with weight %d: picked %v", c.weight, !c.want)
			}
			return nil
		})
	}
}

// An upstream that accepts nothing is told apart from one that is slow to
// answer, before a client's patience ends.
func TestUpstreamThatAcceptsNothingFailsFast(t *testing.T) {
	n := startNode(t, nil)
	d := tunnel.Dialer{URL: n.url}
	sess, err := d.Dial(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	u := n.waitFor(t, "endpoint", 1)[0].Upstream()
	for {
		start := time.Now()
		c, err := u.Open(t.Context())
		if err == nil {
			defer c.Close()
			continue
		}
		if took := time.Since(start); took > 2*openTime || !errors.Is(err, fault.UpstreamUnreachable) {
			t.Errorf("after %v: %v", took, err)
		}
		break
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("client went away")
	cancel(gone)
	if _, err := u.Open(ctx); !errors.Is(err, gone) {
		t.Errorf("for a client that went away: %v", err)
	}
}

func TestTooManyStreamsIsOverloaded(t *testing.T) {
	n := startNode(t, func(s *Server) { s.MaxStreams = 3 })
	startAgent(t, n.url, "endpoint", echo)
	u := n.waitFor(t, "endpoint", 1)[0].Upstream()
	for range 10 {
		c, err := u.Open(t.Context())
		if err == nil {
			defer c.Close()
			continue
		}
		if !errors.Is(err, fault.Overloaded) {
			t.Error(err)
		}
		return
	}
	t.Error("ten streams were opened")
}

func TestClientsMeetNodesInAnyOrder(t *testing.T) {
	n := startNode(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	n.Drain(t.Context(), tunnel.DrainMessage{})
	_, err := (&client.Client{URL: n.url}).Listen(ctx, "endpoint")
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, fault.Draining) {
		t.Errorf("connect to a node that drains: %v", err)
	}
}

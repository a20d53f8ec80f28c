package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// all reads what there is.
func all(r *Reader) (types []string, last string) {
	for {
		e, id, _, ok := r.Next()
		if !ok {
			return types, last
		}
		types, last = append(types, e.Type), id
	}
}

func TestLogIsFollowedFromWhereItWasLeft(t *testing.T) {
	l := NewLog()
	l.Publish(Event{Type: "a"})
	r := l.Follow()
	if got, _ := all(r); got != nil {
		t.Errorf("a new reader gets %v", got)
	}
	_, _, more, _ := r.Next()
	l.Publish(Event{Type: "b"})
	<-more
	got, id := all(r)
	if !slices.Equal(got, []string{"b"}) {
		t.Errorf("got %v", got)
	}
	l.Publish(Event{Type: "c"})
	for after, want := range map[string][]string{
		id:                      {"c"},
		"another-1":             {"a", "b", "c"},
		"":                      {"a", "b", "c"},
		"nonsense":              {"a", "b", "c"},
		l.epoch + "-nonsense":   {"a", "b", "c"},
		l.epoch + "-0":          {"a", "b", "c"},
		l.epoch + "-99":         nil, // of the future
		l.epoch + "-" + "99999": nil,
	} {
		if got, _ := all(l.FollowAfter(after)); !slices.Equal(got, want) {
			t.Errorf("after %q: got %v, want %v", after, got, want)
		}
	}
}

func TestSlowReaderLosesTheOldest(t *testing.T) {
	l := NewLog()
	r := l.Follow()
	for i := range logSize + 10 {
		l.Publish(Event{Type: fmt.Sprint(i)})
	}
	got, _ := all(r)
	if len(got) != logSize || got[0] != "10" || got[logSize-1] != fmt.Sprint(logSize+9) {
		t.Errorf("%d events, from %s to %s", len(got), got[0], got[len(got)-1])
	}
	if first, second := r.Lost(), r.Lost(); first != 10 || second != 0 {
		t.Errorf("%d and then %d lost, want 10 and 0", first, second)
	}
}

// world is what a Tracker sees. Owned by the test, and guarded by mu.
type world struct {
	mu     sync.Mutex
	served map[string]bool // of those that are known
	nodes  map[string]State
	seen   []string
}

func (w *world) tracker() *Tracker {
	return &Tracker{
		NodeID:  "n1",
		Publish: func(e Event) { w.note(e.Type + " " + e.Tenant + "/" + e.Endpoint + " " + e.Node) },
		Nodes: func() map[string]State {
			w.mu.Lock()
			defer w.mu.Unlock()
			return maps.Clone(w.nodes)
		},
		Known: func(name string) (bool, bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			served, known := w.served[name]
			return known, served
		},
		Unserved: func(f func(string)) {
			w.mu.Lock()
			var names []string
			for name, served := range w.served {
				if !served {
					names = append(names, name)
				}
			}
			w.mu.Unlock()
			for _, name := range names {
				f(name)
			}
		},
		Split: func(name string) (string, string) {
			tenant, endpoint, _ := strings.Cut(name, "/")
			return tenant, endpoint
		},
	}
}

func (w *world) note(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, s)
}

// check takes what was seen.
func (w *world) check(t *testing.T, why string, want ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.seen, want) {
		t.Errorf("%s: got %q, want %q", why, w.seen, want)
	}
	w.seen = nil
}

func (w *world) node(id string, s State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[id] = s
}

// endpoint says that a node serves it, or not; known is whether it is in the table.
func (w *world) endpoint(tr *Tracker, name string, known, served bool) {
	w.mu.Lock()
	_, was := w.served[name]
	delete(w.served, name)
	if known {
		w.served[name] = served
	}
	w.mu.Unlock()
	if was != known {
		tr.Endpoint(name, known)
	}
}

func TestTracker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{served: map[string]bool{"t/old": true}, nodes: map[string]State{"n1": Active, "n2": Active}}
		tr := w.tracker()
		w.endpoint(tr, "t/early", true, true)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { tr.Run(ctx) })
		wait := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		wait(10 * time.Second)
		w.check(t, "what was there before is no event")

		w.endpoint(tr, "t/new", true, true)
		w.check(t, "an endpoint comes up at once", "endpoint-up t/new n1")
		w.endpoint(tr, "t/new", false, false)
		wait(time.Second)
		w.endpoint(tr, "t/new", true, true)
		wait(5 * time.Second)
		w.check(t, "an endpoint that flaps")
		w.endpoint(tr, "t/new", false, false)
		wait(3 * time.Second)
		w.check(t, "an endpoint that goes", "endpoint-down t/new n1")
		w.endpoint(tr, "t/new", true, true)
		w.check(t, "an endpoint that comes again", "endpoint-up t/new n1")

		w.node("n3", Active)
		wait(time.Second)
		w.check(t, "a new node", "node-up / n3")
		w.node("n2", Draining)
		wait(time.Second)
		w.check(t, "a node drains", "node-draining / n2")
		w.node("n3", Unreachable)
		wait(time.Second)
		w.node("n3", Active)
		wait(5 * time.Second)
		w.check(t, "a node that was away for a moment")

		w.node("n3", Unreachable)
		w.endpoint(tr, "t/old", true, false)
		wait(6 * time.Second)
		w.check(t, "a node dies, and what it alone has served is down", "node-down / n3", "endpoint-down t/old n1")
		w.node("n3", Active)
		w.endpoint(tr, "t/old", true, true)
		wait(2 * time.Second)
		w.check(t, "it is back", "node-up / n3", "endpoint-up t/old n1")

		w.node("n3", Unreachable)
		w.endpoint(tr, "t/old", true, false)
		wait(6 * time.Second)
		w.check(t, "it dies again", "node-down / n3", "endpoint-down t/old n1")
		w.endpoint(tr, "t/old", false, false)
		wait(10 * time.Second)
		w.check(t, "what is down goes from the table: nothing new")
		w.endpoint(tr, "t/old", true, true)
		w.check(t, "until it is served again", "endpoint-up t/old n1")
		w.node("n2", Gone)
		wait(3 * time.Second)
		w.check(t, "a node leaves", "node-down / n2")
		cancel()
		running.Wait()
	})
}

// delivery is what a receiver got.
type delivery struct {
	id, signature string
	body          []byte
	event         Event
}

// receiver answers with the statuses, one after the other and then 204.
func receiver(t *testing.T, statuses ...int) (url string, got chan delivery) {
	t.Helper()
	got = make(chan delivery, 100)
	var n atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		d := delivery{r.Header.Get(HeaderDelivery), r.Header.Get(HeaderSignature), body, Event{}}
		_ = json.Unmarshal(body, &d.event)
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("got %s of %s", r.Method, r.Header.Get("Content-Type"))
		}
		got <- d
		status := http.StatusNoContent
		if i := int(n.Add(1)) - 1; i < len(statuses) {
			status = statuses[i]
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}

// send runs a webhook on a log until the test ends.
func send(t *testing.T, h *Webhook) (l *Log, count func(result string) float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	h.Registerer, h.Secret = reg, func() []byte { return []byte("0123456789abcdef") }
	if h.Speaks == nil {
		h.Speaks = func() bool { return true }
	}
	l = NewLog()
	ctx, cancel := context.WithCancel(t.Context())
	ended, reader := make(chan struct{}), l.Follow()
	go func() {
		defer close(ended)
		h.Run(ctx, reader)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return l, func(result string) float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Error(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if m.GetLabel()[0].GetValue() == result {
					return m.GetCounter().GetValue()
				}
			}
		}
		return -1
	}
}

// TestWebhookSendsAgainAndSigns: an event that is not taken is sent again, with
// the same id and a signature that a receiver can check; others are not sent at all.
func TestWebhookSendsAgainAndSigns(t *testing.T) {
	t.Parallel()
	url, got := receiver(t, 503)
	l, count := send(t, &Webhook{URL: url})
	l.Publish(Event{Type: UpstreamConnected, Endpoint: "not for a webhook"})
	l.Publish(Event{Type: EndpointDown, Endpoint: "my-endpoint"})
	first, second := <-got, <-got
	for _, d := range []delivery{first, second} {
		var unix int64
		if _, err := fmt.Sscanf(d.signature, "t=%d,", &unix); err != nil || d.signature != Sign([]byte("0123456789abcdef"), time.Unix(unix, 0), d.body) {
			t.Errorf("bad signature %q", d.signature)
		}
		if d.event.Type != EndpointDown || d.event.Endpoint != "my-endpoint" || d.id == "" || d.id != first.id || !strings.Contains(string(d.body), `"id":"`+d.id+`"`) {
			t.Errorf("got %+v", d)
		}
	}
	l.Publish(Event{Type: NodeUp})
	if d := <-got; d.event.Type != NodeUp || count("sent") < 1 {
		t.Errorf("got %+v, %v sent", d, count("sent"))
	}
}

// TestWebhookGivesUp what is refused for good, and sends nothing while another
// node speaks.
func TestWebhookGivesUp(t *testing.T) {
	t.Parallel()
	url, got := receiver(t, 404, 302)
	var silent atomic.Bool
	l, count := send(t, &Webhook{URL: url, Speaks: func() bool { return !silent.Load() }})
	l.Publish(Event{Type: NodeUp, Node: "a"})
	l.Publish(Event{Type: NodeUp, Node: "b"})
	l.Publish(Event{Type: NodeUp, Node: "c"})
	for _, want := range []string{"a", "b", "c"} {
		if d := <-got; d.event.Node != want {
			t.Errorf("got %+v, want that of %s", d, want)
		}
	}
	if failed := count("failed"); failed != 2 {
		t.Errorf("%v failed, want 2", failed)
	}
}

// TestWebhookDropsTheOldest: while nothing can be sent, the last events wait.
func TestWebhookDropsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var taken []string
		var down atomic.Bool
		down.Store(true)
		h := &Webhook{URL: "http://receiver", Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if down.Load() {
				return nil, errors.New("connection refused")
			}
			var e Event
			err := json.NewDecoder(r.Body).Decode(&e)
			taken = append(taken, e.Node)
			return &http.Response{StatusCode: 200, Body: http.NoBody}, err
		})}}
		l, count := send(t, h)
		for i := range logSize + 11 {
			l.Publish(Event{Type: NodeUp, Node: fmt.Sprint(i)})
			synctest.Wait() // the first is on its way
		}
		<-time.After(5 * time.Minute)
		down.Store(false)
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if len(taken) != logSize+1 || taken[0] != "0" || taken[1] != "11" || count("dropped") != 10 || count("sent") != logSize+1 {
			t.Errorf("%d taken, beginning with %v; %v dropped, %v sent", len(taken), taken[:min(3, len(taken))], count("dropped"), count("sent"))
		}
		down.Store(true)
		l.Publish(Event{Type: NodeUp, Node: "too old"})
		<-time.After(20 * time.Minute)
		if count("failed") != 1 {
			t.Errorf("%v given up", count("failed"))
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestSignature: openssl computes the same.
//
//	printf '1700000000.{"type":"node-up"}' | openssl dgst -sha256 -hmac 0123456789abcdef
func TestSignature(t *testing.T) {
	const want = "t=1700000000,v1=548292ad4cc92f65642c0dd8d8243cd757eae271f59bf94fddbbab8c8c8b0da5"
	if got := Sign([]byte("0123456789abcdef"), time.Unix(1700000000, 0), []byte(`{"type":"node-up"}`)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

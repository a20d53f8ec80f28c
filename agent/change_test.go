package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// changing is an agent whose listeners change, each on a node of its own.
type changing struct {
	*Agent
	t     *testing.T
	stop  context.CancelFunc
	done  chan error
	nodes map[string]*fakeNode // by ID; guarded by mu
	mu    sync.Mutex
	block map[string]chan struct{} // what the connect of an ID waits for; static
}

// startChanging runs an agent with the listeners, written as in listenersOf.
func startChanging(t *testing.T, service, listeners string, block map[string]chan struct{}) *changing {
	t.Helper()
	c := &changing{t: t, nodes: map[string]*fakeNode{}, block: block, done: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	a, err := New(Config{Listeners: listenersOf(service, listeners)}, nil, log, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Agent = a
	build := a.build
	a.build = func(lc Listener) (*listener, error) {
		l, err := build(lc)
		if err == nil {
			c.connect(l)
		}
		return l, err
	}
	for _, l := range a.listeners {
		c.connect(l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	go func() { c.done <- a.Run(ctx) }()
	return c
}

// end stops the agent, before its nodes end.
func (c *changing) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.client.CloseIdleConnections()
	}
	c.stop()
	if err := <-c.done; err != nil {
		c.t.Errorf("Run returned %v", err)
	}
}

// connect gives a listener its node.
func (c *changing) connect(l *listener) {
	node := newFakeNode(c.t)
	c.mu.Lock()
	c.nodes[l.cfg.ID] = node
	c.mu.Unlock()
	l.listen = func(ctx context.Context) (tunnels, error) {
		if block := c.block[l.cfg.ID]; block != nil {
			select {
			case <-block:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		l.connection(true, true)
		return node, nil
	}
}

// listenersOf makes listeners of words such as a:1, an endpoint and an ID.
func listenersOf(service, words string) []Listener {
	var list []Listener
	for w := range strings.FieldsSeq(words) {
		endpoint, _, _ := strings.Cut(w, ":")
		list = append(list, Listener{ID: w, Endpoint: endpoint, Addr: service})
	}
	return list
}

// change takes the agent to other listeners.
func (c *changing) change(service, listeners string) *Change {
	c.t.Helper()
	change, err := c.Prepare(listenersOf(service, listeners))
	if err != nil {
		c.t.Fatal(err)
	}
	change.Commit()
	return change
}

func (c *changing) node(id string) *fakeNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id]
}

// serves waits until the listener with that ID answers, or does not.
func (c *changing) serves(id string, want bool) {
	c.t.Helper()
	eventually(c.t, func() error {
		req, _ := http.NewRequestWithContext(c.t.Context(), "GET", "http://e.example.com/", nil)
		res, err := c.node(id).client.RoundTrip(req)
		if err == nil {
			res.Body.Close()
		}
		if (err == nil) != want {
			return errors.Join(errNotYet, err)
		}
		return nil
	})
}

func TestListenersComeAndGo(t *testing.T) {
	t.Parallel()
	service := startService(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	c := startChanging(t, service.URL, "keep:1 change:1 remove:1", nil)
	defer c.end()
	for _, id := range []string{"keep:1", "change:1", "remove:1"} {
		c.serves(id, true)
	}
	kept := c.listeners[0]
	got := c.change(service.URL, "keep:1 change:2 add:1")
	if !slices.Equal(got.Added, []string{"add"}) || !slices.Equal(got.Changed, []string{"change"}) || !slices.Equal(got.Removed, []string{"remove"}) {
		t.Errorf("the change is %+v", got)
	}
	c.serves("add:1", true)
	c.serves("change:2", true)
	c.node("remove:1").client.CloseIdleConnections()
	c.serves("remove:1", false)
	c.node("change:1").client.CloseIdleConnections()
	c.serves("change:1", false)
	c.serves("keep:1", true)
	status := c.Status()
	if c.listeners[0] != kept || len(status) != 3 || status[1].Endpoint != "change" || !status[1].Connected {
		t.Errorf("status %+v", status)
	}
	if again := c.change(service.URL, "keep:1 change:2 add:1"); len(again.Added)+len(again.Changed)+len(again.Removed) > 0 {
		t.Errorf("the same again is the change %+v", again)
	}
}

func TestListenerServesUntilTheOneInItsPlaceIsConnected(t *testing.T) {
	t.Parallel()
	service := startService(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	connect := make(chan struct{})
	c := startChanging(t, service.URL, "e:1", map[string]chan struct{}{"e:2": connect})
	defer c.end()
	c.serves("e:1", true)
	c.change(service.URL, "e:2")
	for range 20 {
		c.serves("e:1", true)
	}
	close(connect)
	c.serves("e:2", true)
	c.node("e:1").client.CloseIdleConnections()
	c.serves("e:1", false)
}

func TestListenersWithAMistakeChangeNothing(t *testing.T) {
	t.Parallel()
	service := startService(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	c := startChanging(t, service.URL, "e:1", nil)
	defer c.end()
	c.serves("e:1", true)
	bad := append(listenersOf(service.URL, "e:2"), Listener{Endpoint: "bad", Addr: "ftp://x"})
	if _, err := c.Prepare(bad); err == nil || !strings.Contains(err.Error(), `listener "bad"`) {
		t.Errorf("a mistake is %v", err)
	}
	if _, err := c.Prepare(nil); err == nil {
		t.Error("no listeners are no mistake")
	}
	c.serves("e:1", true)
}

func TestListenerThatFailedIsStartedAgain(t *testing.T) {
	t.Parallel()
	service := startService(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	c := startChanging(t, service.URL, "e:1 other:1", nil)
	defer c.end()
	c.serves("e:1", true)
	c.node("e:1").client.CloseIdleConnections()
	c.node("e:1").ln.Close()
	eventually(t, func() error {
		if !c.Status()[0].Failed {
			return errNotYet
		}
		return nil
	})
	if got := c.change(service.URL, "e:1 other:1"); !slices.Equal(got.Added, []string{"e"}) || got.Changed != nil {
		t.Errorf("the change is %+v", got)
	}
	c.serves("e:1", true)
}

package main

import (
	"fmt"
	"iter"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"piko/agent"
	"piko/certs"
)

// runningAgent is what of an agent can change while it runs.
type runningAgent struct {
	// Static after construction.
	agent   *agent.Agent
	connect takeover // of the TLS of connections to the server
	tracing takeover // of the TLS of connections to the collector of spans

	listeners atomic.Pointer[[]loadedListener] // those that are in force

	lastID int // owned by who calls take
}

// loadedListener is a listener whose files were read.
type loadedListener struct {
	cfg     listenerConfig
	service *certs.Client // what it dials with; nil for the defaults
	id      string        // "" outside a running agent
}

// listener is what the agent calls it.
func (l *loadedListener) listener() agent.Listener {
	out := l.cfg.listener()
	out.ID, out.GetTLS = l.id, tlsSource(l.service)
	return out
}

// loadListeners reads the files that the listeners name.
func loadListeners(list []listenerConfig) ([]loadedListener, error) {
	loaded := make([]loadedListener, len(list))
	for i, cfg := range list {
		service, err := cfg.TLS.load(fmt.Sprintf("listeners[%d].tls.", i))
		if err != nil {
			return nil, err
		}
		loaded[i] = loadedListener{cfg: cfg, service: service, id: strconv.Itoa(i)}
	}
	return loaded, nil
}

// newRunningAgent is for an agent that was made from parts.
func newRunningAgent(ag *agent.Agent, cfg *agentConfig, parts *agentParts, tracing *certs.Client) *runningAgent {
	r := &runningAgent{
		agent: ag, lastID: len(parts.listeners),
		connect: connectTakeover(parts.tls, cfg.Connect.TLS, "connect.tls", func(next *cli) clientTLSConfig { return next.Agent.Connect.TLS }),
		tracing: connectTakeover(tracing, cfg.Tracing.TLS, "tracing.tls", func(next *cli) clientTLSConfig { return next.Agent.Tracing.TLS }),
	}
	r.listeners.Store(&parts.listeners)
	return r
}

// take takes over what it can of a new configuration: the certificates and
// authorities of all connections, and the listeners.
func (r *runningAgent) take(next *cli) (func(), []string, error) {
	commit, applied, err := r.connect(next)
	if err != nil {
		return nil, nil, err
	}
	commits := []func(){commit}
	commit, changed, err := r.tracing(next)
	if err != nil {
		return nil, nil, err
	}
	commits, applied = append(commits, commit), append(applied, changed...)
	old, list := slices.Clone(*r.listeners.Load()), []loadedListener{}
	for i, cfg := range next.Agent.Listeners {
		name := fmt.Sprintf("listeners[%d].tls", i)
		l := loadedListener{cfg: cfg}
		if same := slices.IndexFunc(old, func(o loadedListener) bool { return reflect.DeepEqual(o.cfg, cfg) }); same >= 0 {
			l = old[same]
			old = slices.Delete(old, same, same+1)
			commit, changed, err := cfg.TLS.prepare(l.service, cfg.TLS, name) // its files may have changed
			if err != nil {
				return nil, nil, err
			}
			commits, applied = append(commits, commit), append(applied, changed...)
		} else {
			if l.service, err = cfg.TLS.load(name + "."); err != nil {
				return nil, nil, err
			}
			r.lastID++
			l.id = strconv.Itoa(r.lastID)
		}
		list = append(list, l)
	}
	change, err := r.agent.Prepare(listenersOf(list))
	if err != nil {
		return nil, nil, &usageError{err: err}
	}
	applied = append(applied, describeChange(change)...)
	commits = append(commits, func() { r.listeners.Store(&list) }, change.Commit)
	return func() { all(commits) }, applied, nil
}

// listenersOf is what the agent calls them.
func listenersOf(list []loadedListener) []agent.Listener {
	listeners := make([]agent.Listener, len(list))
	for i := range list {
		listeners[i] = list[i].listener()
	}
	return listeners
}

// describeChange says it as takeover's applied does. Those of a command line never
// change: it has no settings of theirs from the file.
func describeChange(c *agent.Change) []string {
	var parts []string
	for _, p := range []struct {
		what      string
		endpoints []string
	}{{"added", c.Added}, {"changed", c.Changed}, {"removed", c.Removed}} {
		if len(p.endpoints) > 0 {
			parts = append(parts, p.what+" "+strings.Join(p.endpoints, " "))
		}
	}
	if parts == nil {
		return nil
	}
	return []string{"listeners: " + strings.Join(parts, ", ")}
}

// services are what the listeners dial with, by where it is configured.
func (r *runningAgent) services() iter.Seq2[string, *certs.Client] {
	return func(yield func(string, *certs.Client) bool) {
		for i, l := range *r.listeners.Load() {
			if !yield(fmt.Sprintf("listeners[%d]", i), l.service) {
				return
			}
		}
	}
}

// expiry watches the certificates that an agent shows.
func (r *runningAgent) expiry(connect *certs.Client, log *slog.Logger) *certs.Expiry {
	e := certs.NewExpiry(log)
	e.AddClient("connect", connect)
	e.AddClients(r.services())
	return e
}

// connectTakeover takes over the TLS of connections to the server, or to another:
// running, which was read as cfg. section finds it in a new configuration, where it
// is called name.
func connectTakeover(running *certs.Client, cfg clientTLSConfig, name string, section func(*cli) clientTLSConfig) takeover {
	return func(next *cli) (func(), []string, error) {
		to := section(next)
		commit, applied, err := cfg.prepare(running, to, name)
		if err != nil || commit == nil {
			return nil, nil, err
		}
		return func() { commit(); cfg = to }, applied, nil
	}
}

// all calls those that are not nil.
func all(commits []func()) {
	for _, commit := range commits {
		if commit != nil {
			commit()
		}
	}
}

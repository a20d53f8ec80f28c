package main

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"piko/admin"
)

// configured is a command with a configuration: `piko config check` checks it,
// and SIGHUP makes the running command read it again. Other commands end with
// SIGHUP, as the terminal that goes away wants it.
type configured interface {
	checkConfig(*cli) error
	// files are those that the configuration names and that may change while
	// the command runs.
	files(*cli) []string
}

// takeover is what a running command does with a new configuration. It checks
// and loads what it can take over, all or nothing, and changes nothing before
// commit, which cannot fail. applied names the settings that this is about, each
// alone or with a colon and a text; or a section, and with it all that is in it.
type takeover func(next *cli) (commit func(), applied []string, err error)

// The settings that the reloader applies itself.
const (
	logLevelFlag      = "log.level"
	logSubsystemsFlag = "log.subsystems"
)

// reloadHelp is what the help of these commands says about it.
const reloadHelp = `SIGHUP reads the configuration again, and so does a change of its file, or of a file
that it names, or POST /status/reload: certificates, their keys and authorities, log.level
and log.subsystems are applied at once, and so are keys of tokens, tenants, lists and limits
of a server, the secret of its webhook and the listeners of an agent; the log names the other
settings that differ and need a restart. After a mistake, which the log shows, all of the old
configuration stays.`

const (
	// pollInterval is how often the files are looked at.
	pollInterval = 2 * time.Second

	// settleTime is for how long nothing may change before files are read: a
	// certificate and its key are two files, and writing one takes time, too.
	settleTime = 250 * time.Millisecond

	// maxSettle bounds the wait for files that change all the time.
	maxSettle = 20 * settleTime
)

// reloader reads the configuration of a running command again. Owned by the
// goroutine that calls watch.
type reloader struct {
	p       *process
	args    []string
	metrics *reloadMetrics
	good    *kong.Context     // what was read last and had no mistake
	running map[string]any    // what the command runs with, by the names of the flags
	seen    map[string]string // the files' fingerprints
	broken  bool              // the configuration file has a mistake

	asks chan chan<- reloadAnswer // see ask
}

// newReloader is that of a command that is about to run; nil for one that has
// no configuration.
func newReloader(p *process, args []string, command *kong.Context) *reloader {
	if _, ok := command.Selected().Target.Addr().Interface().(configured); !ok || p.hangups == nil {
		return nil
	}
	r := &reloader{p: p, args: args, metrics: newReloadMetrics(), good: command, running: settingsOf(command),
		asks: make(chan chan<- reloadAnswer)}
	r.metrics.hash.Set(float64(hashOf(r.running)))
	p.collectors, p.reload = r.metrics.collectors(), r.ask
	r.seen = r.look()
	return r
}

// watch reloads at each hangup, and when files change, until done is closed.
// Nobody waits for it: the file may be one that takes for ever to read.
func (r *reloader) watch(hangups <-chan os.Signal, done <-chan struct{}) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-hangups:
			r.hangup()
		case answer := <-r.asks:
			result, err := r.hangup()
			answer <- reloadAnswer{result, err}
		case <-tick.C:
			r.poll(done)
		case <-done:
			return
		}
	}
}

// started says whether the command can take anything over. Before, the
// configuration has been read a moment ago.
func (r *reloader) started() bool { return r.p.logs.Load() != nil && r.p.takeover.Load() != nil }

// hangup reads everything again.
func (r *reloader) hangup() (*admin.Reloaded, error) {
	if !r.started() {
		return nil, errNotStarted
	}
	r.seen = r.look()
	result, err := r.reload()
	r.broken = err != nil
	r.report(err)
	return result, err
}

// poll reads again what has changed. A configuration file with a mistake, which
// nobody may be about to mend, does not keep a certificate from being renewed.
func (r *reloader) poll(done <-chan struct{}) {
	if !r.started() {
		return
	}
	now := r.look()
	if maps.Equal(now, r.seen) || !r.settle(now, done) {
		return
	}
	was, path := r.seen, r.configPath()
	r.seen = r.look()
	if now := r.seen[path]; now != "" && now != was[path] {
		_, err := r.reload()
		r.broken = err != nil
		r.report(err)
		if err == nil {
			return
		}
	}
	was[path] = r.seen[path]
	if maps.Equal(was, r.seen) {
		return
	}
	if _, err := r.take(r.good); err != nil || !r.broken {
		r.report(err)
	}
}

// settle waits until the files have stopped changing.
func (r *reloader) settle(was map[string]string, done <-chan struct{}) bool {
	t := time.NewTimer(settleTime)
	defer t.Stop()
	for range maxSettle / settleTime {
		select {
		case <-t.C:
		case <-done:
			return false
		}
		now := r.look()
		if maps.Equal(now, was) {
			break
		}
		was = now
		t.Reset(settleTime)
	}
	return true
}

// configPath is the configuration file, or "".
func (r *reloader) configPath() string {
	path, _ := r.running[configPathFlag].(string)
	return path
}

// look takes the fingerprint of each file.
func (r *reloader) look() map[string]string {
	files := r.good.Selected().Target.Addr().Interface().(configured).files(rootOf(r.good))
	seen := map[string]string{r.configPath(): ""}
	for _, f := range files {
		seen[f] = fingerprint(f)
	}
	if path := r.configPath(); path != "" {
		seen[path] = fingerprint(path)
	}
	return seen
}

// reload reads the whole configuration and takes it over.
func (r *reloader) reload() (*admin.Reloaded, error) {
	next, err := parse(r.args, r.p)
	if err != nil {
		return nil, err
	}
	if err := next.Selected().Target.Addr().Interface().(configured).checkConfig(rootOf(next)); err != nil {
		return nil, err
	}
	return r.take(next)
}

// report counts how it went, and logs a failure.
func (r *reloader) report(err error) {
	r.metrics.set(err == nil, time.Now())
	if err != nil {
		subsystem(r.p.logs.Load().Logger, "main").Error("configuration not reloaded, the old one stays", "error", err)
	}
}

// take applies what can be changed now and logs what cannot. A mistake leaves
// everything as it is.
func (r *reloader) take(next *kong.Context) (*admin.Reloaded, error) {
	commit, applied, err := (*r.p.takeover.Load())(rootOf(next))
	if err != nil {
		return nil, err
	}
	settings := settingsOf(next)
	applied, restart := r.compare(settings, applied)
	if commit != nil {
		commit()
	}
	r.good = next
	hash := hashOf(settings)
	r.metrics.hash.Set(float64(hash))
	r.takeLog(settings, func(log *slog.Logger) {
		log.Info("configuration reloaded", "applied", applied, "needs_restart", restart)
	})
	return &admin.Reloaded{Applied: applied, NeedsRestart: restart, Hash: fmt.Sprint(hash)}, nil
}

// compare says which settings are in force now and which need a restart, given
// what a command applies of them. Neither is nil.
func (r *reloader) compare(settings map[string]any, applies []string) (applied, restart []string) {
	applied, restart = append([]string{}, applies...), []string{}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		switch was, now := r.running[name], settings[name]; {
		case reflect.DeepEqual(was, now):
		case name == logLevelFlag || name == logSubsystemsFlag:
			applied = append(applied, fmt.Sprintf("%s: was %v, now %v", name, was, now))
			r.running[name] = now
		case covers(applied, name):
			r.running[name] = now
		default:
			restart = append(restart, name) // no values: some are secrets
		}
	}
	slices.Sort(applied)
	return applied, restart
}

// takeLog has the logger do as the settings say. The line that say logs shows if
// either level lets it.
func (r *reloader) takeLog(settings map[string]any, say func(*slog.Logger)) {
	root := r.p.logs.Load().Logger
	level := parseLevel(fmt.Sprint(settings[logLevelFlag]))
	r.p.level.Set(min(level, r.p.level.Level()))
	say(subsystem(root, "main"))
	r.p.level.Set(level)
	names, _ := settings[logSubsystemsFlag].([]string)
	root.Handler().(*logHandler).setSubsystems(names)
}

// covers says whether the setting is among applied, or in a section that is.
func covers(applied []string, name string) bool {
	return slices.ContainsFunc(applied, func(a string) bool {
		a, _, _ = strings.Cut(a, ":")
		return a == name || strings.HasPrefix(name, a+".")
	})
}

// rootOf is the command line that a command is part of.
func rootOf(command *kong.Context) *cli { return command.Model.Target.Addr().Interface().(*cli) }

// settingsOf is what a parsed command was told. The keys do not depend on it.
func settingsOf(command *kong.Context) map[string]any {
	settings := map[string]any{}
	for _, flag := range command.Flags() {
		settings[flag.Name] = flag.Target.Interface()
	}
	root := rootOf(command)
	switch command.Selected().Target.Addr().Interface().(type) {
	case *serverNodeCmd:
		settings[upstreamTenants] = root.Server.Node.Upstream.Tenants
		settings[proxyTenants] = root.Server.Node.Proxy.Tenants
	case *agentStartCmd:
		settings["listeners"] = root.Agent.Listeners
	case *forwardStartCmd:
		settings["ports"] = root.Forward.Ports
	}
	return settings
}

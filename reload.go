package main

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"

	"github.com/alecthomas/kong"
)

// configured is a command with a configuration: `piko config check` checks it,
// and SIGHUP makes the running command read it again. Other commands end with
// SIGHUP, as the terminal that goes away wants it.
type configured interface {
	checkConfig(*cli) error
}

// logLevelFlag is the one setting that a reload applies.
const logLevelFlag = "log.level"

// reloadHelp is what the help of these commands says about it.
const reloadHelp = `SIGHUP reads the configuration again: log.level is applied at once, and the log
names the other settings that differ and need a restart. After a mistake, which the
log shows, the old configuration stays.`

// reloader reads the configuration of a running command again. Owned by the
// goroutine that calls watch.
type reloader struct {
	p       *process
	args    []string
	running map[string]any // what the command runs with, by the names of the flags
}

// newReloader is that of a command that is about to run; nil for one that has
// no configuration.
func newReloader(p *process, args []string, command *kong.Context) *reloader {
	if _, ok := command.Selected().Target.Addr().Interface().(configured); !ok || p.hangups == nil {
		return nil
	}
	return &reloader{p: p, args: args, running: settingsOf(command)}
}

// watch reloads at each hangup until done is closed. Nobody waits for it: the
// file may be one that takes for ever to read.
func (r *reloader) watch(hangups <-chan os.Signal, done <-chan struct{}) {
	for {
		select {
		case <-hangups:
			r.reload()
		case <-done:
			return
		}
	}
}

// reload applies what can be changed now and logs what cannot. A mistake leaves
// everything as it is.
func (r *reloader) reload() {
	logs := r.p.logs.Load()
	if logs == nil {
		return // starting: the configuration has been read a moment ago
	}
	log := subsystem(logs.Logger, "main")
	next, err := r.read()
	if err != nil {
		log.Error("configuration not reloaded, the old one stays", "error", err)
		return
	}
	applied, restart := []string{}, []string{}
	for _, name := range slices.Sorted(maps.Keys(next)) {
		switch was, now := r.running[name], next[name]; {
		case reflect.DeepEqual(was, now):
		case name == logLevelFlag:
			applied = append(applied, fmt.Sprintf("%s: was %v, now %v", name, was, now))
		default:
			restart = append(restart, name) // no values: some are secrets
		}
	}
	r.running[logLevelFlag] = next[logLevelFlag]
	level := parseLevel(fmt.Sprint(next[logLevelFlag]))
	r.p.level.Set(min(level, r.p.level.Level())) // the line shows if either level lets it
	log.Info("configuration reloaded", "applied", applied, "needs_restart", restart)
	r.p.level.Set(level)
}

// read is the configuration as the command would start with it now.
func (r *reloader) read() (map[string]any, error) {
	command, err := parse(r.args, r.p)
	if err != nil {
		return nil, err
	}
	settings := settingsOf(command)
	checker := command.Selected().Target.Addr().Interface().(configured)
	return settings, checker.checkConfig(command.Model.Target.Addr().Interface().(*cli))
}

// settingsOf is what a parsed command was told. The keys do not depend on it.
func settingsOf(command *kong.Context) map[string]any {
	settings := map[string]any{}
	for _, flag := range command.Flags() {
		settings[flag.Name] = flag.Target.Interface()
	}
	root := command.Model.Target.Addr().Interface().(*cli)
	switch command.Selected().Target.Addr().Interface().(type) {
	case *agentStartCmd:
		settings["listeners"] = root.Agent.Listeners
	case *forwardStartCmd:
		settings["ports"] = root.Forward.Ports
	}
	return settings
}

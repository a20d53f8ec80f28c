// Command piko lets services be reached that cannot be routed to: a server that
// clients send requests to, and an agent that opens an outbound-only tunnel to it.
//
// This package is the command line and the place where the parts are put
// together: server.go is one node, agent.go one agent, config.go how flags,
// environment and file become one configuration. Nothing imports it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"piko/accesslog"
	"piko/admin"
)

// Exit statuses: a supervisor restarts a failure and leaves a usage error alone.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// cli is the whole command line; each command is a struct with
// Run(*process) error in the file of its name.
type cli struct {
	Help        helpFlag    `short:"h" flagonly:"" help:"Show the flags, defaults and examples of a command."`
	ShowVersion versionFlag `name:"version" flagonly:"" help:"Print the version."`

	Server     serverCmd     `cmd:"" help:"Run a server node, or ask a running one for its status."`
	Agent      agentCmd      `cmd:"" help:"Make local services reachable through a server."`
	Forward    forwardCmd    `cmd:"" help:"Give TCP endpoints local ports."`
	Demo       demoCmd       `cmd:"" help:"Show the whole thing in this process, or run a service to try it with."`
	Bench      benchCmd      `cmd:"" help:"Measure a server."`
	Config     configCmd     `cmd:"" help:"Work with configuration files."`
	Completion completionCmd `cmd:"" help:"Print a completion script for a shell."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
}

const cliHelp = `piko lets services be reached that cannot be routed to: an agent next to the
service opens an outbound-only tunnel to a server, and clients send their
requests to the server, naming the endpoint in a header or in the host name.

  piko server                                          # ports 8000 to 8003
  piko agent http my-endpoint 3000                     # service on localhost:3000
  curl -H 'x-piko-endpoint: my-endpoint' http://localhost:8000/

and for anything that speaks TCP:

  piko agent tcp my-database 5432
  piko forward tcp 15432 my-database                   # psql -h localhost -p 15432

Every flag may also be given as an environment variable (--proxy.timeout is
PIKO_PROXY_TIMEOUT), and most in a YAML file (--config.path). A flag wins over
the environment, the environment over the file, the file over the default.`

// process is what a command gets from the process around it, so that tests and
// the demo run the same code as main. The fields are static once run has them.
type process struct {
	ctx            context.Context // ends with the first SIGINT or SIGTERM; its cause names the signal
	getenv         func(string) (string, bool)
	stdout, stderr io.Writer
	signals        <-chan os.Signal        // nil: none arrive
	hangups        func() <-chan os.Signal // catches SIGHUP from now on; nil: it is never caught

	// collectors are metrics of the process that a command adds to its own.
	collectors []prometheus.Collector

	level    slog.LevelVar            // of the command's logger; may be set while the command runs
	takeover atomic.Pointer[takeover] // set by a command that runs, once

	// reload reads the configuration of the command again; nil if it has none.
	reload func(context.Context) (*admin.Reloaded, error)
	logs   atomic.Pointer[processLog]
}

// processLog is a command's logger and the writer below it: nothing waits for
// whoever reads standard error, neither requests nor a stop.
type processLog struct {
	*slog.Logger
	out *accesslog.Writer
}

// logger makes the command's logger, to standard error as cfg says. A command
// calls it once; run closes it.
func (p *process) logger(cfg logConfig) *slog.Logger { return p.loggerTo(p.stderr, cfg) }

// loggerTo is logger with another place for the lines, which has to be there
// until the process ends.
func (p *process) loggerTo(w io.Writer, cfg logConfig) *slog.Logger {
	out := accesslog.NewWriter(w)
	log := newLogger(out, cfg, &p.level)
	p.logs.Store(&processLog{log, out})
	p.collectors = append(p.collectors, newLogMetrics(out.Dropped))
	takeStandardLog(log)
	return log
}

// logWriter is where the logger writes, for access logs: one line a call, from
// any goroutine.
func (p *process) logWriter() io.Writer { return p.logs.Load().out }

// end reports how the command ended, and returns the exit status.
func (p *process) end(err error) int {
	logs := p.logs.Load()
	if logs == nil {
		return report(p.stderr, err)
	}
	if dropped := logs.out.Dropped(); dropped > 0 {
		subsystem(logs.Logger, "main").Warn("log is not complete", "lines_dropped", dropped)
	}
	status := report(logs.out, err)
	_ = logs.out.Close() // there is nowhere left to say that it failed
	return status
}

// errSignal is the cause of a process context that a signal has ended.
type errSignal struct{ os.Signal }

func (e errSignal) Error() string { return "received " + e.Signal.String() }

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE) // whoever reads the log may go away; that is no reason to die
	os.Exit(run(os.Args[1:], &process{
		ctx:     context.Background(),
		getenv:  os.LookupEnv,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		signals: signals,
		hangups: func() <-chan os.Signal {
			hangups := make(chan os.Signal, 1) // one that waits stands for all that follow
			signal.Notify(hangups, syscall.SIGHUP)
			return hangups
		},
	}))
}

// run is the program: it parses args, runs the command and returns the exit
// status. The first signal ends the command's context; the second makes run
// return at once, whatever the command is doing. SIGHUP is none of these: see
// reloader.
func run(args []string, p *process) int {
	ctx, cancel := context.WithCancelCause(p.ctx)
	defer cancel(nil)
	p.ctx = ctx

	command, err := parse(args, p)
	if err != nil {
		return p.end(err)
	}
	if r := newReloader(p, args, command); r != nil {
		ended := make(chan struct{})
		defer close(ended)
		go r.watch(p.hangups(), ended)
	}
	done := make(chan error, 1)
	go func() { done <- command.Run(p) }()
	for {
		select {
		case err := <-done:
			return p.end(err)
		case sig := <-p.signals:
			if ctx.Err() != nil {
				if logs := p.logs.Load(); logs != nil {
					subsystem(logs.Logger, "main").Error("killed by a second signal: what was in flight is cut", "signal", sig.String())
				}
				p.end(nil)
				return exitFailure
			}
			cancel(errSignal{sig})
		}
	}
}

// parse turns args, the environment and the file that they name into the
// selected command with its values. Its errors are *usageError, but for
// errHelpShown: nothing is left to do.
func parse(args []string, p *process) (*kong.Context, error) {
	s := &settings{getenv: p.getenv}
	k, err := newParser(p, s)
	if err != nil {
		return nil, err
	}
	if len(args) > 0 && args[0] == "help" {
		args = append(slices.Clone(args[1:]), "--help")
	}
	ctx, err := k.Parse(joinDashes(args, k.Model))
	if _, ok := errors.AsType[errHelpShown](err); ok {
		return nil, errHelpShown{}
	}
	if wrong := s.err(); wrong != nil {
		return nil, &usageError{err: wrong}
	}
	if err != nil {
		return nil, &usageError{err: err, try: helpOf(k, err)}
	}
	return ctx, nil
}

func newParser(p *process, s *settings) (*kong.Kong, error) {
	return kong.New(&cli{}, kong.Name("piko"), kong.Description(cliHelp), kong.NoDefaultHelp(),
		kong.Writers(p.stdout, p.stderr), kong.Resolvers(s), durationMapper())
}

// helpOf is the command line that shows the help on what err is about.
func helpOf(k *kong.Kong, err error) string {
	node := k.Model.Node
	if parse, ok := errors.AsType[*kong.ParseError](err); ok {
		if selected := parse.Context.Selected(); selected != nil {
			node = visible(selected)
		}
	}
	return node.FullPath() + " --help"
}

// usageError is a mistake in how piko was called or configured.
type usageError struct {
	err error
	try string // what to type instead; may be empty
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// report writes err for a person and returns the exit status that it means.
func report(w io.Writer, err error) int {
	if _, ok := errors.AsType[errHelpShown](err); ok || err == nil {
		return exitOK
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(w, "piko: %s\n", strings.TrimRight(line, "\n"))
	}
	usage, ok := errors.AsType[*usageError](err)
	if !ok {
		return exitFailure
	}
	if usage.try != "" {
		fmt.Fprintf(w, "Try: %s\n", usage.try)
	}
	return exitUsage
}

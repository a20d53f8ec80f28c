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
	"sync/atomic"
	"syscall"

	"github.com/alecthomas/kong"
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
	Server serverCmd `cmd:"" help:"Run a server node, or ask a running one for its status."`
}

// process is what a command gets from the process around it, so that tests and
// the demo run the same code as main. The fields are static once run has them.
type process struct {
	ctx            context.Context // ends with the first SIGINT or SIGTERM; its cause names the signal
	getenv         func(string) (string, bool)
	stdout, stderr io.Writer
	signals        <-chan os.Signal // nil: none arrive

	log atomic.Pointer[slog.Logger] // the command's logger, once it has one
}

// logger makes the command's logger, to stderr as cfg says.
func (p *process) logger(cfg logConfig) *slog.Logger {
	log := newLogger(p.stderr, cfg)
	p.log.Store(log)
	return log
}

// errSignal is the cause of a process context that a signal has ended.
type errSignal struct{ os.Signal }

func (e errSignal) Error() string { return "received " + e.Signal.String() }

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	os.Exit(run(os.Args[1:], &process{
		ctx:     context.Background(),
		getenv:  os.LookupEnv,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		signals: signals,
	}))
}

// run is the program: it parses args, runs the command and returns the exit
// status. The first signal ends the command's context; the second makes run
// return at once, whatever the command is doing.
func run(args []string, p *process) int {
	ctx, cancel := context.WithCancelCause(p.ctx)
	defer cancel(nil)
	p.ctx = ctx

	command, err := parse(args, p)
	if err != nil || command == nil {
		return report(p.stderr, err)
	}
	done := make(chan error, 1)
	go func() { done <- command.Run(p) }()
	for {
		select {
		case err := <-done:
			return report(p.stderr, err)
		case sig := <-p.signals:
			if ctx.Err() != nil {
				if log := p.log.Load(); log != nil {
					log.Error("killed by a second signal", "signal", sig.String())
				}
				return exitFailure
			}
			cancel(errSignal{sig})
		}
	}
}

// parse turns args into the selected command; nil without an error means that
// nothing is left to do (help was printed).
func parse(args []string, p *process) (*kong.Context, error) {
	k, err := kong.New(&cli{}, kong.Name("piko"), kong.Writers(p.stdout, p.stderr))
	if err != nil {
		return nil, err
	}
	return k.Parse(args)
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
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(w, "piko: %v\n", err)
	if usage, ok := errors.AsType[*usageError](err); ok {
		if usage.try != "" {
			fmt.Fprintf(w, "Try: %s\n", usage.try)
		}
		return exitUsage
	}
	return exitFailure
}

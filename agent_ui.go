package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/alecthomas/kong"

	"piko/accesslog"
	"piko/client"
	"piko/terminal"
)

// uiConfig says whether an agent draws a summary in its terminal.
type uiConfig struct {
	UI string `name:"ui" default:"auto" enum:"auto,on,off" help:"Draw what the agent is doing in the terminal in place of log lines: endpoints, whether they are connected, the latest requests. Warnings stay above it. auto does so if standard output and error are a terminal and --log.format is not given."`

	formatGiven bool // log.format was chosen by somebody
}

// AfterApply is kong's: it notes whether the log's format was chosen.
func (a *agentCmd) AfterApply(ctx *kong.Context) error {
	for _, p := range ctx.Path {
		if p.Flag != nil && p.Flag.Name == "log.format" {
			a.Terminal.formatGiven = true
		}
	}
	return nil
}

// display is an agent's summary in its terminal, if there is one, and where its
// log goes.
type display struct {
	*terminal.Screen // nil: there is none
	log              io.Writer
	logConfig        logConfig
	undo             []func() // the last first
}

// openDisplay takes the terminal for the summary, if there is to be one. From
// here on the log goes above it.
func (a *agentCmd) openDisplay(p *process) (*display, error) {
	d := &display{log: p.stderr, logConfig: a.Log}
	out := a.Terminal.terminal(p)
	if out == nil {
		if a.Terminal.UI == "on" {
			return nil, &usageError{err: errors.New("--ui on: neither standard error nor standard output is a terminal that can be drawn on; use auto")}
		}
		return d, nil
	}
	term, _ := p.getenv("TERM")
	noColour, _ := p.getenv("NO_COLOR") // https://no-color.org
	cfg := terminal.Config{
		Version: version(), Server: a.Connect.URL.redacted(),
		Colour: noColour == "" && term != "",
		Size:   func() (int, int) { columns, rows, _ := terminalSize(out); return columns, rows },
	}
	for _, l := range a.Listeners {
		cfg.Listeners = append(cfg.Listeners, terminal.Listener{Endpoint: l.EndpointID, Service: l.Addr, Protocol: l.Protocol})
	}
	d.Screen = terminal.New(out, cfg)
	d.undo = append(d.undo, d.Close, watchTerminal(d.Resized))
	if terminalFile(p.stderr) != nil {
		d.log = d.Log()
		d.logConfig.Level = quieter(a.Log.Level)
		if !a.Terminal.formatGiven {
			d.logConfig.Format = "text"
		}
	}
	return d, nil
}

// close draws a last time and leaves the terminal.
func (d *display) close() {
	for _, undo := range slices.Backward(d.undo) {
		undo()
	}
}

// quieter is the level of a log that shares the terminal with the summary, which
// says what a line at info would.
func quieter(level string) string {
	if level == "info" {
		return "warn"
	}
	return level
}

// terminal is what to draw on; nil is nothing.
func (c *uiConfig) terminal(p *process) *os.File {
	term, _ := p.getenv("TERM")
	out, err := terminalFile(p.stdout), terminalFile(p.stderr)
	switch {
	case c.UI == "off", c.UI == "auto" && (out == nil || err == nil || c.formatGiven || term == "dumb"):
		return nil
	case err != nil:
		return err // the log is to go above the summary
	}
	return out
}

// terminalFile is w if it is a terminal.
func terminalFile(w io.Writer) *os.File {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if _, _, err := terminalSize(f); err != nil {
		return nil
	}
	return f
}

// watch has the agent's parts, which do not run yet, tell the summary what
// happens, and returns where the agent's access log goes.
func (d *display) watch(p *process, parts *agentParts, inspector *inspectorPort) (access io.Writer) {
	if d.Screen == nil {
		return p.logWriter()
	}
	if inspector != nil {
		d.SetInspector(inspector.url)
	}
	for i := range parts.agent.Listeners {
		none := accesslog.HeaderFilter{Allow: []string{"None"}} // a line of the summary has no headers
		parts.agent.Listeners[i].AccessLog = accesslog.Config{RequestHeaders: none, ResponseHeaders: none}
	}
	parts.agent.AccessLog, parts.agent.TCPAccessLog = accesslog.Options{}, accesslog.Options{}
	parts.client.OnState = func(s client.State) {
		c := terminal.Connection{Phase: string(s.Phase), Tunnels: s.Tunnels, Node: s.NodeID, Up: s.Err == nil}
		if s.Err != nil && !s.Connected {
			c.Reason = s.Err.Error()
		}
		if s.Retry > 0 {
			c.Retry = time.Now().Add(s.Retry)
		}
		d.SetConnection(s.Endpoint, c)
	}
	unhook := context.AfterFunc(p.ctx, func() { d.Stopping(context.Cause(p.ctx).Error()) })
	d.undo = append(d.undo, func() { unhook() })
	return d.Access()
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"piko/admin"
)

// statusEventsCmd is `piko server status events`.
type statusEventsCmd struct{}

// Help is the long help.
func (statusEventsCmd) Help() string {
	return `
Of endpoints and nodes any node knows what happens in the whole cluster, of tunnels
only what happens to its own. It goes on until interrupted; JSON is an event a line.

Examples:
  piko server status events -o table
  piko server status events -o json | jq 'select(.type == "endpoint-down")'`
}

// Run prints events as they come.
func (statusEventsCmd) Run(p *process, status *statusCmd) error {
	client, err := status.client()
	if err != nil {
		return err
	}
	err = client.Events(p.ctx, func(e admin.Event) error { return writeEvent(p.stdout, status.Output, e) })
	if p.ctx.Err() != nil {
		return nil // interrupted
	}
	return status.failed(err)
}

func writeEvent(w io.Writer, format string, e admin.Event) error {
	var text []byte
	var err error
	switch format {
	case "json":
		text, err = json.Marshal(e)
		text = append(text, '\n')
	case "yaml":
		text, err = yaml.Marshal([]admin.Event{e})
	default:
		about := e.Node
		if e.Endpoint != "" {
			about = strings.TrimPrefix(e.Tenant+"/"+e.Endpoint, "/") + " at " + e.Node
		}
		text = fmt.Appendf(nil, "%s  %-21s  %s\n", e.Time.Format(time.RFC3339), e.Type, strings.TrimSpace(about+"  "+oneLine(e.Detail)))
	}
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

// statusDrainCmd is `piko server status drain`.
type statusDrainCmd struct {
	Watch bool `flagonly:"" short:"w" help:"Go on until no tunnel is left, or until interrupted."`
}

// Help is the long help.
func (statusDrainCmd) Help() string {
	return `
The node says no to /ready, other nodes prefer others, and its agents are asked to move
to other nodes, each once it has its new connection. Meanwhile, and after that, every
request is served. Stop the node then: there is little left to wait for. A drain cannot
be taken back but by starting the node anew.

Without --admin.auth only programs on the node's own machine may ask for it.

Examples:
  piko server status drain --watch
  piko server status drain --forward node-2 --server.token-file /etc/piko/operator.jwt`
}

// Run asks for the drain and prints how far it is. To ask again does no harm.
func (c *statusDrainCmd) Run(p *process, status *statusCmd) error {
	client, err := status.client()
	if err != nil {
		return err
	}
	for {
		d, err := client.Drain(p.ctx)
		switch {
		case err != nil && p.ctx.Err() != nil && c.Watch:
			return nil
		case err != nil:
			return status.failed(err)
		}
		answer, err := answerOf(d, func(w io.Writer) {
			fmt.Fprintln(w, "SINCE\tTUNNELS LEFT\tREQUESTS LEFT")
			fmt.Fprintf(w, "%s\t%d\t%d\n", d.StartedAt.Format(time.RFC3339), d.TunnelsLeft, d.RequestsLeft)
		})
		if err != nil {
			return err
		}
		if err := (&statusView{Watch: c.Watch}).print(p.stdout, status, answer); err != nil {
			return err
		}
		if !c.Watch || d.TunnelsLeft == 0 {
			return nil
		}
		pause(p.ctx, watchPause)
		if p.ctx.Err() != nil {
			return nil
		}
	}
}

// statusDisconnectCmd is `piko server status disconnect`.
type statusDisconnectCmd struct {
	ID string `arg:"" help:"The tunnel's id, from piko server status upstreams."`
}

// Help is the long help.
func (statusDisconnectCmd) Help() string {
	return `
The tunnel takes no more requests, and ends when those under way have, after 10 seconds
at the latest. The node that it is connected to is in its id and is asked.

Without --admin.auth only programs on the node's own machine may ask for it.

Examples:
  piko server status disconnect node-1.c8a4f00001`
}

// Run asks for it.
func (c *statusDisconnectCmd) Run(p *process, status *statusCmd) error {
	node, _, ok := cutLast(c.ID, ".")
	if !ok {
		return &usageError{err: fmt.Errorf("%q is not the id of a tunnel; piko server status upstreams lists them", c.ID)}
	}
	if status.Forward == "" {
		status.Forward = nodeID(node)
	}
	client, err := status.client()
	if err != nil {
		return err
	}
	if err := client.Disconnect(p.ctx, c.ID); err != nil {
		return status.failed(err)
	}
	answer, err := answerOf(admin.Disconnected{ID: c.ID}, func(w io.Writer) { fmt.Fprintf(w, "disconnected %s\n", c.ID) })
	if err != nil {
		return err
	}
	return status.print(p.stdout, answer)
}

// cutLast is strings.Cut around the last sep.
func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"piko/admin"
)

// statusOverviewCmd is `piko server status overview`.
type statusOverviewCmd struct {
	statusView
}

// Help is the long help.
func (statusOverviewCmd) Help() string {
	return `
Rates and latencies are those of the last 5 to 10 seconds. A request counts where it
comes in.

Examples:
  piko server status overview -o table
  piko server status overview --cluster --watch -o table`
}

// Run asks and prints.
func (c *statusOverviewCmd) Run(p *process, status *statusCmd) error {
	return c.show(p, status, func(ctx context.Context, client *admin.Client) (statusAnswer, error) {
		o, err := client.Overview(ctx)
		if err != nil {
			return statusAnswer{}, err
		}
		return answerOf(o, func(w io.Writer) { writeOverview(w, o) })
	})
}

func writeOverview(w io.Writer, o *admin.Overview) {
	fmt.Fprintln(w, "NODE\tSTATE\tVERSION\tUP\tENDPOINTS\tTUNNELS\t"+loadHead+"\tDRAIN")
	row := func(id, state, version, up string, t admin.Totals, drain string) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", id, state, dash(version), up, t.Endpoints, t.Tunnels, loadCells(t.Load), drain)
	}
	for _, n := range o.Nodes {
		drain := "-"
		if n.Drain != nil {
			drain = fmt.Sprintf("%d tunnels, %d requests left", n.Drain.TunnelsLeft, n.Drain.RequestsLeft)
		}
		row(n.ID, n.State, n.Version, since(n.StartedAt), n.Totals, drain)
	}
	if len(o.Nodes) > 1 {
		row("total", "", "", "", o.Totals, "")
	}
	writePartial(w, o.Partial)
}

// statusListCmd is `piko server status endpoints`.
type statusListCmd struct {
	statusView
	Search string `flagonly:"" placeholder:"TEXT" help:"Only endpoints whose name has this in it."`
	Sort   string `flagonly:"" default:"name" enum:"name,tunnels,rps,errors,p99" help:"What to sort by."`
	Order  string `flagonly:"" default:"auto" enum:"auto,asc,desc" help:"In which order; auto is names up and numbers down."`
	Offset int    `flagonly:"" default:"0" placeholder:"N" help:"Leave out so many."`
	Limit  int    `flagonly:"" default:"100" placeholder:"N" help:"Show at most so many, up to 1000."`
}

// Help is the long help.
func (statusListCmd) Help() string {
	return `
Without --cluster, rates are of the requests that came in at the node that answers.

Examples:
  piko server status endpoints -o table
  piko server status endpoints --cluster --sort errors --limit 10 --watch -o table
  piko server status endpoints --search shop`
}

// Run asks and prints.
func (c *statusListCmd) Run(p *process, status *statusCmd) error {
	q := admin.EndpointQuery{Search: c.Search, Sort: c.Sort, Offset: c.Offset, Limit: c.Limit}
	if c.Order != "auto" {
		q.Order = c.Order
	}
	return c.show(p, status, func(ctx context.Context, client *admin.Client) (statusAnswer, error) {
		list, err := client.List(ctx, q)
		if err != nil {
			return statusAnswer{}, err
		}
		return answerOf(list, func(w io.Writer) {
			writeEndpoints(w, list.Endpoints...)
			if shown := len(list.Endpoints); shown < list.Total {
				fmt.Fprintf(w, "\n%d of %d, %d in all\n", shown, list.Matched, list.Total)
			}
			writePartial(w, list.Partial)
		})
	})
}

func writeEndpoints(w io.Writer, list ...admin.Endpoint) {
	fmt.Fprintln(w, "ENDPOINT\tTENANT\tTUNNELS\tNODES\t"+loadHead)
	for _, e := range list {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", e.Endpoint, dash(e.Tenant), e.Tunnels, dash(strings.Join(e.Nodes, ",")), loadCells(e.Load))
	}
}

// statusEndpointCmd is `piko server status endpoint`.
type statusEndpointCmd struct {
	Endpoint string `arg:"" help:"The endpoint's name."`
	Tenant   string `flagonly:"" placeholder:"ID" help:"The tenant that it is of, where tenants have endpoints of their own."`
	statusView
}

// Help is the long help.
func (statusEndpointCmd) Help() string {
	return `
JSON and YAML also have the last 15 minutes, in steps of 5 seconds.

Examples:
  piko server status endpoint my-endpoint --cluster -o table`
}

// Run asks and prints.
func (c *statusEndpointCmd) Run(p *process, status *statusCmd) error {
	return c.show(p, status, func(ctx context.Context, client *admin.Client) (statusAnswer, error) {
		d, err := client.Endpoint(ctx, c.Tenant, c.Endpoint)
		if err != nil {
			return statusAnswer{}, err
		}
		return answerOf(d, func(w io.Writer) {
			writeEndpoints(w, d.Endpoint)
			fmt.Fprintln(w)
			writeUpstreams(w, d.Upstreams)
			if len(d.RecentErrors) > 0 {
				fmt.Fprintln(w, "\nTIME\tSTATUS\tCODE\tNODE\tUPSTREAM\tDETAIL")
			}
			for _, e := range d.RecentErrors {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", e.Time.Format(time.RFC3339), e.Status, dash(e.Code), e.Node, dash(e.Upstream), dash(oneLine(e.Detail)))
			}
			writePartial(w, d.Partial)
		})
	})
}

// oneLine keeps what others have said in its cell of a table.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// statusUpstreamsCmd is `piko server status upstreams`.
type statusUpstreamsCmd struct {
	Endpoint string `flagonly:"" placeholder:"NAME" help:"Only those of this endpoint."`
	Tenant   string `flagonly:"" placeholder:"ID" help:"The tenant that it is of, where tenants have endpoints of their own."`
	Limit    int    `flagonly:"" default:"1000" placeholder:"N" help:"Show at most so many, up to 10000."`
	statusView
}

// Help is the long help.
func (statusUpstreamsCmd) Help() string {
	return `
Examples:
  piko server status upstreams -o table
  piko server status upstreams --cluster --endpoint my-endpoint -o json`
}

// Run asks and prints.
func (c *statusUpstreamsCmd) Run(p *process, status *statusCmd) error {
	return c.show(p, status, func(ctx context.Context, client *admin.Client) (statusAnswer, error) {
		list, err := client.Upstreams(ctx, c.Tenant, c.Endpoint, c.Limit)
		if err != nil {
			return statusAnswer{}, err
		}
		return answerOf(list, func(w io.Writer) {
			writeUpstreams(w, list.Upstreams)
			writePartial(w, list.Partial)
		})
	})
}

func writeUpstreams(w io.Writer, list []admin.Upstream) {
	fmt.Fprintln(w, "UPSTREAM\tENDPOINT\tNODE\tREMOTE\tAGENT\tAGE\tIN FLIGHT\tREQUESTS\tERRORS\tIN\tOUT\tWEIGHT\tLAST ERROR")
	for _, u := range list {
		weight := fmt.Sprint(u.Weight)
		if u.Draining {
			weight = "draining"
		}
		last := "-"
		if e := u.LastError; e != nil {
			last = fmt.Sprintf("%s ago: %s", since(e.Time), oneLine(e.Detail))
		}
		endpoint := u.Endpoint
		if u.Tenant != "" {
			endpoint = u.Tenant + "/" + endpoint
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", u.ID, endpoint, u.Node, u.RemoteAddr, dash(u.AgentVersion), since(u.Since),
			u.InFlight, u.Requests, u.Errors, size(u.BytesIn), size(u.BytesOut), weight, last)
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/goccy/go-yaml"

	"piko/admin"
)

// statusCmd is `piko server status`: questions to a running node.
type statusCmd struct {
	Server statusServer `embed:"" prefix:"server."`
	Output string       `short:"o" default:"yaml" enum:"yaml,json,table" help:"Format of the answer."`

	Upstream statusUpstreamCmd `cmd:"" help:"What the node's upstreams are."`
}

// statusServer says which node to ask.
type statusServer struct {
	URL serverURL `name:"url" default:"http://localhost:8002" help:"URL of the node's admin port."`
}

// Help is the long help.
func (statusCmd) Help() string {
	return `
Examples:
  piko server status upstream endpoints
  piko server status upstream endpoints --server.url http://node-1:8002 -o table`
}

// statusUpstreamCmd is `piko server status upstream`.
type statusUpstreamCmd struct {
	Endpoints statusEndpointsCmd `cmd:"" help:"The endpoints that agents listen on at this node, with the number of listeners of each."`
}

// statusEndpointsCmd is `piko server status upstream endpoints`.
type statusEndpointsCmd struct{}

// Help is the long help.
func (statusEndpointsCmd) Help() string { return statusCmd{}.Help() }

// Run asks and prints.
func (statusEndpointsCmd) Run(p *process, status *statusCmd) error {
	client := admin.Client{URL: string(status.Server.URL)}
	endpoints, err := client.Endpoints(p.ctx)
	if err != nil {
		return fmt.Errorf("ask %s: %w", status.Server.URL, err)
	}
	return printCounts(p.stdout, status.Output, "ENDPOINT\tUPSTREAMS", endpoints)
}

// printCounts writes a map in the chosen format, sorted by key.
func printCounts(w io.Writer, format, heading string, counts map[string]int) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(counts) // sorts by itself
	case "table":
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, heading)
		for _, key := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(t, "%s\t%d\n", key, counts[key])
		}
		return t.Flush()
	}
	out := yaml.MapSlice{}
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, yaml.MapItem{Key: key, Value: counts[key]})
	}
	text, err := yaml.Marshal(out)
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	_, err = w.Write(text)
	return err
}

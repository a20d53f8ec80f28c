package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/goccy/go-yaml"

	"piko/admin"
)

// statusCmd is `piko server status`: questions to a running node.
type statusCmd struct {
	Server  statusServer `embed:"" prefix:"server."`
	Forward nodeID       `flagonly:"" placeholder:"NODE" help:"Let this node of the cluster answer, in place of the one at --server.url, which passes the question on. The names of the nodes are those of piko server status cluster nodes."`
	Output  string       `short:"o" default:"yaml" enum:"yaml,json,table" help:"Format of the answer."`

	Overview   statusOverviewCmd   `cmd:"" help:"What goes on at the node, or with --cluster at all."`
	Endpoints  statusListCmd       `cmd:"" help:"The endpoints of the cluster and what goes on at each."`
	Endpoint   statusEndpointCmd   `cmd:"" help:"One endpoint: its tunnels, and the requests that failed last."`
	Upstreams  statusUpstreamsCmd  `cmd:"" help:"The tunnels that agents have to the node, and what each has done."`
	Events     statusEventsCmd     `cmd:"" help:"Watch endpoints and nodes come up and go down."`
	Drain      statusDrainCmd      `cmd:"" help:"Have the node move its agents to other nodes. It goes on serving until it is stopped."`
	Disconnect statusDisconnectCmd `cmd:"" help:"End one tunnel; its agent connects again."`
	Upstream   statusUpstreamCmd   `cmd:"" help:"What the node's upstreams are."`
	Cluster    statusClusterCmd    `cmd:"" help:"Which nodes there are, and what they serve."`
	Gossip     statusGossipCmd     `cmd:"" help:"What the node has heard of the others."`
}

// statusServer says which node to ask.
type statusServer struct {
	URL       serverURL       `name:"url" default:"http://localhost:8002" help:"URL of the node's admin port."`
	Token     string          `placeholder:"JWT" help:"Token, if the port asks for one. Prefer the file or the environment variable: other users of the machine see command lines."`
	TokenFile string          `placeholder:"FILE" help:"File with the token and nothing else."`
	TLS       clientTLSConfig `embed:"" prefix:"tls."`
}

// Help is the long help.
func (statusCmd) Help() string {
	return `
Examples:
  piko server status overview --cluster --watch
  piko server status endpoints --cluster --sort errors
  piko server status cluster nodes
  piko server status cluster node local --server.url http://node-1:8002
  piko server status upstream endpoints --forward node-2 -o table
  piko server status cluster nodes --server.token-file /etc/piko/operator.jwt
  piko server status cluster nodes --server.url https://node-1:8002 --server.tls.root-cas ca.pem`
}

// client asks the node, or through it another.
func (c *statusCmd) client() (*admin.Client, error) {
	token := c.Server.Token
	switch {
	case token != "" && c.Server.TokenFile != "":
		return nil, &usageError{err: errors.New("--server.token-file: give it or --server.token, not both")}
	case c.Server.TokenFile != "":
		var err error
		if token, err = readToken(c.Server.TokenFile); err != nil {
			return nil, &usageError{err: fmt.Errorf("--server.token-file: %w", err)}
		}
	}
	loaded, err := c.Server.TLS.load("--server.tls.")
	if err != nil {
		return nil, err
	}
	client := &admin.Client{URL: string(c.Server.URL), Forward: string(c.Forward), Token: token}
	if loaded != nil {
		client.TLS = loaded.Config()
	}
	return client, nil
}

// failed says whom the question was for.
func (c *statusCmd) failed(err error) error {
	if c.Forward != "" {
		return fmt.Errorf("ask node %s through %s: %w", c.Forward, c.Server.URL.redacted(), err)
	}
	return fmt.Errorf("ask %s: %w", c.Server.URL.redacted(), err)
}

// statusUpstreamCmd is `piko server status upstream`.
type statusUpstreamCmd struct {
	Endpoints statusEndpointsCmd `cmd:"" help:"The endpoints that agents listen on at this node, with the number of listeners of each."`
}

// statusEndpointsCmd is `piko server status upstream endpoints`.
type statusEndpointsCmd struct{}

// Help is the long help.
func (statusEndpointsCmd) Help() string {
	return `
Examples:
  piko server status upstream endpoints
  piko server status upstream endpoints --server.url http://node-1:8002 -o table
  piko server status upstream endpoints --forward node-2`
}

// Run asks and prints.
func (statusEndpointsCmd) Run(p *process, status *statusCmd) error {
	client, err := status.client()
	if err != nil {
		return err
	}
	endpoints, err := client.Endpoints(p.ctx)
	if err != nil {
		return status.failed(err)
	}
	return status.print(p.stdout, countsAnswer(endpoints))
}

// countsAnswer is the number of upstreams of each endpoint.
func countsAnswer(counts map[string]int) statusAnswer {
	return statusAnswer{json: counts, yaml: sortedCounts(counts), table: func(w io.Writer) { writeCounts(w, counts) }}
}

func writeCounts(w io.Writer, counts map[string]int) {
	fmt.Fprintln(w, "ENDPOINT\tUPSTREAMS")
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(w, "%s\t%d\n", key, counts[key])
	}
}

// sortedCounts is counts as YAML writes it: in order.
func sortedCounts(counts map[string]int) yaml.MapSlice {
	out := yaml.MapSlice{}
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, yaml.MapItem{Key: key, Value: counts[key]})
	}
	return out
}

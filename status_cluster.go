package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/goccy/go-yaml"

	"piko/admin"
)

// statusClusterCmd is `piko server status cluster`.
type statusClusterCmd struct {
	Nodes statusNodesCmd `cmd:"" help:"All nodes of the cluster, as the node that answers sees them."`
	Node  statusNodeCmd  `cmd:"" help:"One node, with its endpoints and the number of listeners of each."`
}

// statusNodesCmd is `piko server status cluster nodes`.
type statusNodesCmd struct {
	Status string `flagonly:"" default:"all" enum:"all,active,draining,unreachable,left" help:"Show only nodes in this state."`
}

// Help is the long help.
func (statusNodesCmd) Help() string {
	return `
A node is active, draining (it stops, and its agents move to the others), unreachable
(it does not answer any more and gets no requests) or left (it has stopped).

Examples:
  piko server status cluster nodes
  piko server status cluster nodes -o table
  piko server status cluster nodes --status unreachable
  piko server status cluster nodes --forward node-2      # as node-2 sees them`
}

// nodesOutput is the answer, with the keys of v0.9.0.
type nodesOutput struct {
	Nodes []admin.NodeSummary `json:"nodes"`
}

// Run asks and prints.
func (c statusNodesCmd) Run(p *process, status *statusCmd) error {
	client, err := status.client()
	if err != nil {
		return err
	}
	nodes, err := client.Nodes(p.ctx)
	if err != nil {
		return status.failed(err)
	}
	nodes = slices.DeleteFunc(nodes, func(n admin.NodeSummary) bool { return c.Status != "all" && c.Status != n.Status })
	return status.print(p.stdout, statusAnswer{json: nodesOutput{nodes}, table: func(w io.Writer) {
		fmt.Fprintln(w, "NODE\tSTATUS\tPROXY\tADMIN\tENDPOINTS\tUPSTREAMS")
		for _, n := range nodes {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\n", n.ID, n.Status, dash(n.ProxyAddr), dash(n.AdminAddr), n.Endpoints, n.Upstreams)
		}
	}})
}

// statusNodeCmd is `piko server status cluster node`.
type statusNodeCmd struct {
	Node nodeID `arg:"" help:"The node's name, or local: the one that answers."`
}

// Help is the long help.
func (statusNodeCmd) Help() string {
	return `
Examples:
  piko server status cluster node local
  piko server status cluster node node-2                    # as the node that answers sees it
  piko server status cluster node local --forward node-2    # as node-2 sees itself`
}

// Run asks and prints.
func (c statusNodeCmd) Run(p *process, status *statusCmd) error {
	client, err := status.client()
	if err != nil {
		return err
	}
	n, err := client.Node(p.ctx, string(c.Node))
	if err != nil {
		return status.failed(err)
	}
	return status.print(p.stdout, statusAnswer{
		json: n,
		yaml: yaml.MapSlice{
			{Key: "id", Value: n.ID}, {Key: "status", Value: n.Status},
			{Key: "proxy_addr", Value: n.ProxyAddr}, {Key: "admin_addr", Value: n.AdminAddr},
			{Key: "endpoints", Value: sortedCounts(n.Endpoints)},
		},
		table: func(w io.Writer) {
			fmt.Fprintf(w, "NODE\tSTATUS\tPROXY\tADMIN\n%s\t%s\t%s\t%s\n\n", n.ID, n.Status, dash(n.ProxyAddr), dash(n.AdminAddr))
			writeCounts(w, n.Endpoints)
		},
	})
}

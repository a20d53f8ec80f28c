package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"piko/admin"
)

// statusGossipCmd is `piko server status gossip`.
type statusGossipCmd struct {
	Nodes statusGossipNodesCmd `cmd:"" help:"All nodes that the node that answers has heard of."`
	Node  statusGossipNodeCmd  `cmd:"" help:"All that one node has told the node that answers."`
}

// statusGossipNodesCmd is `piko server status gossip nodes`.
type statusGossipNodesCmd struct{}

// Help is the long help.
func (statusGossipNodesCmd) Help() string {
	return `
The version of a node counts the changes to its endpoints. Two nodes that show the same
version of a third know the same of it.

Examples:
  piko server status gossip nodes
  piko server status gossip nodes -o table --forward node-2`
}

// gossipNodesOutput is the answer, with the keys of v0.9.0.
type gossipNodesOutput struct {
	Nodes []admin.GossipNode `json:"nodes"`
}

// Run asks and prints.
func (statusGossipNodesCmd) Run(p *process, status *statusCmd) error {
	client, err := status.client()
	if err != nil {
		return err
	}
	nodes, err := client.GossipNodes(p.ctx)
	if err != nil {
		return status.failed(err)
	}
	return status.print(p.stdout, statusAnswer{json: gossipNodesOutput{nodes}, table: func(w io.Writer) { writeGossipNodes(w, nodes...) }})
}

func writeGossipNodes(w io.Writer, nodes ...admin.GossipNode) {
	fmt.Fprintln(w, "NODE\tADDR\tVERSION\tLEFT\tUNREACHABLE\tEXPIRY")
	for _, n := range nodes {
		expiry := ""
		if !n.Expiry.IsZero() {
			expiry = n.Expiry.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", n.ID, dash(n.Addr), n.Version, yesNo(n.Left), yesNo(n.Unreachable), dash(expiry))
	}
}

// statusGossipNodeCmd is `piko server status gossip node`.
type statusGossipNodeCmd struct {
	Node nodeID `arg:"" help:"The node's name, or local: the one that answers."`
}

// Help is the long help.
func (statusGossipNodeCmd) Help() string {
	return `
Examples:
  piko server status gossip node node-2
  piko server status gossip node node-2 --forward node-3    # what node-3 has heard of node-2`
}

// gossipNodeOutput is the answer. The status API calls the entries "Entries",
// as v0.9.0's did; here they are in lower case, as all other keys are.
type gossipNodeOutput struct {
	ID          string              `json:"id"`
	Addr        string              `json:"addr"`
	Version     uint64              `json:"version"`
	Left        bool                `json:"left"`
	Unreachable bool                `json:"unreachable"`
	Expiry      time.Time           `json:"expiry"`
	Entries     []admin.GossipEntry `json:"entries"`
}

// Run asks and prints.
func (c statusGossipNodeCmd) Run(p *process, status *statusCmd) error {
	client, err := status.client()
	if err != nil {
		return err
	}
	n, err := client.GossipNode(p.ctx, string(c.Node))
	if err != nil {
		return status.failed(err)
	}
	out := gossipNodeOutput{n.ID, n.Addr, n.Version, n.Left, n.Unreachable, n.Expiry, n.Entries}
	return status.print(p.stdout, statusAnswer{json: out, table: func(w io.Writer) {
		writeGossipNodes(w, n.GossipNode)
		fmt.Fprintln(w, "\nKEY\tVALUE\tVERSION\tINTERNAL")
		for _, e := range n.Entries {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.Key, dash(e.Value), strconv.FormatUint(e.Version, 10), yesNo(e.Internal))
		}
	}})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

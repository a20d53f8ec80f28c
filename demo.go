package main

import "errors"

// demoCmd is `piko demo`.
type demoCmd struct {
	Exit    bool `help:"Stop after the requests, with status 0 if all of them worked."`
	Verbose bool `short:"v" help:"Show what server and agent log."`
}

// Run starts a server, an agent and a service in this process and sends
// requests through them.
func (c *demoCmd) Run(p *process) error {
	return errors.ErrUnsupported
}

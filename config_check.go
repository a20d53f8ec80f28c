package main

import (
	"errors"
	"fmt"
	"os"
)

// configCmd is `piko config`.
type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Say what is wrong with a configuration file, or that nothing is."`
}

// configCheckCmd is `piko config check`.
type configCheckCmd struct {
	Kind string `arg:"" optional:"" enum:"server,agent,forward,auto" default:"auto" help:"Whose file it is: server, agent or forward. When not given, the sections in it tell."`

	Path      string `name:"config.path" flagonly:"" required:"" placeholder:"FILE" help:"The file."`
	ExpandEnv bool   `name:"config.expand-env" flagonly:"" help:"Replace environment variables in it, as the command does with this flag."`
}

// Help is the long help.
func (configCheckCmd) Help() string {
	return `
Reads the file, the PIKO_ environment variables and the files that they name
(certificates, keys) as the command does, and starts nothing. Every mistake is
named with its line. The exit status is 0 when all is well, else 2.

Examples:
  piko config check --config.path piko.yaml
  piko config check agent --config.path agent.yaml --config.expand-env`
}

// Run checks the file by parsing the command line that would use it.
func (c *configCheckCmd) Run(p *process) error {
	kind, err := c.kind()
	if err != nil {
		return &usageError{err: err}
	}
	args := map[string][]string{"server": {"server"}, "agent": {"agent", "start"}, "forward": {"forward", "start"}}[kind]
	args = append(args, "--"+configPathFlag+"="+c.Path)
	if c.ExpandEnv {
		args = append(args, "--"+configExpandFlag)
	}
	ctx, err := parse(args, p)
	if err != nil {
		return err
	}
	checker, ok := ctx.Selected().Target.Addr().Interface().(configured)
	if !ok {
		return errors.New("check configuration: the command cannot")
	}
	if err := checker.checkConfig(ctx.Model.Target.Addr().Interface().(*cli)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "%s: ok, as the configuration of piko %s\n", c.Path, kind)
	return err
}

// kind guesses from the sections that only one of them has.
func (c *configCheckCmd) kind() (string, error) {
	if c.Kind != "auto" {
		return c.Kind, nil
	}
	text, err := os.ReadFile(c.Path)
	if err != nil {
		return "", fmt.Errorf("read --%s: %w", configPathFlag, err)
	}
	root, err := parseYAML(c.Path, text)
	if err != nil {
		return "", err
	}
	for _, guess := range []struct{ key, kind string }{
		{"ports", "forward"}, {"listeners", "agent"}, {"connect", "agent"}, {"server", "agent"},
	} {
		if root.get(guess.key) != nil {
			return guess.kind, nil
		}
	}
	return "server", nil
}

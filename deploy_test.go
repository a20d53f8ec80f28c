package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"piko/certs/certstest"
)

// deployed is a command line with its environment, as something in deploy/ runs it.
type deployed struct {
	where string
	args  []string
	env   []string // NAME=value
}

// TestDeployedCommandLines: flags, values and variables of everything in
// deploy/ are ones that piko takes. (.ci/deploycheck checks all else there.)
func TestDeployedCommandLines(t *testing.T) {
	secret := writeFile(t, "secret", strings.Repeat("s", 32)+"\n")
	lines := slices.Concat(composeCommands(t, "deploy/compose.yaml"), composeCommands(t, "deploy/compose-demo/compose.yaml"))
	for _, file := range []string{"server.yaml", "agent.yaml"} {
		plain := kubernetesCommands(t, "deploy/kubernetes/"+file)
		lines = append(lines, plain...)
		for i, patched := range kubernetesCommands(t, "deploy/kubernetes/tls/"+file) {
			if patched.args == nil {
				patched.args = slices.Clone(plain[i].args)
			}
			lines = append(lines, patched)
		}
	}
	ca := certstest.NewCA(t, "ca")
	cert, key := ca.Issue([]string{"piko-upstream"}).Files()
	replace := strings.NewReplacer("$(POD_NAME)", "piko-0", "$(POD_IP)", "10.0.0.1", "/etc/piko/cluster/secret", secret,
		"/etc/piko/tls/tls.crt", cert, "/etc/piko/tls/tls.key", key, "/etc/piko/auth/agents.key", secret,
		"/etc/piko/agent/token", writeFile(t, "token", "e30.e30.c2ln"), "/etc/piko/agent/ca.crt", ca.File())
	for _, d := range lines {
		for i, arg := range d.args {
			d.args[i] = replace.Replace(arg)
		}
		for i, e := range d.env {
			d.env[i] = replace.Replace(e)
		}
		p := newTestProcess(t, d.env...)
		command, err := parse(d.args, &p.process)
		if err == nil {
			checker, ok := command.Selected().Target.Addr().Interface().(configured)
			if !ok {
				continue // a question, such as a health check asks
			}
			err = checker.checkConfig(command.Model.Target.Addr().Interface().(*cli))
		}
		if err != nil {
			t.Errorf("%s: piko %s: %v", d.where, strings.Join(d.args, " "), err)
		}
		for _, e := range d.env {
			if name, _, _ := strings.Cut(e, "="); !knownVariable(t, d.args, name) {
				t.Errorf("%s: %s is no variable of piko %s", d.where, name, d.args[0])
			}
		}
	}
	if len(lines) < 14 {
		t.Errorf("only %d command lines were found", len(lines))
	}
}

// knownVariable reports whether the command's help names the variable.
func knownVariable(t *testing.T, args []string, name string) bool {
	t.Helper()
	help := []string{args[0], "--help"}
	if args[0] == "agent" {
		help = []string{args[0], args[1], "--help"}
	}
	_, stdout, _ := runPiko(t, help...)
	return strings.Contains(stdout, "env: "+name+"]")
}

// kubernetesCommands are the arguments and variables of all containers in a file.
func kubernetesCommands(t *testing.T, file string) (lines []deployed) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	documents := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var object struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct {
						Containers []struct {
							Args []string
							Env  []struct{ Name, Value string }
						}
					}
				}
			}
		}
		err := documents.Decode(&object)
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, c := range object.Spec.Template.Spec.Containers {
			d := deployed{where: file + ": " + object.Kind, args: c.Args}
			for _, e := range c.Env {
				if e.Value != "" { // the others' values come from elsewhere, and are not for piko
					d.env = append(d.env, e.Name+"="+e.Value)
				}
			}
			lines = append(lines, d)
		}
	}
}

// composeCommands are the commands and health checks of all that runs piko.
func composeCommands(t *testing.T, file string) (lines []deployed) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var project struct {
		Services map[string]struct {
			Image       string
			Command     []string
			Environment map[string]string
			Healthcheck struct{ Test []string }
		}
	}
	if err := yaml.Unmarshal(text, &project); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for name, service := range project.Services {
		if !strings.HasPrefix(service.Image, "piko:") {
			continue
		}
		d := deployed{where: file + ": " + name, args: service.Command}
		for key, value := range service.Environment {
			if strings.HasPrefix(value, "${") {
				value = strings.Repeat("s", 32) // the user's
			}
			d.env = append(d.env, key+"="+value)
		}
		lines = append(lines, d)
		if test := service.Healthcheck.Test; len(test) > 2 {
			lines = append(lines, deployed{where: d.where + "'s health check", args: test[2:]})
		}
	}
	return lines
}

// TestBalancerConfigurationIsValid asks the balancer itself, where there is one.
func TestBalancerConfigurationIsValid(t *testing.T) {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		if haproxy, err = exec.LookPath("/usr/sbin/haproxy"); err != nil {
			t.Skip("no haproxy here")
		}
	}
	if out, err := exec.CommandContext(t.Context(), haproxy, "-c", "-f", "deploy/haproxy.cfg").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

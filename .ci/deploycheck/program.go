package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// program is piko itself, which says what it thinks of configurations.
type program struct {
	binary string
	dir    string
	stock  map[string]string // files to put where somebody's secrets would be, by the key that names them
}

func newProgram(binary string) (*program, error) {
	dir, err := os.MkdirTemp("", "deploycheck")
	if err != nil {
		return nil, err
	}
	p := &program{binary: binary, dir: dir}
	p.stock, err = newStock()
	return p, err
}

func (p *program) close() { _ = os.RemoveAll(p.dir) }

// try starts piko as the pod's first container would, with the files that the
// pod has, and with ports that cannot be had: so it ends at once, with status
// 1, and with 2 if there is anything that it does not understand.
func (p *program) try(ctx context.Context, c *cluster, pod corev1.PodSpec) error {
	container := &pod.Containers[0]
	config, err := c.config(pod, container)
	if err != nil {
		return err
	}
	files := materializer{p: p, c: c, pod: pod, container: container}
	files.walk("", config)
	if err := errors.Join(files.errs...); err != nil {
		return err
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	path := filepath.Join(p.dir, "config.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	kind := container.Args[0]
	if out, status := p.run(ctx, nil, "config", "check", kind, "--config.path="+path); status != 0 {
		return fmt.Errorf("piko config check: %s\nof\n%s", out, text)
	}
	args := slices.Clone(container.Args)
	for i, arg := range args {
		if strings.HasPrefix(arg, "--config.path=") {
			arg = "--config.path=" + path
		}
		args[i] = strings.NewReplacer("$(POD_NAME)", "piko-0", "$(POD_IP)", "127.0.0.1").Replace(arg)
	}
	const nowhere = "192.0.2.1:1" // TEST-NET-1
	env := []string{"PIKO_PROXY_BIND_ADDR=" + nowhere, "PIKO_SERVER_BIND_ADDR=" + nowhere}
	for _, e := range container.Env {
		if e.ValueFrom == nil {
			env = append(env, e.Name+"="+e.Value)
		}
	}
	if out, status := p.run(ctx, env, args...); status != 1 || !strings.Contains(out, nowhere) {
		return fmt.Errorf("piko %s: exit status %d, want 1 for a port that it cannot have:\n%s", strings.Join(args, " "), status, out)
	}
	return nil
}

func (p *program) run(ctx context.Context, env []string, args ...string) (output string, status int) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, p.binary, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(env, "PATH="), &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// materializer replaces the files that a configuration names by files that are
// there, and says which would not be there in the pod.
type materializer struct {
	p         *program
	c         *cluster
	pod       corev1.PodSpec
	container *corev1.Container
	made      int
	errs      []error
}

// walk replaces below at, which is the value of key, and returns it.
func (m *materializer) walk(key string, at any) any {
	switch at := at.(type) {
	case map[string]any:
		for k, v := range at {
			at[k] = m.walk(k, v)
		}
	case []any:
		for i, v := range at {
			at[i] = m.walk(key, v)
		}
	case string:
		if strings.HasPrefix(at, "/etc/piko/") {
			return m.file(key, at)
		}
	}
	return at
}

func (m *materializer) file(key, path string) string {
	text, ok, err := m.c.file(m.pod, m.container, path)
	if !ok && err == nil {
		if text, ok = m.p.stock[key]; !ok {
			err = fmt.Errorf("no file is known for %s: %s", key, path)
		}
	}
	m.made++
	made := filepath.Join(m.p.dir, fmt.Sprintf("%d-%s", m.made, filepath.Base(path)))
	m.errs = append(m.errs, err, os.WriteFile(made, []byte(text), 0o600))
	return made
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// checkCompose loads a compose file as docker compose does, and checks that
// what it mounts is there and that the balancer knows every node.
func checkCompose(ctx context.Context, file string) (services int, err error) {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithEnv([]string{"PIKO_CLUSTER_SECRET=0123456789abcdef"}))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	project, err := options.LoadProject(ctx)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	if _, err := loadWithoutSecret(ctx, file); err == nil {
		return 0, fmt.Errorf("%s: loads without a secret", file)
	}
	var errs []error
	for name, service := range project.Services {
		for _, v := range service.Volumes {
			if _, err := os.Stat(v.Source); v.Type == types.VolumeTypeBind && err != nil {
				errs = append(errs, fmt.Errorf("%s: service %s: %w", file, name, err))
			}
		}
	}
	for _, service := range project.Services {
		for _, v := range service.Volumes {
			if filepath.Base(v.Source) == "haproxy.cfg" {
				errs = append(errs, checkBalancer(v.Source, project))
			}
		}
	}
	return len(project.Services), errors.Join(errs...)
}

func loadWithoutSecret(ctx context.Context, file string) (*types.Project, error) {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithEnv(nil))
	if err != nil {
		return nil, err
	}
	return options.LoadProject(ctx)
}

var serverLine = regexp.MustCompile(`(?m)^\s*server (\S+) (\S+):(8000|8001)$`)

// checkBalancer checks that each node is behind both ports, and nobody else.
func checkBalancer(file string, project *types.Project) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	servers := map[string]int{}
	for _, m := range serverLine.FindAllStringSubmatch(string(text), -1) {
		servers[m[2]]++
	}
	var errs []error
	for name, service := range project.Services {
		if strings.Join(service.Command, " ") != "server" {
			continue
		}
		if servers[name] != 2 {
			errs = append(errs, fmt.Errorf("%s: %s is behind %d of 2 ports", file, name, servers[name]))
		}
		delete(servers, name)
	}
	for name := range servers {
		errs = append(errs, fmt.Errorf("%s: there is no node %s", file, name))
	}
	return errors.Join(errs...)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"sigs.k8s.io/yaml"
)

// scrapes is as much of Prometheus' configuration as is checked here; promtool checks the rest.
type scrapes struct {
	RuleFiles     []string `json:"rule_files"`
	ScrapeConfigs []struct {
		JobName       string `json:"job_name"`
		StaticConfigs []struct {
			Targets []string `json:"targets"`
		} `json:"static_configs"`
	} `json:"scrape_configs"`
}

// provisioning are Grafana's files: data sources and where dashboards are.
type provisioning struct {
	APIVersion  int `json:"apiVersion"`
	Datasources []struct {
		Name           string         `json:"name"`
		UID            string         `json:"uid"`
		Type           string         `json:"type"`
		Access         string         `json:"access"`
		URL            string         `json:"url"`
		IsDefault      bool           `json:"isDefault"`
		JSONData       map[string]any `json:"jsonData"`
		SecureJSONData map[string]any `json:"secureJsonData"`
	} `json:"datasources,omitempty"`
	Providers []struct {
		Name            string            `json:"name"`
		Type            string            `json:"type"`
		Folder          string            `json:"folder"`
		DisableDeletion bool              `json:"disableDeletion"`
		Options         map[string]string `json:"options"`
	} `json:"providers,omitempty"`
}

// checkMonitoring checks the demo with Prometheus and Grafana: the compose file, that what is scraped are its services, that
// what is mounted is where the configurations look for it, and that dashboards are such.
func checkMonitoring(ctx context.Context, dir string) (services int, err error) {
	file := filepath.Join(dir, "compose.yaml")
	services, err = checkCompose(ctx, file)
	if err != nil {
		return services, err
	}
	options, err := cli.NewProjectOptions([]string{file}, cli.WithEnv([]string{"PIKO_CLUSTER_SECRET=0123456789abcdef"}))
	if err != nil {
		return services, err
	}
	project, err := options.LoadProject(ctx)
	if err != nil {
		return services, err
	}
	mounted := func(service, path string) string { // where it comes from
		for _, v := range project.Services[service].Volumes {
			if rest, ok := strings.CutPrefix(path, v.Target); ok {
				return v.Source + rest
			}
		}
		return ""
	}
	var errs []error
	var prometheus scrapes
	errs = append(errs, strictly(mounted("prometheus", "/etc/prometheus/prometheus.yml"), &prometheus, yaml.Unmarshal))
	for _, rules := range prometheus.RuleFiles {
		if _, err := os.Stat(mounted("prometheus", filepath.Join("/etc/prometheus", rules))); err != nil {
			errs = append(errs, fmt.Errorf("rule file %s is not mounted: %w", rules, err))
		}
	}
	for _, job := range prometheus.ScrapeConfigs {
		for _, group := range job.StaticConfigs {
			for _, target := range group.Targets {
				host, _, _ := strings.Cut(target, ":")
				if _, ok := project.Services[host]; !ok || !strings.HasPrefix(job.JobName, "piko") {
					errs = append(errs, fmt.Errorf("job %s scrapes %s, which is no service", job.JobName, target))
				}
			}
		}
	}
	return services, errors.Join(append(errs, checkGrafana(mounted))...)
}

func checkGrafana(mounted func(service, path string) string) error {
	const base = "/etc/grafana/provisioning/"
	var sources, dashboards provisioning
	err := errors.Join(strictly(mounted("grafana", base+"datasources/prometheus.yaml"), &sources, yaml.UnmarshalStrict),
		strictly(mounted("grafana", base+"dashboards/piko.yaml"), &dashboards, yaml.UnmarshalStrict))
	if err != nil {
		return err
	}
	if len(sources.Datasources) != 1 || sources.Datasources[0].URL != "http://prometheus:9090" || len(dashboards.Providers) != 1 {
		return errors.New("grafana has not one data source and one directory of dashboards")
	}
	path := dashboards.Providers[0].Options["path"]
	files, err := filepath.Glob(filepath.Join(mounted("grafana", path), "*.json"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no dashboards are mounted at %s: %w", path, errors.Join(err, os.ErrNotExist))
	}
	ids := map[string]string{}
	var errs []error
	for _, file := range files {
		errs = append(errs, checkDashboard(file, ids))
	}
	return errors.Join(errs...)
}

// checkDashboard checks what Grafana would stumble over when it reads a file: ids that are there twice, panels over each other
// or beyond the edge, and queries that are not of the chosen data source.
func checkDashboard(file string, ids map[string]string) error {
	type panel struct {
		ID         int
		Type       string
		Title      string
		Datasource struct{ UID string }
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct {
			RefID      string
			Datasource struct{ UID string }
		}
	}
	var d struct {
		UID, Title    string
		SchemaVersion int
		Panels        []panel
	}
	if err := strictly(file, &d, func(text []byte, v any, _ ...yaml.JSONOpt) error { return json.Unmarshal(text, v) }); err != nil {
		return err
	}
	var errs []error
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 || ids[d.UID] != "" {
		errs = append(errs, fmt.Errorf("%s: uid %q, title %q, schema %d; also %s", file, d.UID, d.Title, d.SchemaVersion, ids[d.UID]))
	}
	ids[d.UID] = file
	seen, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if seen[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.Type != "row" && (len(p.Targets) == 0 || p.Datasource.UID != "${datasource}") {
			errs = append(errs, fmt.Errorf("%s: panel %d, %s, has another's id, no room or no queries", file, p.ID, p.Title))
		}
		seen[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, ok := cells[at]; ok {
					return fmt.Errorf("%s: panels %s and %s are over each other", file, other, p.Title)
				}
				cells[at] = p.Title
			}
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if refs[target.RefID] || target.Datasource.UID != "${datasource}" {
				errs = append(errs, fmt.Errorf("%s: panel %s: query %s is there twice or has another data source", file, p.Title, target.RefID))
			}
			refs[target.RefID] = true
		}
	}
	return errors.Join(errs...)
}

// strictly reads a file.
func strictly(file string, v any, unmarshal func([]byte, any, ...yaml.JSONOpt) error) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

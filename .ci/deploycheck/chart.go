package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// kubeVersion is what a cluster says that the chart is rendered for.
var kubeVersion = chartutil.KubeVersion{Version: "v1.34.0", Major: "1", Minor: "34"}

// checkChart renders the chart with each file of its ci directory, and with
// the values that a document shows, and checks what comes out of it; then what
// the chart must refuse, and which changes of values restart pods. piko is the
// program that runs with what was rendered.
func checkChart(ctx context.Context, dir, document, piko string) (string, error) {
	loaded, err := loader.Load(dir)
	if err != nil {
		return "", err
	}
	p, err := newProgram(piko)
	if err != nil {
		return "", err
	}
	defer p.close()
	texts, err := valuesOf(dir, document)
	errs := []error{err}
	objects, started := 0, 0
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		c, err := checkValues(ctx, loaded, dir, texts[name], p)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s with %s: %w", dir, name, err))
		}
		objects, started = objects+c.objects, started+len(c.workloads)
	}
	cases, err := checkCases(loaded)
	errs = append(errs, err, checkUpgrade(loaded))
	return fmt.Sprintf("chart %s: %d objects from %d sets of values are valid, piko started with %d of their configurations, %d further cases",
		loaded.Name(), objects, len(texts), started, cases), errors.Join(errs...)
}

// valuesOf are the texts of all values to try, by where they are from.
func valuesOf(dir, document string) (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "ci", "*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find values of %s: %w", dir, errors.Join(err, os.ErrNotExist))
	}
	texts, err := documented(document)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		texts[filepath.Base(file)] = string(text)
	}
	return texts, nil
}

// documented are the blocks of YAML in a document, by the lines on which they
// begin. A block with containers is a part of a pod, and checked at once.
func documented(document string) (map[string]string, error) {
	text, err := os.ReadFile(document)
	if err != nil {
		return nil, err
	}
	blocks := map[string]string{}
	for line, rest := 1, string(text); ; {
		before, after, found := strings.Cut(rest, "\n```yaml\n")
		if !found {
			return blocks, nil
		}
		block, end, _ := strings.Cut(after, "\n```\n")
		line += strings.Count(before, "\n") + 2
		name := fmt.Sprintf("%s:%d", filepath.Base(document), line)
		if strings.Contains(block, "\ninitContainers:") {
			if err := yaml.UnmarshalStrict([]byte(block), &corev1.PodSpec{}); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		} else {
			blocks[name] = block
		}
		line += strings.Count(block, "\n") + 2
		rest = end
	}
}

// checkValues lints and renders with values, and checks the result.
func checkValues(ctx context.Context, loaded *chart.Chart, dir, text string, p *program) (*cluster, error) {
	c := newCluster()
	values := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(text), &values); err != nil {
		return c, err
	}
	documents, err := render(loaded, values)
	if err != nil {
		return c, err
	}
	errs := []error{lintChart(dir, values)}
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		errs = append(errs, c.addText(name, []byte(documents[name]), nil))
	}
	errs = append(errs, c.check())
	for _, w := range c.workloads {
		if err := p.try(ctx, c, w.template.Spec); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", w.name, err))
		}
	}
	return c, errors.Join(errs...)
}

// lintChart is `helm lint --strict`.
func lintChart(dir string, values map[string]any) error {
	var errs []error
	for _, m := range lint.AllWithKubeVersion(dir, values, "piko-system", &kubeVersion).Messages {
		if m.Severity >= support.WarningSev {
			errs = append(errs, fmt.Errorf("lint: %s: %w", m.Path, m.Err))
		}
	}
	return errors.Join(errs...)
}

// toRender are the values as templates see them. As helm does it checks them by
// the chart's schema first.
func toRender(loaded *chart.Chart, values map[string]any) (chartutil.Values, error) {
	options := chartutil.ReleaseOptions{Name: "piko", Namespace: "piko-system", Revision: 1, IsInstall: true}
	capabilities := *chartutil.DefaultCapabilities
	capabilities.KubeVersion = kubeVersion
	capabilities.APIVersions = append(slices.Clone(capabilities.APIVersions), "gateway.networking.k8s.io/v1/TLSRoute")
	return chartutil.ToRenderValues(loaded, values, options, &capabilities)
}

// render is what `helm template` prints, by file.
func render(loaded *chart.Chart, values map[string]any) (map[string]string, error) {
	all, err := toRender(loaded, values)
	if err != nil {
		return nil, err
	}
	rendered, err := engine.Engine{Strict: true}.Render(loaded, all)
	if err != nil {
		return nil, err
	}
	notes := ""
	for name, text := range rendered {
		if strings.HasSuffix(name, "NOTES.txt") {
			notes = text
		}
		if !strings.HasSuffix(name, ".yaml") || len(bytes.TrimSpace([]byte(text))) == 0 {
			delete(rendered, name)
		}
	}
	if strings.TrimSpace(notes) == "" || strings.Contains(notes, "<no value>") {
		return nil, fmt.Errorf("notes: %q", notes)
	}
	return rendered, nil
}

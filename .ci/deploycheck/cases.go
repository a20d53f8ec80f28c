package main

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"sigs.k8s.io/yaml"
)

// casesText has the cases; the comments in it say what they are.
//
//go:embed cases.yaml
var casesText []byte

type chartCases struct {
	Refused []struct {
		Values map[string]any `json:"values"`
		Error  string         `json:"error"`
	} `json:"refused"`
	Restarts []struct {
		From     map[string]any `json:"from"`
		To       map[string]any `json:"to"`
		Restarts bool           `json:"restarts"`
	} `json:"restarts"`
	Rendered []struct {
		Values map[string]any `json:"values"`
		File   string         `json:"file"`
		Has    []string       `json:"has"`
		Lacks  []string       `json:"lacks"`
	} `json:"rendered"`
}

// checkCases returns how many there are.
func checkCases(loaded *chart.Chart) (int, error) {
	var cases chartCases
	if err := yaml.UnmarshalStrict(casesText, &cases); err != nil {
		return 0, err
	}
	var errs []error
	for _, c := range cases.Refused {
		if _, err := render(loaded, c.Values); err == nil || !strings.Contains(err.Error(), c.Error) {
			errs = append(errs, fmt.Errorf("values %v: %w, want an error with %q", c.Values, err, c.Error))
		}
	}
	for _, c := range cases.Restarts {
		from, err := pods(loaded, c.From)
		to, err2 := pods(loaded, c.To)
		if err = errors.Join(err, err2); err != nil {
			errs = append(errs, fmt.Errorf("values %v and %v: %w", c.From, c.To, err))
		} else if restarts := from != to; restarts != c.Restarts {
			errs = append(errs, fmt.Errorf("from %v to %v: pods restart: %v, want %v", c.From, c.To, restarts, c.Restarts))
		}
	}
	for _, c := range cases.Rendered {
		documents, err := render(loaded, c.Values)
		text := documents[loaded.Name()+"/templates/"+c.File]
		errs = append(errs, err)
		for _, want := range c.Has {
			if !strings.Contains(text, want) {
				errs = append(errs, fmt.Errorf("values %v: %s has no %q:\n%s", c.Values, c.File, want, text))
			}
		}
		for _, wrong := range c.Lacks {
			if strings.Contains(text, wrong) {
				errs = append(errs, fmt.Errorf("values %v: %s has %q", c.Values, c.File, wrong))
			}
		}
	}
	return len(cases.Refused) + len(cases.Restarts) + len(cases.Rendered), errors.Join(errs...)
}

// pods are the templates of all pods, as text.
func pods(loaded *chart.Chart, values map[string]any) (string, error) {
	documents, err := render(loaded, values)
	if err != nil {
		return "", err
	}
	c := newCluster()
	for name, text := range documents {
		if err := c.addText(name, []byte(text), nil); err != nil {
			return "", err
		}
	}
	byName := map[string]any{}
	for _, w := range c.workloads {
		byName[w.name] = w.template
	}
	text, err := yaml.Marshal(byName)
	return string(text), err
}

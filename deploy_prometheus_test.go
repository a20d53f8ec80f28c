package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	metricName = regexp.MustCompile(`\bpiko_\w+`)
	alertName  = regexp.MustCompile(`(?m)^ +- alert: (\w+)$`)
)

// TestRulesAndDashboardsAskForMetricsThatExist, as far as that can be known without a Prometheus (see e2e).
func TestRulesAndDashboardsAskForMetricsThatExist(t *testing.T) {
	node, agents, forwards, all := metricsOf(t)
	known := func(name string) bool {
		for _, set := range []map[string]metric{node, agents, forwards, all} {
			for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
				if base, ok := strings.CutSuffix(name, suffix); ok && set[base].help != "" {
					return true
				}
			}
		}
		return false
	}
	files, err := filepath.Glob("deploy/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	for _, file := range append(files, "deploy/prometheus/rules.yaml", "deploy/prometheus/alerts.yaml", ".ci/prometheus/rules_test.yaml") {
		text := readText(t, file)
		for _, record := range regexp.MustCompile(`job:piko_\w+:\w+`).FindAllString(text, -1) {
			if !strings.Contains(readText(t, "deploy/prometheus/rules.yaml"), "record: "+record+"\n") {
				t.Errorf("%s asks for %s, which nobody records", file, record)
			}
		}
		text = regexp.MustCompile(`job:piko_\w+:\w+`).ReplaceAllString(text, "")
		for _, name := range metricName.FindAllString(text, -1) {
			if !known(name) {
				t.Errorf("%s asks for %s, which does not exist", file, name)
			}
		}
	}
}

// TestAlertsAreDocumentedAndTested: each has a place in the document that says what to do, and a case for promtool.
func TestAlertsAreDocumentedAndTested(t *testing.T) {
	rules, doc, cases := readText(t, "deploy/prometheus/alerts.yaml"), readText(t, observabilityDoc), readText(t, ".ci/prometheus/rules_test.yaml")
	for _, m := range alertName.FindAllStringSubmatch(rules, -1) {
		switch name := m[1]; {
		case !strings.Contains(doc, "\n### "+name+"\n"):
			t.Errorf("%s does not say what to do about %s", observabilityDoc, name)
		case !strings.Contains(rules, "runbook: docs/observability.md#"+strings.ToLower(name)+"\n"):
			t.Errorf("%s does not lead to the document", name)
		case !strings.Contains(cases, `{alertname="`+name+`"}`):
			t.Errorf("there is no case in which %s fires", name)
		}
	}
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

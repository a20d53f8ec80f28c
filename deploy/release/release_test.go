package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// epoch is the time of the test's release.
var epoch = time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)

func TestVersions(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1767323046")
	for version, fine := range map[string]bool{
		"v1.2.3": true, "v1.2.3-rc.1": true, "v0.10.0-beta": true,
		"": false, "1.2.3": false, "v1.2": false, "v1.2.3+meta": false, "v1.2.3-": false, "v1.2.3 -X main.a=b": false,
	} {
		s, err := findSource(t.Context(), "../..", version, true)
		if version == "" && err != nil && !strings.Contains(err.Error(), "-version") {
			t.Errorf("without a version: %v; want to be told about -version", err)
		}
		if (err == nil) != fine {
			t.Errorf("%q: error %v", version, err)
		}
		if err == nil && (s.commit != "" || !s.time.Equal(epoch)) {
			t.Errorf("%q: commit %q at %v; want none, at %v", version, s.commit, s.time, epoch)
		}
	}
}

func TestLicences(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"                                 Apache License\n                           Version 2.0, January 2004":                                     "Apache-2.0",
		"Mozilla Public License, version 2.0\n\n1. Definitions":                                                                                     "MPL-2.0",
		"MIT License\n\nPermission is hereby granted, free\nof charge, to any person":                                                               "MIT",
		"Redistribution and use in source and binary forms, with or without\n... Neither the name of Google nor the\nnames of its contributors may": "BSD-3-Clause",
		"Redistribution and use in source and binary forms, with or without":                                                                        "BSD-2-Clause",
		"All rights reserved.": "",
	} {
		if got := licenceOf(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestArchivesDependOnTheirContentOnly(t *testing.T) {
	t.Parallel()
	files := []archived{{"piko", 0o755, []byte("binary")}, {"completion/_piko", 0o644, []byte("script")}}
	for name, write := range map[string]func(string, string, []archived, time.Time) error{"a.tar.gz": writeTar, "a.zip": writeZip} {
		var archives [][]byte
		for _, zone := range []*time.Location{time.UTC, time.FixedZone("elsewhere", 3*3600)} {
			path := filepath.Join(t.TempDir(), name)
			if err := write(path, "piko_1.2.3_linux_amd64", files, epoch.In(zone).UTC()); err != nil {
				t.Fatal(err)
			}
			archive, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			archives = append(archives, archive)
		}
		if !bytes.Equal(archives[0], archives[1]) {
			t.Errorf("%s: two are not the same", name)
		}
	}
}

// TestBillOfMaterials: scanners can read it, as its schema says.
func TestBillOfMaterials(t *testing.T) {
	t.Parallel()
	s := &source{version: "v1.2.3", commit: strings.Repeat("0123456789", 4), time: epoch}
	b := &binary{os: "linux", arch: "arm64", content: []byte("binary"), info: &debug.BuildInfo{GoVersion: "go1.26.8"}, modules: []module{
		{path: "stdlib", version: "v1.26.8", licence: "BSD-3-Clause"},
		{path: "github.com/alecthomas/kong", version: "v1.17.0", sum: "h1:abc=", licence: "MIT"},
	}}
	text, err := s.billOfMaterials(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.billOfMaterials(b)
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("two of the same binary are not the same, error %v", err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, c := range *bom.Components {
		urls = append(urls, c.PackageURL)
	}
	if want := []string{"pkg:golang/stdlib@1.26.8", "pkg:golang/github.com/alecthomas/kong@v1.17.0"}; !slices.Equal(urls, want) {
		t.Errorf("got components %q, want %q", urls, want)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := bomSchema(t).Validate(document); err != nil {
		t.Errorf("%v in:\n%s", err, text)
	}
}

// bomSchema is CycloneDX's own, which lies in the library's module.
func bomSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	for name, file := range map[string]string{"bom-1.6.schema.json": "", "spdx.schema.json": "", "jsf-0.82.schema.json": "jsf-0.82.schemax.json"} {
		if file == "" {
			file = name
		}
		text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		var schema any
		if err := json.Unmarshal(text, &schema); err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("http://cyclonedx.org/schema/"+name, schema); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

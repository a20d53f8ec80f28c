package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

// module is one that a binary contains.
type module struct {
	path, version, sum string
	licence            string // SPDX identifier
	texts              []byte // the files that must go with it
}

// licenceFiles are the names of files that must go with a copy.
var licenceFiles = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-].*)?$`)

// modulesOf finds the modules of a binary, and Go's library, in the caches.
func (s *source) modulesOf(ctx context.Context, info *debug.BuildInfo) ([]module, error) {
	cmd := s.goCommand(ctx, "env", "GOROOT")
	goroot, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	library := module{path: "stdlib", version: "v" + strings.TrimPrefix(info.GoVersion, "go")}
	if err := library.readLicences(strings.TrimSpace(string(goroot))); err != nil {
		return nil, err
	}
	dirs, err := s.moduleDirs(ctx)
	if err != nil {
		return nil, err
	}
	modules := []module{library}
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		m := module{path: dep.Path, version: dep.Version, sum: dep.Sum}
		if err := m.readLicences(dirs[dep.Path+"@"+dep.Version]); err != nil {
			return nil, err
		}
		modules = append(modules, m)
	}
	return modules, nil
}

// moduleDirs are the directories of all modules that piko could be built of.
func (s *source) moduleDirs(ctx context.Context) (map[string]string, error) {
	out, err := s.goCommand(ctx, "mod", "download", "-json").Output()
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w", err)
	}
	dirs := map[string]string{}
	for list := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Version, Dir string }
		if err := list.Decode(&m); errors.Is(err, io.EOF) {
			return dirs, nil
		} else if err != nil {
			return nil, err
		}
		dirs[m.Path+"@"+m.Version] = m.Dir
	}
}

// readLicences reads what lies in the module's directory.
func (m *module) readLicences(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("find the licence of %s: %w", m.path, err)
	}
	for _, e := range entries {
		if e.IsDir() || !licenceFiles.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		if m.licence == "" {
			m.licence = licenceOf(string(text))
		}
		m.texts = append(append(m.texts, bytes.TrimSpace(text)...), "\n\n"...)
	}
	if m.licence == "" {
		return fmt.Errorf("%s has no licence that is known here: look at it, and name it in licenceOf", m.path)
	}
	return nil
}

// licenceOf knows a licence by words that only its text has.
func licenceOf(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	has := func(words ...string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
	}
	switch {
	case has("Apache License", "Version 2.0"):
		return "Apache-2.0"
	case has("Mozilla Public License", "2.0"):
		return "MPL-2.0"
	case has("Permission is hereby granted, free of charge"):
		return "MIT"
	case has("Redistribution and use in source and binary forms", "either the name"), has("Redistribution and use in source and binary forms", "names of its contributors"):
		return "BSD-3-Clause"
	case has("Redistribution and use in source and binary forms"):
		return "BSD-2-Clause"
	}
	return ""
}

// licencesText is the file with the licences of everything in a binary.
func licencesText(modules []module) []byte {
	var b bytes.Buffer
	b.WriteString("piko's own licence is in LICENSE. The binary also contains these modules, under these licences;\ntheir source is at https://proxy.golang.org.\n")
	for _, m := range modules {
		fmt.Fprintf(&b, "\n%s\n%s %s (%s)\n\n%s", strings.Repeat("=", 80), m.path, m.version, m.licence, m.texts)
	}
	return append(bytes.TrimSpace(b.Bytes()), '\n')
}

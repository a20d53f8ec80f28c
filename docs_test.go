package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var (
	flagInText     = regexp.MustCompile(`--([a-z][a-z0-9-]*(?:\.[a-z0-9-]+)+)`)
	variableInText = regexp.MustCompile(`\bPIKO_[A-Z0-9_]+\b`)
)

// TestDocumentsNameFlagsThatExist: a flag with a dot in a document, or a
// variable, is one of ours, or begins some: --proxy.limits.* is fine.
func TestDocumentsNameFlagsThatExist(t *testing.T) {
	t.Parallel()
	flags, variables := allFlags(t)
	files, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "README.md", "SECURITY.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			for _, m := range flagInText.FindAllStringSubmatch(line, -1) {
				if !slices.ContainsFunc(flags, func(f string) bool { return f == m[1] || strings.HasPrefix(f, m[1]+".") }) {
					t.Errorf("%s:%d: there is no flag --%s", file, n, m[1])
				}
			}
			for _, name := range variableInText.FindAllString(line, -1) {
				if !slices.ContainsFunc(variables, func(v string) bool { return strings.HasPrefix(v, name) }) && !testVariable(name) {
					t.Errorf("%s:%d: there is no variable %s", file, n, name)
				}
			}
		}
	}
}

// testVariable says whether a variable is for tests and benchmarks.
func testVariable(name string) bool {
	return strings.HasPrefix(name, "PIKO_E2E_") || strings.HasPrefix(name, "PIKO_BENCH_")
}

// allFlags are the flags of all commands, and their variables.
func allFlags(t *testing.T) (flags, variables []string) {
	k, err := newParser(&process{stdout: io.Discard, stderr: io.Discard}, &settings{})
	if err != nil {
		t.Fatal(err)
	}
	err = kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			flags, variables = append(flags, flag.Name), append(variables, envName(flag))
		}
		return next(nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return flags, variables
}

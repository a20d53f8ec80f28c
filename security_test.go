package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSecurityNamesTests: what SECURITY.md says is tested is tested: each test
// that it names is there.
func TestSecurityNamesTests(t *testing.T) {
	text, err := os.ReadFile("SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := make(map[string]bool)
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	err = filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range declaration.FindAllSubmatch(source, -1) {
			declared[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for line := range strings.Lines(string(text)) {
		for _, name := range regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`).FindAllString(line, -1) {
			if named++; !declared[name] {
				t.Errorf("%s is nowhere: %s", name, line)
			}
		}
		if cells := strings.Count(line, " | "); strings.HasPrefix(line, "| ") && strings.Contains(line, "Test") && cells != 4 {
			t.Errorf("a row has %d cells, want 5: %s", cells+1, line)
		}
	}
	if named < 50 {
		t.Errorf("only %d tests are named", named)
	}
}

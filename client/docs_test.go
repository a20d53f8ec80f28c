package client

import (
	"os"
	"strings"
	"testing"
)

// TestPageShowsWhatRuns: each piece of code in docs/sdk.md is part of an
// example, line by line.
func TestPageShowsWhatRuns(t *testing.T) {
	var examples strings.Builder
	for _, file := range []string{"example_test.go", "../e2e/suites/example_grpc_test.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		examples.WriteString(leftAligned(string(text)))
	}
	page, err := os.ReadFile("../docs/sdk.md")
	if err != nil {
		t.Fatal(err)
	}
	pieces := strings.Split(string(page), "```go\n")[1:]
	if len(pieces) == 0 {
		t.Error("the page has no code")
	}
	for _, piece := range pieces {
		code, _, _ := strings.Cut(piece, "```")
		if !strings.Contains(examples.String(), leftAligned(code)) {
			t.Errorf("no example has this:\n%s", code)
		}
	}
}

// leftAligned is text without indentation.
func leftAligned(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimLeft(line, "\t "))
	}
	return b.String()
}

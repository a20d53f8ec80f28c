package main

import (
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/imports.txt instead of comparing with it")

// TestImports holds the picture of the architecture: which package imports
// which of ours and of others. A change of it is a line in testdata/imports.txt,
// written by: go test -run TestImports -update .
func TestImports(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "./...")
	list.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0") // the picture is the same everywhere
	out, err := list.Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		name, imports, _ := strings.Cut(strings.TrimSpace(line), ": ")
		kept := slices.DeleteFunc(strings.Fields(imports), isStandard)
		lines = append(lines, strings.TrimSpace(name+": "+strings.Join(kept, " "))+"\n")
	}
	got := strings.Join(lines, "")
	const file = "testdata/imports.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the imports have changed; if that is meant, run go test -run TestImports -update .\ngot:\n%swant:\n%s", got, want)
	}
}

// isStandard says whether a package is the standard library's: those of others
// have a domain in front.
func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return first != "piko" && !strings.Contains(first, ".")
}

// parts are packages that never import each other: what one needs of another is
// handed over in server.go.
var parts = []string{"piko/proxy", "piko/upstreamconn", "piko/gossip", "piko/peer", "piko/admin", "piko/agent", "piko/forward", "piko/inspect", "piko/terminal"}

func TestPartsImportNoPart(t *testing.T) {
	text, err := os.ReadFile("testdata/imports.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		for imported := range strings.FieldsSeq(imports) {
			if name != "piko" && slices.Contains(parts, imported) {
				t.Errorf("%s imports the part %s; only main may", name, imported)
			}
		}
	}
}

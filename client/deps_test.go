package client

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// deps are the packages that one needs, but for the standard library's.
func deps(t *testing.T, name string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", name).Output()
	if err != nil {
		t.Fatalf("list what %s needs: %v", name, err)
	}
	return strings.Fields(string(out))
}

// TestProgramsThatUseThePackageGetNoMore: of ours they get the wire and its
// errors, and of others what the wire needs.
func TestProgramsThatUseThePackageGetNoMore(t *testing.T) {
	allowed := deps(t, "piko/tunnel")
	for _, name := range deps(t, "piko/client") {
		if name != "piko/client" && !slices.Contains(allowed, name) {
			t.Errorf("piko/client needs %s, which piko/tunnel does not", name)
		}
	}
	ours := slices.DeleteFunc(allowed, func(name string) bool { return !strings.HasPrefix(name, "piko/") })
	slices.Sort(ours)
	if want := []string{"piko/fault", "piko/tunnel"}; !slices.Equal(ours, want) {
		t.Errorf("piko/tunnel needs %v of ours, want %v", ours, want)
	}
}

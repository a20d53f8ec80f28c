package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want, problem string }{
		"a shell block is run":                {"```sh\necho\n```\n", `2 run "echo\n"`, ""},
		"one in a list, with its indentation": {"- x\n\n  ```sh\n  a\n    b\n  ```\n", `4 run "a\n  b\n"`, ""},
		"a longer fence holds a shorter one":  {"````text\n```\n````\n", "", ""},
		"another language is not run":         {"```yaml\na: 1\n```\n", "", ""},
		"no language":                         {"```\nls\n```\n", "", "without a language"},
		"a shell by another name":             {"```console\n$ ls\n```\n", "", "write sh"},
		"no end":                              {"```sh\nls\n", "", "has no end"},
		"not run, with a reason":              {"<!-- not run here: no\ncluster -->\n```sh\nls\n```\n", `4 not "ls\n" no cluster`, ""},
		"not run, without one":                {"<!-- not run here: -->\n```sh\nls\n```\n", `3 run "ls\n"`, "nothing is known"},
		"a typo":                              {"<!-- backgruond -->\n", "", "nothing is known"},
		"text between comment and block":      {"<!-- fails -->\ntext\n\n```sh\nls\n```\n", `5 run "ls\n"`, "not right above"},
		"a comment above the wrong language":  {"<!-- fails -->\n```yaml\na: 1\n```\n", "", "above a yaml block"},
		"a comment above nothing":             {"<!-- fails -->\n", "", "not right above"},
		"background":                          {"<!-- background, until: ready -->\n\n```sh\npiko server\n```\n", `4 background "piko server\n" ready`, ""},
		"several comments":                    {"<!-- needs: a b -->\n<!-- fails -->\n```sh\nls\n```\n", `4 run "ls\n" fails [a b]`, ""},
		"a file":                              {"<!-- file: a.yaml -->\n```yaml\na: 1\n```\n", `3 file "a: 1\n" a.yaml`, ""},
		"setup and stop":                      {"<!-- setup: service 3000 -->\ntext\n<!-- stop -->\n", `1 setup "service 3000\n"; 3 stop "stop\n"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, problems := parse("x.md", test.text)
			if got := describe(p.steps); got != test.want {
				t.Errorf("steps %s, want %s", got, test.want)
			}
			if got := strings.Join(problems, "\n"); !strings.Contains(got, test.problem) || (test.problem == "") != (got == "") {
				t.Errorf("problems %q, want one with %q", got, test.problem)
			}
		})
	}
}

func describe(steps []step) string {
	kinds := map[stepKind]string{runBlock: "run", runSetup: "setup", runBackground: "background", writeFile: "file", stopAll: "stop", notRun: "not"}
	var list []string
	for _, s := range steps {
		d := fmt.Sprintf("%d %s %q", s.line, kinds[s.kind], s.text)
		for _, more := range []string{s.why, s.until, s.name} {
			d = strings.TrimSpace(d + " " + more)
		}
		if s.fails {
			d += " fails"
		}
		if s.needs != nil {
			d += fmt.Sprint(" ", s.needs)
		}
		list = append(list, d)
	}
	return strings.Join(list, "; ")
}

func TestCommands(t *testing.T) {
	t.Parallel()
	got := commands("# the node\npiko server  --a 1 \\\n  --b 2   # terminal 1\n\npiko agent\n")
	if want := []string{"piko server --a 1 --b 2", "piko agent"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSlugs(t *testing.T) {
	t.Parallel()
	for heading, want := range map[string]string{
		"Admin port":                "admin-port",
		"What is cut, and when":     "what-is-cut-and-when",
		"`piko bench`":              "piko-bench",
		"A [link](x.md) & more":     "a-link--more",
		"Who may use snake_case?":   "who-may-use-snake_case",
		"HTTP/1.1: it's (still) on": "http11-its-still-on",
	} {
		if got := slugOf(heading); got != want {
			t.Errorf("%s: %s, want %s", heading, got, want)
		}
	}
}

func TestLinks(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{
		"docs/README.md": "# Docs\n[a](a.md) [a](a.md#two-1) [out](https://example.com/nowhere) `[code](no.md)`\n",
		"docs/a.md":      "# One\n## Two\n## Two\n[up](../README.md#piko) [self](#one) [bad](#three) [gone](gone.md)\n```text\n[code](no.md)\n```\n",
		"docs/b.md":      "# B\n",
		"README.md":      "# piko\n",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var pages []*page
	for _, file := range []string{"docs/README.md", "docs/a.md", "docs/b.md"} {
		text, _ := os.ReadFile(file)
		p, _ := parse(file, string(text))
		pages = append(pages, p)
	}
	n, problems := checkLinks(pages)
	want := []string{
		"docs/a.md:4: link #three: docs/a.md has no heading of that name",
		"docs/a.md:4: link gone.md: there is no docs/gone.md",
		"docs/b.md: docs/README.md does not link it",
	}
	if n != 7 || !slices.Equal(problems, want) {
		t.Errorf("%d links, problems %q", n, problems)
	}
}

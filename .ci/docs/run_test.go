package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestMain makes the test binary what the runner starts inside namespaces.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == insideArg {
		inside(os.Args[2:])
	}
	os.Exit(m.Run())
}

// TestRun runs pages, in namespaces where there are any, and without.
func TestRun(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	can := isolate(exec.Command(self, insideArg, "true")).Run() == nil
	for _, isolated := range []bool{true, false} {
		if isolated && !can {
			t.Log("no namespaces here")
			continue
		}
		for name, test := range map[string]struct {
			text, failed string
			blocks       int
		}{
			"variables, files and setup last":        {"<!-- setup: a=1 -->\n<!-- file: d/f -->\n```text\nx\n```\n```sh\n[ $a$(cat d/f) = 1x ]\nb=2\n```\n```sh\n[ $b = 2 ]\n```\n", "", 2},
			"a command fails":                        {"```sh\ntrue\nfalse\ntrue\n```\n", "x.md:3: FAILED", 0},
			"one in a pipe fails":                    {"```sh\nfalse | cat\n```\n", "x.md:2: FAILED", 0},
			"one that should":                        {"<!-- fails -->\n```sh\nfalse\n```\n", "", 1},
			"one that should, and does not":          {"<!-- fails -->\n```sh\ntrue\n```\n", "it has not failed", 0},
			"too slow":                               {"<!-- within: 100ms -->\n```sh\nsleep 60\n```\n", "took too long", 0},
			"in the background":                      {"<!-- background, until: [ -f there ] -->\n```sh\ntouch there && sleep 60\n```\n```sh\ncat there\n```\n", "", 2},
			"until never comes true, since it ended": {"<!-- background, until: false -->\n```sh\nsh -c 'echo why; exit 3'\n```\n", "ended with status 3", 0},
			"ended before the page did":              {"<!-- background -->\n```sh\nsh -c 'exit 3'\n```\n```sh\nwait $! || true\n```\n", "FAILED at the page's end", 2},
			"stopped":                                {"<!-- background -->\n```sh\nsleep 60\n```\n<!-- stop -->\n```sh\n[ -z \"$(jobs -r)\" ]\n```\n", "", 2},
			"not here":                               {"<!-- needs: no-such-program -->\n```sh\nfalse\n```\n", "", 0},
		} {
			t.Run(name, func(t *testing.T) {
				t.Setenv("CI", "")
				p, problems := parse("x.md", test.text)
				if problems != nil {
					t.Fatal(problems)
				}
				e := &environment{dir: t.TempDir(), root: ".", self: self, isolated: isolated, vars: []string{"PATH=" + os.Getenv("PATH")}}
				report, n := e.run(t.Context(), p)
				if (n.failed > 0) != (test.failed != "") || !strings.Contains(report, test.failed) || n.run != test.blocks {
					t.Errorf("isolated %v: %+v, want %d blocks and failure %q; report:\n%s", isolated, n, test.blocks, test.failed, report)
				}
			})
		}
	}
}

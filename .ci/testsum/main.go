// Command testsum reads the output of `go test -json` on standard input, prints what a person
// wants of it, and counts tests over several runs.
//
//	go test -json ./... | testsum -to FILE    one run; FILE gets a line per test
//	testsum -total FILE...                    how many tests there were, how many failed
//
// Of a run it prints the output of what failed, the output of skipped tests, and the closing
// line of each package. Its exit status is 1 when a test or package failed. A test counts
// once in the total however many runs had it, as failed if it failed in any of them.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

func main() {
	to := flag.String("to", "", "write a line per test to this `file`")
	total := flag.Bool("total", false, "count the tests in the files that are given")
	verbose := flag.Bool("v", false, "print a line for each passed test, too")
	flag.Parse()
	if *total {
		fmt.Println(count(flag.Args()))
		return
	}
	out, err := os.Create(*to)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(2)
	}
	failed := summarize(os.Stdin, out, *verbose)
	if err := out.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

// summarize prints one run and writes its results to out.
func summarize(in io.Reader, out io.Writer, verbose bool) (failed bool) {
	output := map[string][]string{} // of tests and packages that have not ended
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Println(lines.Text()) // what the go command itself has to say
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output":
			if !strings.HasPrefix(e.Output, "=== ") {
				output[key] = append(output[key], e.Output)
			}
		case "build-output":
			fmt.Print(e.Output)
		case "pass", "fail", "skip":
			failed = failed || e.Action == "fail"
			show(e, output[key], verbose)
			delete(output, key)
			if e.Test != "" || e.Action == "fail" {
				fmt.Fprintln(out, e.Action, key)
			}
		}
	}
	return failed || lines.Err() != nil
}

// show prints what is worth seeing of a test or package that has ended.
func show(e event, output []string, verbose bool) {
	switch {
	case e.Test == "" && e.Action != "fail": // the closing line: ok, time, coverage
		if n := len(output); n > 0 && !strings.Contains(output[n-1], "[no test files]") {
			fmt.Print(output[n-1])
		}
	case e.Action != "pass":
		fmt.Print(strings.Join(output, ""))
	case verbose && !strings.Contains(e.Test, "/"):
		fmt.Printf("    --- PASS: %s (%.2fs)\n", e.Test, e.Elapsed)
	}
}

// count adds up the files that runs have written.
func count(files []string) string {
	results := map[string]string{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // that run did not get so far; its step has failed for itself
		}
		for line := range strings.Lines(string(b)) {
			action, key, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if was := results[key]; was != "fail" && (was != "pass" || action == "fail") {
				results[key] = action
			}
		}
	}
	n := map[string]int{}
	for _, action := range results {
		n[action]++
	}
	return fmt.Sprintf("%d %d %d", n["pass"], n["fail"], n["skip"])
}

// Command dashboards writes the Grafana dashboards in deploy/dashboards: what they show is written down here, as
// panels with queries, and what Grafana wants to know beside that (places, ids, options) comes from one place.
//
//	go run ./.ci/dashboards deploy/dashboards          # writes them
//	go run ./.ci/dashboards -check deploy/dashboards   # says whether they are what it would write
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: dashboards [-check] DIRECTORY")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	list := []dashboard{clusterDashboard(), nodeDashboard(), proxyDashboard(), agentDashboard()}
	for _, d := range list {
		var text bytes.Buffer
		out := json.NewEncoder(&text)
		out.SetEscapeHTML(false)
		out.SetIndent("", " ")
		if err := out.Encode(d.model(list)); err != nil {
			return fmt.Errorf("encode %s: %w", d.uid, err)
		}
		file := filepath.Join(dir, d.uid+".json")
		if !check {
			if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
				return err
			}
			continue
		}
		there, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if !bytes.Equal(there, text.Bytes()) {
			return fmt.Errorf("%s is not what go run ./.ci/dashboards deploy/dashboards writes", file)
		}
	}
	fmt.Printf("%d dashboards\n", len(list))
	return nil
}

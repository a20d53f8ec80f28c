package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
)

// statusAnswer is what a node said, ready to be printed: JSON and YAML have the
// same keys, and a table has what fits on a line.
type statusAnswer struct {
	json  any
	yaml  any             // nil: as json
	table func(io.Writer) // writes lines with a tab between the columns
}

// print writes the answer in the format that was asked for.
func (c *statusCmd) print(w io.Writer, a statusAnswer) error {
	switch c.Output {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(a.json)
	case "table":
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		a.table(t)
		return t.Flush()
	}
	v := a.yaml
	if v == nil {
		v = a.json
	}
	text, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// dash is s, or what a table has in place of nothing.
func dash(s string) string { return cmp.Or(s, "-") }

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

const (
	referenceFile = "docs/configuration.md"

	// referenceMark ends what is written by hand.
	referenceMark = "<!-- note: from here on written by go test -run TestConfigurationReference -update . -->\n"
)

// TestConfigurationReference holds docs/configuration.md, whose tables are made
// of the model of the command line: all flags of all commands with their keys,
// variables, defaults and texts.
func TestConfigurationReference(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	byHand, was, found := strings.Cut(string(text), referenceMark)
	if !found {
		t.Fatalf("%s has lost the line %q", referenceFile, referenceMark)
	}
	now := configurationReference(t)
	if *update {
		if err := os.WriteFile(referenceFile, []byte(byHand+referenceMark+now), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if now != was {
		t.Errorf("%s is out of date; run go test -run TestConfigurationReference -update .", referenceFile)
	}
}

// configurationReference is the part of the document that is made.
func configurationReference(t *testing.T) string {
	k, err := newParser(&process{stdout: io.Discard, stderr: io.Discard}, &settings{})
	if err != nil {
		t.Fatal(err)
	}
	var r settingTables
	for _, node := range k.Model.Children {
		r.command(node)
	}
	return r.String()
}

// settingTables writes the tables.
type settingTables struct{ strings.Builder }

// command writes the section of a command, with those below it in the same
// tables; but `server status` has another purpose than `server`.
func (r *settingTables) command(node *kong.Node) {
	fmt.Fprintf(r, "\n## %s\n\n", node.FullPath())
	leaves := leavesOf(node)
	for _, leaf := range leaves {
		words := []string{visible(leaf).FullPath()}
		for _, arg := range leaf.Positional {
			words = append(words, arg.Summary())
		}
		help := []string{visible(leaf).Help}
		for _, arg := range leaf.Positional {
			help = append(help, fmt.Sprintf("`%s`: %s.", arg.Summary(), strings.TrimSuffix(arg.Help, ".")))
		}
		fmt.Fprintf(r, "- `%s`: %s\n", strings.Join(words, " "), cell(strings.Join(help, " ")))
	}
	var rows []*settingRow
	for _, leaf := range leaves {
		rows = addRows(rows, leaf)
	}
	r.tables(rows, len(leaves))
	switch node.Name {
	case "server":
		r.list("upstream.tenants", "Tenants who may listen, in the file only; all of it is reloaded.", &upstreamTenant{})
		r.list("proxy.tenants", "Tenants who may connect, in the file only; all of it is reloaded.", &proxyTenant{})
	case "agent":
		r.list("listeners", "For `piko agent start`, in the file only; all of it is reloaded.", &listenerConfig{})
	case "forward":
		r.list("ports", "For `piko forward start`, in the file only.", &portConfig{})
	}
	for _, child := range node.Children {
		if node.Name == "server" && child.Name == "status" {
			r.command(child)
		}
	}
}

// leavesOf are the commands that a section is about.
func leavesOf(node *kong.Node) (leaves []*kong.Node) {
	if len(node.Children) == 0 {
		return []*kong.Node{node}
	}
	for _, child := range node.Children {
		if node.Name != "server" || child.Name != "status" {
			leaves = append(leaves, leavesOf(child)...)
		}
	}
	return leaves
}

// settingRow is one flag, as one or more commands have it.
type settingRow struct {
	flag   *kong.Flag
	group  string
	key    string   // in the file; "" without one
	reload string   // what the column says
	of     []string // the commands
}

// addRows adds the flags of a command, each once for all commands that have it.
func addRows(rows []*settingRow, leaf *kong.Node) []*settingRow {
	inFile := keyedFlags(leaf)
	for _, group := range flagGroups(leaf) {
		for _, flag := range group.flags {
			if flag.Name == "help" || flag.Name == "version" {
				continue
			}
			row := &settingRow{flag: flag, group: group.title}
			if inFile[flag] && !flag.Tag.Has(flagOnly) && flag.Name != configPathFlag && flag.Name != configExpandFlag {
				row.key = fileKey(flag)
				row.reload = reloadColumn(leaf.FullPath(), flag.Name)
			}
			if path := leaf.FullPath(); path == "piko agent http" && !inFile[flag] {
				row.key, row.reload = "listeners[]."+fileKey(flag), "in the file"
			}
			i := slices.IndexFunc(rows, func(o *settingRow) bool {
				return o.flag.Name == flag.Name && o.flag.Help == flag.Help && o.flag.Default == flag.Default
			})
			if i < 0 {
				i, rows = len(rows), append(rows, row)
			}
			rows[i].key, rows[i].reload = cmp.Or(rows[i].key, row.key), cmp.Or(rows[i].reload, row.reload)
			rows[i].of = append(rows[i].of, leaf.Name)
		}
	}
	return rows
}

// keyedFlags are the flags that are keys of the command's file: those of the
// level that has the flag for it.
func keyedFlags(leaf *kong.Node) map[*kong.Flag]bool {
	in := map[*kong.Flag]bool{}
	for node := leaf; node != nil; node = node.Parent {
		if slices.ContainsFunc(node.Flags, func(f *kong.Flag) bool { return f.Name == configPathFlag && !f.Tag.Has(flagOnly) }) {
			for _, f := range node.Flags {
				in[f] = true
			}
		}
	}
	return in
}

// tables writes a table for each group of flags.
func (r *settingTables) tables(rows []*settingRow, commands int) {
	var groups []string
	for _, row := range rows {
		if !slices.Contains(groups, row.group) {
			groups = append(groups, row.group)
		}
	}
	for _, group := range groups {
		head, line := "| setting | default | meaning |", "|---|---|---|"
		reloads := slices.ContainsFunc(rows, func(row *settingRow) bool { return row.reload != "" })
		if reloads {
			head, line = "| setting | default | reloaded | meaning |", "|---|---|---|---|"
		}
		fmt.Fprintf(r, "\n### %s\n\n%s\n%s\n", group, head, line)
		for _, row := range rows {
			if row.group != group {
				continue
			}
			meaning := cell(row.flag.Help)
			if len(row.of) < commands {
				meaning += " (" + strings.Join(row.of, ", ") + ")"
			}
			reload := ""
			if reloads {
				reload = row.reload + " | "
			}
			fmt.Fprintf(r, "| %s | %s | %s%s |\n", row.names(), defaultCell(row.flag), reload, meaning)
		}
	}
}

// names are the flag, the key and the variable, one below the other.
func (row *settingRow) names() string {
	name := "--" + row.flag.Name
	if row.flag.Short != 0 {
		name = fmt.Sprintf("-%c, %s", row.flag.Short, name)
	}
	if !row.flag.IsBool() {
		name += " " + strings.ReplaceAll(placeholder(row.flag), "|", "\\|")
	}
	names := []string{"`" + name + "`"}
	if row.key != "" {
		names = append(names, "`"+row.key+"`")
	}
	if !row.flag.Tag.Has(flagOnly) {
		names = append(names, "`"+envName(row.flag)+"`")
	}
	return strings.Join(names, "<br>")
}

// list writes the keys of a list of the file's.
func (r *settingTables) list(key, about string, item any) {
	k, err := kong.New(item, kong.NoDefaultHelp(), durationMapper())
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(r, "\n### `%s`\n\n%s\n\n| key | default | meaning |\n|---|---|---|\n", key, about)
	for _, flag := range k.Model.Flags {
		if flag.Hidden {
			continue
		}
		if _, ok := item.(*proxyTenant); ok && strings.HasPrefix(flag.Name, "auth.") {
			continue // as in the other list
		}
		fmt.Fprintf(r, "| `%s` | %s | %s |\n", fileKey(flag), defaultCell(flag), cell(flag.Help))
	}
	if _, ok := item.(*proxyTenant); ok {
		r.WriteString("| `auth.…` | | As for `upstream.tenants`. |\n")
	}
}

func defaultCell(flag *kong.Flag) string {
	switch {
	case flag.HasDefault && flag.Default != "":
		return "`" + flag.Default + "`"
	case flag.IsBool():
		return "`false`"
	}
	return ""
}

// cell is text for a table of Markdown. Names of flags and files keep their
// asterisks and brackets.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "\n", " ").Replace(text)
}

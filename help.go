package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// helpWidth is how wide help is written, terminal or not, so that it reads the
// same in a pipe, a manual and a bug report.
const helpWidth = 92

// helpFlag shows the help of the command that it stands behind.
type helpFlag bool

// errHelpShown ends parsing once help or the version has been printed.
type errHelpShown struct{}

func (errHelpShown) Error() string { return "help was shown" }

// IgnoreDefault keeps `piko server --help` at the server command.
func (helpFlag) IgnoreDefault() {}

// BeforeReset is kong's hook for flags that act before anything is checked.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	node := ctx.Selected()
	if node == nil {
		node = ctx.Model.Node
	}
	if err := writeHelp(ctx.Stdout, node); err != nil {
		return err
	}
	return errHelpShown{}
}

// visible is the command that a person typed: a hidden one is the default of
// its parent.
func visible(node *kong.Node) *kong.Node {
	for node.Hidden && node.Parent != nil {
		node = node.Parent
	}
	return node
}

// writeHelp prints everything about one command: flags with their defaults,
// environment variables and values, and examples.
func writeHelp(w io.Writer, node *kong.Node) error {
	node = visible(node)
	var b strings.Builder
	own := node
	if node.DefaultCmd != nil {
		own = node.DefaultCmd
	}
	writeUsage(&b, node, own)
	for _, text := range []string{node.Help, detailOf(own)} {
		if text != "" {
			fmt.Fprintf(&b, "\n%s", wrap(text, ""))
		}
	}
	writeCommands(&b, node)
	writeArguments(&b, own)
	for _, group := range flagGroups(own) {
		fmt.Fprintf(&b, "\n%s:\n", group.title)
		for _, flag := range group.flags {
			writeFlag(&b, flag)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// detailOf is the long help of a command: examples and the like, as it is.
func detailOf(node *kong.Node) string { return strings.Trim(node.Detail, "\n") }

func writeUsage(b *strings.Builder, node, own *kong.Node) {
	fmt.Fprintf(b, "Usage: %s", node.FullPath())
	for _, arg := range own.Positional {
		fmt.Fprintf(b, " %s", arg.Summary())
	}
	if own != node || node.Leaf() {
		b.WriteString(" [flags]\n")
	} else {
		b.WriteString(" <command> [flags]\n")
	}
}

func writeCommands(b *strings.Builder, node *kong.Node) {
	rows := commandRows(node, node.FullPath()+" ")
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\nCommands:\n%s\nRun \"%s <command> --help\" for a command's flags and examples.\n", strings.Join(rows, ""), node.FullPath())
}

// commandRows has every command below node that can run; prefix is left out.
func commandRows(node *kong.Node, prefix string) []string {
	var rows []string
	for _, child := range node.Children {
		if child.Hidden {
			continue
		}
		if child.Leaf() || child.DefaultCmd != nil {
			words := []string{strings.TrimPrefix(child.FullPath(), prefix)}
			for _, arg := range child.Positional {
				words = append(words, arg.Summary())
			}
			rows = append(rows, "  "+strings.Join(words, " ")+"\n"+wrap(child.Help, "      "))
		}
		rows = append(rows, commandRows(child, prefix)...)
	}
	return rows
}

func writeArguments(b *strings.Builder, node *kong.Node) {
	if len(node.Positional) == 0 {
		return
	}
	b.WriteString("\nArguments:\n")
	for _, arg := range node.Positional {
		fmt.Fprintf(b, "  %s\n%s", arg.Summary(), wrap(arg.Help, "      "))
	}
}

// flagGroup is one heading of the help.
type flagGroup struct {
	title string
	flags []*kong.Flag
}

// flagGroups are the flags that node accepts: its own groups in the order of
// the fields, those without one under Flags at the end.
func flagGroups(node *kong.Node) []flagGroup {
	const rest = "Flags"
	var groups []flagGroup
	for _, level := range slices.Backward(node.AllFlags(true)) {
		for _, flag := range level {
			title := rest
			if flag.Group != nil {
				title = flag.Group.Key
			}
			i := slices.IndexFunc(groups, func(g flagGroup) bool { return g.title == title })
			if i < 0 {
				i = len(groups)
				groups = append(groups, flagGroup{title: title})
			}
			groups[i].flags = append(groups[i].flags, flag)
		}
	}
	slices.SortStableFunc(groups, func(a, b flagGroup) int { return isRest(a, rest) - isRest(b, rest) })
	return groups
}

func isRest(g flagGroup, rest string) int {
	if g.title == rest {
		return 1
	}
	return 0
}

func writeFlag(b *strings.Builder, flag *kong.Flag) {
	b.WriteString("  ")
	if flag.Short != 0 {
		fmt.Fprintf(b, "-%c, ", flag.Short)
	}
	fmt.Fprintf(b, "--%s", flag.Name)
	if !flag.IsBool() {
		fmt.Fprintf(b, " %s", placeholder(flag))
	}
	b.WriteString("\n")
	b.WriteString(wrap(flag.Help, "      "))
	if notes := flagNotes(flag); notes != "" {
		fmt.Fprintf(b, "      [%s]\n", notes)
	}
}

// placeholder names the kind of value that a flag takes.
func placeholder(flag *kong.Flag) string {
	switch {
	case flag.PlaceHolder != "":
		return flag.PlaceHolder
	case flag.Enum != "":
		return strings.Join(flag.EnumSlice(), "|")
	}
	switch flag.Target.Type().String() {
	case "time.Duration":
		return "DURATION"
	case "main.bindAddr":
		return "HOST:PORT"
	case "main.serverURL", "main.forwardProxyURL":
		return "URL"
	case "main.byteSize":
		return "SIZE"
	case "int", "float64":
		return "N"
	}
	return "VALUE"
}

// flagNotes are the default and the environment variable.
func flagNotes(flag *kong.Flag) string {
	if flag.Tag.Has(flagOnly) {
		return ""
	}
	var notes []string
	switch {
	case flag.HasDefault:
		notes = append(notes, "default: "+flag.Default)
	case flag.IsBool():
		notes = append(notes, "default: false")
	}
	return strings.Join(append(notes, "env: "+envName(flag)), ", ")
}

// wrap breaks text at helpWidth; lines that are indented stay as they are.
func wrap(text, indent string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, " ") || line == "" {
			b.WriteString(strings.TrimRight(indent+line, " ") + "\n")
			continue
		}
		column := 0
		for word := range strings.FieldsSeq(line) {
			switch {
			case column == 0:
				b.WriteString(indent + word)
				column = len(indent) + len(word)
			case column+1+len(word) > helpWidth:
				b.WriteString("\n" + indent + word)
				column = len(indent) + len(word)
			default:
				b.WriteString(" " + word)
				column += 1 + len(word)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

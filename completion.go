package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// completionCmd is `piko completion`: a script made from the model of the
// command line, so that it cannot fall behind.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"The shell: bash, zsh or fish."`
}

// Help is the long help.
func (completionCmd) Help() string {
	return `
Examples:
  source <(piko completion bash)
  piko completion zsh > "${fpath[1]}/_piko"
  piko completion fish > ~/.config/fish/completions/piko.fish`
}

// Run prints the script.
func (c *completionCmd) Run(p *process, kctx *kong.Context) error {
	nodes := completionNodes(kctx.Model.Node, "")
	write := map[string]func(io.Writer, []completionNode) error{
		"bash": writeBash, "zsh": writeZsh, "fish": writeFish,
	}[c.Shell]
	return write(p.stdout, nodes)
}

// completionNode is what can follow one chain of commands.
type completionNode struct {
	path  string // "/server/status", "" for piko itself
	words []completionWord
	flags []completionFlag
}

// completionWord is a command or an argument out of a closed set.
type completionWord struct {
	word, help string
	command    bool
}

// completionFlag is a flag and what it takes.
type completionFlag struct {
	name, short, help string
	takesValue        bool
	values            []string // a closed set; empty: anything
	file              bool
}

func completionNodes(node *kong.Node, path string) []completionNode {
	own := node
	if node.DefaultCmd != nil {
		own = node.DefaultCmd
	}
	n := completionNode{path: path}
	for _, child := range node.Children {
		if !child.Hidden {
			n.words = append(n.words, completionWord{child.Name, child.Help, true})
		}
	}
	for _, arg := range own.Positional {
		if arg.Enum != "" {
			for _, v := range arg.EnumSlice() {
				n.words = append(n.words, completionWord{v, arg.Help, false})
			}
		}
	}
	for _, level := range own.AllFlags(true) {
		for _, f := range level {
			n.flags = append(n.flags, newCompletionFlag(f))
		}
	}
	nodes := []completionNode{n}
	for _, child := range node.Children {
		if !child.Hidden {
			nodes = append(nodes, completionNodes(child, path+"/"+child.Name)...)
		}
	}
	return nodes
}

func newCompletionFlag(f *kong.Flag) completionFlag {
	out := completionFlag{name: f.Name, help: f.Help, takesValue: !f.IsBool(), file: f.PlaceHolder == "FILE"}
	if f.Short != 0 {
		out.short = string(f.Short)
	}
	if f.Enum != "" {
		out.values = f.EnumSlice()
	}
	return out
}

// patterns are the path's flag as a shell pattern matches it behind the path.
func (f completionFlag) patterns(path string) string {
	p := fmt.Sprintf("%q", path+" --"+f.name)
	if f.short != "" {
		p += "|" + fmt.Sprintf("%q", path+" -"+f.short)
	}
	return p
}

// commandPatterns match every chain of commands, for a shell's case.
func commandPatterns(nodes []completionNode) string {
	var patterns []string
	for _, n := range nodes[1:] {
		patterns = append(patterns, fmt.Sprintf("%q", n.path))
	}
	return strings.Join(patterns, "|")
}

func writeBash(w io.Writer, nodes []completionNode) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# bash completion for piko: source <(piko completion bash)
_piko() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd="" i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case "$cmd/${COMP_WORDS[i]}" in
		%s) cmd="$cmd/${COMP_WORDS[i]}" ;;
		esac
	done
	COMPREPLY=()
	case "$cmd $prev" in
`, commandPatterns(nodes))
	for _, n := range nodes {
		for _, f := range n.flags {
			switch {
			case f.file:
				fmt.Fprintf(&b, "\t%s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", f.patterns(n.path))
			case f.takesValue:
				fmt.Fprintf(&b, "\t%s) COMPREPLY=($(compgen -W %q -- \"$cur\")); return ;;\n", f.patterns(n.path), strings.Join(f.values, " "))
			}
		}
	}
	b.WriteString("\tesac\n\tcase \"$cmd\" in\n")
	for _, n := range nodes {
		fmt.Fprintf(&b, "\t%q) COMPREPLY=($(compgen -W %q -- \"$cur\")) ;;\n", n.path, strings.Join(n.everything(), " "))
	}
	b.WriteString("\tesac\n}\ncomplete -o default -F _piko piko\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// everything is all words that may follow.
func (n completionNode) everything() []string {
	var all []string
	for _, word := range n.words {
		all = append(all, word.word)
	}
	for _, f := range n.flags {
		all = append(all, "--"+f.name)
	}
	return all
}

func writeZsh(w io.Writer, nodes []completionNode) error {
	var b strings.Builder
	fmt.Fprintf(&b, `#compdef piko
# zsh completion for piko: piko completion zsh > "${fpath[1]}/_piko"
_piko() {
	local cmd="" word prev=${words[CURRENT-1]}
	local -a choices
	for word in ${words[2,CURRENT-1]}; do
		case "$cmd/$word" in
		(%s) cmd="$cmd/$word" ;;
		esac
	done
	case "$cmd $prev" in
`, commandPatterns(nodes))
	for _, n := range nodes {
		for _, f := range n.flags {
			switch {
			case f.file:
				fmt.Fprintf(&b, "\t(%s) _files; return ;;\n", f.patterns(n.path))
			case f.takesValue:
				fmt.Fprintf(&b, "\t(%s) compadd -- %s; return ;;\n", f.patterns(n.path), strings.Join(f.values, " "))
			}
		}
	}
	b.WriteString("\tesac\n\tcase \"$cmd\" in\n")
	for _, n := range nodes {
		fmt.Fprintf(&b, "\t(%q) choices=(\n", n.path)
		for _, word := range n.words {
			fmt.Fprintf(&b, "\t\t%s\n", zshQuote(word.word, word.help))
		}
		for _, f := range n.flags {
			fmt.Fprintf(&b, "\t\t%s\n", zshQuote("--"+f.name, f.help))
		}
		b.WriteString("\t) ;;\n")
	}
	b.WriteString("\tesac\n\t_describe piko choices\n}\nif [ \"$funcstack[1]\" = _piko ]; then _piko \"$@\"; else compdef _piko piko; fi\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// zshQuote is word:help as one word of zsh, the help without its second sentence.
func zshQuote(word, help string) string {
	return singleQuote(strings.ReplaceAll(word, ":", `\:`)+":"+firstSentence(help), `'\''`)
}

func writeFish(w io.Writer, nodes []completionNode) error {
	var b strings.Builder
	b.WriteString(`# fish completion for piko: piko completion fish > ~/.config/fish/completions/piko.fish
function __piko_at --description 'is the chain of commands so far exactly this one?'
	set -l cmd ""
	for word in (commandline -opc)[2..-1]
		switch "$cmd/$word"
`)
	for _, n := range nodes[1:] {
		fmt.Fprintf(&b, "\t\t\tcase %s\n\t\t\t\tset cmd \"$cmd/$word\"\n", n.path)
	}
	b.WriteString("\t\tend\n\tend\n\ttest \"$cmd\" = \"$argv[1]\"\nend\ncomplete -c piko -f\n")
	for _, n := range nodes {
		at := fmt.Sprintf("complete -c piko -n %s", singleQuote(fmt.Sprintf("__piko_at %q", n.path), `\'`))
		for _, word := range n.words {
			fmt.Fprintf(&b, "%s -a %s -d %s\n", at, word.word, singleQuote(firstSentence(word.help), `\'`))
		}
		for _, f := range n.flags {
			fmt.Fprintf(&b, "%s -l %s", at, f.name)
			if f.short != "" {
				fmt.Fprintf(&b, " -s %s", f.short)
			}
			switch {
			case f.file:
				b.WriteString(" -r -F")
			case f.takesValue:
				fmt.Fprintf(&b, " -x -a '%s'", strings.Join(f.values, " "))
			}
			fmt.Fprintf(&b, " -d %s\n", singleQuote(firstSentence(f.help), `\'`))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// singleQuote quotes s for a shell; escaped is how that shell writes a quote
// inside of quotes.
func singleQuote(s, escaped string) string {
	return "'" + strings.ReplaceAll(s, "'", escaped) + "'"
}

// firstSentence is what fits on a line beside a word.
func firstSentence(help string) string {
	if i := strings.Index(help, ". "); i >= 0 {
		help = help[:i]
	}
	help, _, _ = strings.Cut(help, ": ")
	return strings.TrimSuffix(help, ".")
}

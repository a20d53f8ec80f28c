package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// A page is one document, as far as running and linking it needs to know.
type page struct {
	file     string
	checkout bool // starts in a copy of the repository
	steps    []step
	prose    []proseLine // without code and comments
}

// A step is a block, a setup comment or a stop, in the order of the page.
type step struct {
	line int // of its first line of text
	kind stepKind
	text string

	why    string        // notRun: the reason
	until  string        // background: what has to succeed
	needs  []string      // programs
	fails  bool          // has to fail
	within time.Duration // 0: the usual
	name   string        // file: its name
}

type stepKind int

const (
	runBlock stepKind = iota
	runSetup
	runBackground
	writeFile
	stopAll
	notRun
)

// proseLine is a line outside of code blocks and comments.
type proseLine struct {
	line int
	text string
}

// shells are languages that would escape: what is for a shell is sh.
var shells = map[string]bool{"bash": true, "shell": true, "console": true, "zsh": true, "shellsession": true, "sh-session": true}

var (
	fenceLine   = regexp.MustCompile("^( *)(`{3,}|~{3,})[ \t]*([^` \t]*)")
	commentLine = regexp.MustCompile(`^ *<!--`)
)

// parser walks one document line by line. Owned by parse.
type parser struct {
	*page
	lines    []string
	at       int // the next line
	next     step
	told     []string // the comments above the next block
	problems []string
}

// parse reads a document. The problems say file and line.
func parse(file, text string) (*page, []string) {
	p := &parser{page: &page{file: file}, lines: strings.Split(text, "\n")}
	for p.at < len(p.lines) {
		line := p.lines[p.at]
		switch {
		case fenceLine.MatchString(line):
			p.block()
		case commentLine.MatchString(line):
			p.comment()
		default:
			if strings.TrimSpace(line) != "" && len(p.told) > 0 {
				p.problem(p.at, "<!-- %s --> is not right above a block", p.told[0])
				p.next, p.told = step{}, nil
			}
			p.prose = append(p.prose, proseLine{p.at + 1, line})
			p.at++
		}
	}
	if len(p.told) > 0 {
		p.problem(p.at-1, "<!-- %s --> is not right above a block", p.told[0])
	}
	return p.page, p.problems
}

func (p *parser) problem(at int, format string, args ...any) {
	p.problems = append(p.problems, fmt.Sprintf("%s:%d: %s", p.file, at+1, fmt.Sprintf(format, args...)))
}

// block takes a fenced block, with what the comments above it have said.
func (p *parser) block() {
	m := fenceLine.FindStringSubmatch(p.lines[p.at])
	indent, fence, language := m[1], m[2], m[3]
	opened := p.at
	var text strings.Builder
	closed := false
	for p.at++; p.at < len(p.lines) && !closed; p.at++ {
		line := p.lines[p.at]
		if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, fence) && strings.Trim(trimmed, fence[:1]) == "" {
			closed = true
			continue
		}
		text.WriteString(strings.TrimPrefix(line, indent) + "\n")
	}
	s := p.next
	s.line, s.text = opened+2, text.String()
	told := p.told
	p.next, p.told = step{}, nil
	switch {
	case !closed:
		p.problem(opened, "this block has no end")
	case language == "":
		p.problem(opened, "a block without a language; sh is run, text and the others are not")
	case shells[language]:
		p.problem(opened, "a %s block; write sh, which is run, and text for what it prints", language)
	case language == "sh" && s.kind != writeFile:
		p.steps = append(p.steps, s)
	case language != "sh" && s.kind == writeFile:
		p.steps = append(p.steps, s)
	case len(told) > 0:
		p.problem(opened, "<!-- %s --> above a %s block", told[0], language)
	}
}

// comment takes an HTML comment of one or more lines.
func (p *parser) comment() {
	opened := p.at
	var text strings.Builder
	for p.at < len(p.lines) {
		line := p.lines[p.at]
		p.at++
		before, _, closed := strings.Cut(line, "-->")
		text.WriteString(before + "\n")
		if closed {
			p.directive(opened, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text.String()), "<!--")))
			return
		}
	}
	p.problem(opened, "this comment has no end")
}

// directive takes what a comment says.
func (p *parser) directive(at int, text string) {
	key, value, _ := strings.Cut(text, ":")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	alone := text == key
	p.told = append(p.told, text)
	switch {
	case key == "not run here" && value != "":
		p.next.kind, p.next.why = notRun, strings.Join(strings.Fields(value), " ")
	case key == "background" && alone, key == "background, until" && value != "":
		p.next.kind, p.next.until = runBackground, value
	case key == "needs" && value != "":
		p.next.needs = strings.Fields(value)
	case key == "fails" && alone:
		p.next.fails = true
	case key == "file" && value != "":
		p.next.kind, p.next.name = writeFile, value
	case key == "within":
		d, err := time.ParseDuration(value)
		if err != nil {
			p.problem(at, "%v", err)
		}
		p.next.within = d
	default:
		p.told = p.told[:len(p.told)-1]
		p.apart(at, text, key, value)
	}
}

// apart takes comments that are for no block.
func (p *parser) apart(at int, text, key, value string) {
	switch {
	case key == "setup" && value != "":
		p.steps = append(p.steps, step{line: at + 1, kind: runSetup, text: value + "\n"})
	case text == "stop":
		p.steps = append(p.steps, step{line: at + 1, kind: stopAll, text: "stop\n"})
	case text == "checkout":
		p.checkout = true
	case key == "note":
	default:
		p.problem(at, "nothing is known of the comment <!-- %.60s -->; .ci/docs/main.go lists what there is, <!-- note: ... --> is for all else", text)
	}
}

// commands are the commands of a background block, one a line; a line that ends with a
// backslash goes on, and what is a comment is left out.
func commands(text string) []string {
	var list []string
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " # ")
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") {
			list = append(list, strings.Join(strings.Fields(line), " "))
		}
	}
	return list
}

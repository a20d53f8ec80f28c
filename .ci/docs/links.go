package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

var (
	linkTarget = regexp.MustCompile(`\]\(<?([^()\s>]+)>?(?: "[^"]*")?\)`)
	codeSpan   = regexp.MustCompile("``[^`]+``|`[^`]+`")
	headLine   = regexp.MustCompile(`^ {0,3}#{1,6}\s+(.*?)\s*#*$`)
	linkText   = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
)

// checkLinks looks whether the relative links of the pages lead to files and headings that
// are there, and whether docs/README.md leads to every page of docs/. Links to other hosts are not
// followed.
func checkLinks(pages []*page) (n int, problems []string) {
	anchors := map[string]map[string]bool{} // by file
	for _, p := range pages {
		anchors[filepath.Clean(p.file)] = headings(p)
	}
	linked := map[string]bool{}
	for _, p := range pages {
		for _, l := range p.links() {
			n++
			path, err := l.check(p.file, anchors)
			if err != nil {
				problems = append(problems, fmt.Sprintf("%s:%d: %v", p.file, l.line, err))
			}
			if filepath.Clean(p.file) == index {
				linked[path] = true
			}
		}
	}
	if anchors[index] == nil {
		return n, problems
	}
	for _, p := range pages {
		if file := filepath.Clean(p.file); filepath.Dir(file) == filepath.Dir(index) && file != index && !linked[file] {
			problems = append(problems, fmt.Sprintf("%s: %s does not link it", p.file, index))
		}
	}
	return n, problems
}

// index is the page that links all others of its directory.
var index = filepath.Join("docs", "README.md")

// A link is one [text](target) of a page.
type link struct {
	line   int
	target string
}

func (p *page) links() (list []link) {
	for _, l := range p.prose {
		for _, m := range linkTarget.FindAllStringSubmatch(codeSpan.ReplaceAllString(l.text, "`code`"), -1) {
			list = append(list, link{l.line, m[1]})
		}
	}
	return list
}

// check returns the file that the link leads to.
func (l link) check(from string, anchors map[string]map[string]bool) (string, error) {
	u, err := url.Parse(l.target)
	if err != nil {
		return "", fmt.Errorf("link %s: %w", l.target, err)
	}
	if u.Scheme != "" || u.Host != "" {
		return "", nil
	}
	path := filepath.Clean(from)
	if u.Path != "" {
		path = filepath.Join(filepath.Dir(from), u.Path)
	}
	if _, err := os.Stat(path); err != nil {
		return path, fmt.Errorf("link %s: there is no %s", l.target, path)
	}
	if u.Fragment == "" {
		return path, nil
	}
	known := anchors[path]
	if known == nil {
		text, err := os.ReadFile(path)
		if err != nil {
			return path, err
		}
		other, _ := parse(path, string(text))
		known = headings(other)
		anchors[path] = known
	}
	if !known[u.Fragment] {
		return path, fmt.Errorf("link %s: %s has no heading of that name", l.target, path)
	}
	return path, nil
}

// headings are the anchors of a page, as GitHub makes them.
func headings(p *page) map[string]bool {
	found := map[string]bool{}
	for _, l := range p.prose {
		m := headLine.FindStringSubmatch(l.text)
		if m == nil {
			continue
		}
		slug := slugOf(m[1])
		name := slug
		for i := 1; found[name]; i++ {
			name = fmt.Sprintf("%s-%d", slug, i)
		}
		found[name] = true
	}
	return found
}

// slugOf is lower case, with dashes for spaces and without punctuation.
func slugOf(heading string) string {
	heading = linkText.ReplaceAllString(heading, "$1")
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

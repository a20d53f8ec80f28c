package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// matchKeys gives each flag its value in root, and sections theirs; unknown
// keys are errors. label is what stands before the keys in errors.
func matchKeys(path, label string, root *yamlNode, flags []*kong.Flag, sections fileSections) (map[*kong.Flag]fileValue, error) {
	m := keyMatcher{path: path, label: label, flags: map[string]*kong.Flag{}, found: map[*kong.Flag]fileValue{}, sections: sections}
	for _, flag := range flags {
		if !flag.Tag.Has(flagOnly) && flag.Name != configPathFlag && flag.Name != configExpandFlag {
			m.flags[fileKey(flag)] = flag
		}
	}
	if sections != nil {
		m.sectionKeys = sections.sections()
	}
	m.match(root, "")
	return m.found, errors.Join(m.errs...)
}

// keyMatcher walks one file. Owned by matchKeys.
type keyMatcher struct {
	path, label string
	flags       map[string]*kong.Flag
	sections    fileSections // nil: none
	sectionKeys []string
	found       map[*kong.Flag]fileValue
	errs        []error
}

func (m *keyMatcher) match(n *yamlNode, prefix string) {
	for _, e := range n.entries {
		key := prefix + e.key
		var err error
		switch {
		case m.flags[key] != nil:
			m.found[m.flags[key]] = fileValue{m.path, m.label + key, e.value}
		case slices.Contains(m.sectionKeys, key):
			err = m.sections.decodeSection(m.path, key, e.value)
		case !m.isPrefix(key + "."):
			err = &lineError{m.path, e.line, m.unknown(key, e.value)}
		case e.value.kind == yamlMapping:
			m.match(e.value, key+".")
		case e.value.kind != yamlNull:
			err = &lineError{m.path, e.line, fmt.Errorf("%s: found %v where a section is expected; it has the keys %s", m.label+key, e.value.kind, m.below(key+"."))}
		}
		if err != nil {
			m.errs = append(m.errs, err)
		}
	}
}

func (m *keyMatcher) isPrefix(prefix string) bool {
	for key := range m.flags {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// below lists the keys of one level.
func (m *keyMatcher) below(prefix string) string {
	names := map[string]bool{}
	for key := range m.flags {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			name, _, _ := strings.Cut(rest, ".")
			names[name] = true
		}
	}
	if prefix == "" {
		for _, key := range m.sectionKeys {
			names[key] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}

// all is every key and section that the file may have.
func (m *keyMatcher) all() []string {
	names := map[string]bool{}
	for key := range m.flags {
		names[key] = true
		for i, c := range key {
			if c == '.' {
				names[key[:i]] = true
			}
		}
	}
	return append(slices.Collect(maps.Keys(names)), m.sectionKeys...)
}

// unknown is the error for a key that nothing reads.
func (m *keyMatcher) unknown(key string, n *yamlNode) error {
	what := "unknown key " + m.label + key
	if n.kind == yamlScalar && !looksSecret(key) {
		what += fmt.Sprintf(" (%.60q)", n.text)
	}
	if near := nearest(key, m.all()); near != "" {
		return fmt.Errorf("%s; did you mean %s?", what, m.label+near)
	}
	level := key[:strings.LastIndexByte(key, '.')+1]
	return fmt.Errorf("%s; take it away, or use one of %s", what, m.below(level))
}

// looksSecret keeps the value of a misspelt secret out of logs.
func looksSecret(key string) bool {
	key = strings.ToLower(key)
	return slices.ContainsFunc([]string{"tok", "secr", "key", "pass", "auth", "cred"}, func(s string) bool { return strings.Contains(key, s) })
}

// nearest is the candidate that key most likely means, or "": the same but for
// dashes and case, a few letters off, or the same name in another section.
func nearest(key string, candidates []string) string {
	slices.Sort(candidates)
	canonical := strings.ToLower(strings.ReplaceAll(key, "-", "_"))
	best, bestDistance := "", 1+max(2, len(key)/5)
	for _, c := range candidates {
		if d := editDistance(canonical, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	if best != "" {
		return best
	}
	name := canonical[strings.LastIndexByte(canonical, '.')+1:]
	for _, c := range candidates {
		if c == name || strings.HasSuffix(c, "."+name) {
			return c
		}
	}
	return ""
}

// editDistance is Levenshtein's, over bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitution := diagonal
			if a[i] != b[j] {
				substitution++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitution, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

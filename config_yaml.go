package main

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// yamlKind is what a yamlNode is.
type yamlKind int

const (
	yamlNull yamlKind = iota
	yamlScalar
	yamlList
	yamlMapping
)

func (k yamlKind) String() string {
	return [...]string{"nothing", "a value", "a list", "a section"}[k]
}

// yamlNode is a YAML document as the configuration needs it: text and lines,
// no types (a flag knows its own), aliases and merge keys resolved.
// Static once parsed; nodes behind aliases are shared.
type yamlNode struct {
	kind    yamlKind
	line    int
	text    string      // of a scalar, as written: 0123 stays 0123
	items   []*yamlNode // of a list
	entries []yamlEntry // of a mapping, in the file's order
}

// yamlEntry is one key of a mapping.
type yamlEntry struct {
	key   string
	line  int
	value *yamlNode
}

// get is the value of a key of a mapping, or nil.
func (n *yamlNode) get(key string) *yamlNode {
	for _, e := range n.entries {
		if e.key == key {
			return e.value
		}
	}
	return nil
}

// lineError is what is wrong with a line of a file.
type lineError struct {
	path string
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.path, e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

// maxYAMLDepth bounds nesting: listeners[].access_log.request_headers.allow_list
// is five deep. maxYAMLNodes bounds what one file may hold.
const (
	maxYAMLDepth = 16
	maxYAMLNodes = 1 << 18
)

// parseYAML reads one document; an empty one is an empty mapping. Errors are
// *lineError with the path.
func parseYAML(path string, text []byte) (_ *yamlNode, err error) {
	defer func() {
		// The parser is not ours, and its fuzzers find a panic now and then.
		if r := recover(); r != nil {
			err = &lineError{path, 1, fmt.Errorf("read YAML: %v", r)}
		}
	}()
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, syntaxError(path, err)
	}
	c := yamlConverter{path: path, anchors: map[string]*yamlNode{}}
	root := &yamlNode{kind: yamlMapping, line: 1}
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if len(root.entries) > 0 {
			return nil, c.errorf(lineOf(doc.Body, 1), "a second document; put everything into one")
		}
		n, err := c.convert(doc.Body, 1, 0)
		if err != nil {
			return nil, err
		}
		switch n.kind {
		case yamlNull:
		case yamlMapping:
			root = n
		default:
			return nil, c.errorf(n.line, "found %v where sections are expected; write it like proxy: and an indented bind_addr: below it", n.kind)
		}
	}
	return root, nil
}

// syntaxError is a parser's error on one line, without the excerpt of the
// source, which may hold a token.
func syntaxError(path string, err error) error {
	line := 1
	if yerr, ok := errors.AsType[yaml.Error](err); ok {
		if t := yerr.GetToken(); t != nil && t.Position != nil {
			line = t.Position.Line
		}
		err = errors.New(yerr.GetMessage())
	}
	return &lineError{path, line, fmt.Errorf("not YAML: %w", err)}
}

// yamlConverter turns the parser's tree into ours.
type yamlConverter struct {
	path    string
	anchors map[string]*yamlNode
	nodes   int
}

func (c *yamlConverter) errorf(line int, format string, args ...any) error {
	return &lineError{c.path, line, fmt.Errorf(format, args...)}
}

func lineOf(n ast.Node, otherwise int) int {
	if n != nil {
		if t := n.GetToken(); t != nil && t.Position != nil {
			return t.Position.Line
		}
	}
	return otherwise
}

func (c *yamlConverter) convert(n ast.Node, line, depth int) (*yamlNode, error) {
	line = lineOf(n, line)
	if depth > maxYAMLDepth {
		return nil, c.errorf(line, "nested more than %d deep", maxYAMLDepth)
	}
	if c.nodes++; c.nodes > maxYAMLNodes {
		return nil, c.errorf(line, "more than %d values in one file", maxYAMLNodes)
	}
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return &yamlNode{kind: yamlNull, line: line}, nil
	case *ast.TagNode:
		return c.convert(n.Value, line, depth+1)
	case *ast.AnchorNode:
		v, err := c.convert(n.Value, line, depth+1)
		if err == nil && n.Name != nil {
			c.anchors[n.Name.GetToken().Value] = v
		}
		return v, err
	case *ast.AliasNode:
		if n.Value != nil {
			if v := c.anchors[n.Value.GetToken().Value]; v != nil {
				return v, nil
			}
		}
		return nil, c.errorf(line, "an alias (*) to an anchor (&) that is not above it")
	case *ast.SequenceNode:
		return c.list(n, line, depth)
	case *ast.MappingNode:
		return c.mapping(n.Values, line, depth)
	case *ast.MappingValueNode:
		return c.mapping([]*ast.MappingValueNode{n}, line, depth)
	case *ast.LiteralNode:
		return &yamlNode{kind: yamlScalar, line: line, text: n.Value.Value}, nil
	case *ast.StringNode:
		return &yamlNode{kind: yamlScalar, line: line, text: n.Value}, nil
	case ast.ScalarNode: // numbers and booleans: as written
		return &yamlNode{kind: yamlScalar, line: line, text: n.GetToken().Value}, nil
	}
	return nil, c.errorf(line, "%v is not understood here", n.Type())
}

func (c *yamlConverter) list(n *ast.SequenceNode, line, depth int) (*yamlNode, error) {
	out := &yamlNode{kind: yamlList, line: line}
	for _, item := range n.Values {
		v, err := c.convert(item, line, depth+1)
		if err != nil {
			return nil, err
		}
		out.items = append(out.items, v)
	}
	return out, nil
}

func (c *yamlConverter) mapping(values []*ast.MappingValueNode, line, depth int) (*yamlNode, error) {
	out := &yamlNode{kind: yamlMapping, line: line}
	if len(values) > 0 {
		out.line = lineOf(values[0].Key, line)
	}
	seen := map[string]bool{}
	var merged []yamlEntry // taken only where the mapping has no such key itself
	for _, kv := range values {
		keyLine := lineOf(kv.Key, line)
		v, err := c.convert(kv.Value, keyLine, depth+1)
		if err != nil {
			return nil, err
		}
		if kv.Key.IsMergeKey() {
			entries, err := c.mergedEntries(v, keyLine)
			if err != nil {
				return nil, err
			}
			merged = append(merged, entries...)
			continue
		}
		key := kv.Key.GetToken().Value
		if seen[key] {
			return nil, c.errorf(keyLine, "the key %q is there twice; take one away", key)
		}
		seen[key] = true
		out.entries = append(out.entries, yamlEntry{key, keyLine, v})
	}
	for _, e := range merged {
		if !seen[e.key] {
			seen[e.key] = true
			out.entries = append(out.entries, e)
		}
	}
	return out, nil
}

// mergedEntries are those that "<<: *x" or "<<: [*x, *y]" brings in; the first wins.
func (c *yamlConverter) mergedEntries(v *yamlNode, line int) ([]yamlEntry, error) {
	switch v.kind {
	case yamlMapping:
		return v.entries, nil
	case yamlList:
		var all []yamlEntry
		for _, item := range v.items {
			if item.kind != yamlMapping {
				return nil, c.errorf(line, "<< merges sections, and %v is none", item.kind)
			}
			all = append(all, item.entries...)
		}
		return all, nil
	}
	return nil, c.errorf(line, "<< merges sections, and %v is none", v.kind)
}

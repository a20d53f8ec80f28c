package main

import (
	"bytes"
	"fmt"
)

// expandEnv replaces $VAR, ${VAR} and ${VAR:default} in the text of the file at
// path by what getenv says; $$ is a literal $, and a $ before anything else
// stays. The default also stands in for a variable that is set but empty, as in
// v0.9.0. A variable that has neither is an error: an empty token or address is
// never what was meant. Lines that are comments are left alone.
func expandEnv(path string, text []byte, getenv func(string) (string, bool)) ([]byte, error) {
	var out bytes.Buffer
	for i, line := range bytes.SplitAfter(text, []byte("\n")) {
		if trimmed := bytes.TrimLeft(line, " \t"); len(trimmed) > 0 && trimmed[0] == '#' {
			out.Write(line)
			continue
		}
		if err := expandLine(&out, string(line), getenv); err != nil {
			return nil, &lineError{path, i + 1, err}
		}
	}
	return out.Bytes(), nil
}

func expandLine(out *bytes.Buffer, line string, getenv func(string) (string, bool)) error {
	for len(line) > 0 {
		if line[0] != '$' {
			out.WriteByte(line[0])
			line = line[1:]
			continue
		}
		ref, err := cutReference(line)
		if err != nil {
			return err
		}
		line = line[ref.length:]
		if ref.name == "" {
			out.WriteByte('$')
			continue
		}
		value, ok := getenv(ref.name)
		switch {
		case value != "":
			out.WriteString(value)
		case ref.hasDefault:
			out.WriteString(ref.fallback)
		case !ok:
			return fmt.Errorf("the environment variable %s is not set; set it, write ${%s:default}, or $$ for a literal $", ref.name, ref.name)
		}
	}
	return nil
}

// reference is one use of a variable.
type reference struct {
	name       string // empty: a literal $
	fallback   string
	hasDefault bool
	length     int // bytes that it takes in the text
}

// cutReference reads the reference that s, which begins with $, begins with.
func cutReference(s string) (reference, error) {
	switch {
	case len(s) > 1 && s[1] == '$':
		return reference{length: 2}, nil
	case len(s) > 1 && s[1] == '{':
		n := nameLength(s[2:])
		ref := reference{name: s[2 : 2+n]}
		rest := s[2+n:]
		if len(rest) > 0 && rest[0] == ':' {
			ref.hasDefault = true
			end := bytes.IndexByte([]byte(rest), '}')
			if end > 0 {
				ref.fallback, rest = rest[1:end], rest[end:]
			}
		}
		if n == 0 || len(rest) == 0 || rest[0] != '}' {
			return ref, fmt.Errorf("%.20q is not a variable; write ${NAME} or ${NAME:default}, or $$ for a literal $", s)
		}
		ref.length = len(s) - len(rest) + 1
		return ref, nil
	}
	n := nameLength(s[1:])
	return reference{name: s[1 : 1+n], length: 1 + n}, nil
}

// nameLength is how many bytes at the start of s are the name of a variable.
func nameLength(s string) int {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}

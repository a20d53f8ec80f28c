package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

// maxToken is how long a token may be, in bytes; a longer one is refused before
// anything looks into it.
const maxToken = 8 << 10

// maxDepth bounds how deep the JSON of a token is nested.
const maxDepth = 16

// maxKid bounds the name of a key, in bytes.
const maxKid = 256

// header is what counts of a token's header.
type header struct {
	alg    string
	family family
	kid    string
	hasKid bool
}

// parseHeader looks at the shape of a token and at its header, which nobody has
// vouched for: it says which family of keys is asked for, and no more than that.
func parseHeader(token string) (header, error) {
	if len(token) > maxToken {
		return header{}, refuse(reasonTooLong)
	}
	// Counted before anything is split: a million dots would be a million parts.
	if strings.Count(token, ".") != 2 {
		return header{}, refuse(reasonMalformed)
	}
	if strings.ContainsAny(token, "\r\n") { // which the decoder of base64 skips
		return header{}, refuse(reasonMalformed)
	}
	first, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil {
		return header{}, refuse(reasonMalformed)
	}
	fields, err := parseObject(text)
	if err != nil {
		return header{}, refuse(reasonMalformed)
	}
	// crit names what must be understood to verify the token, and none of it is
	// (RFC 7515, section 4.1.11). The others bring a key of the sender's choice.
	for _, name := range []string{"crit", "jwk", "jku", "x5u"} {
		if _, ok := fields[name]; ok {
			return header{}, refuse(reasonHeader)
		}
	}
	var h header
	if err := json.Unmarshal(fields["alg"], &h.alg); err != nil {
		return header{}, refuse(reasonAlgorithm)
	}
	if h.family = familyOfAlg[h.alg]; h.family == noFamily {
		return header{}, refuse(reasonAlgorithm)
	}
	if kid, ok := fields["kid"]; ok {
		h.hasKid = true
		if err := json.Unmarshal(kid, &h.kid); err != nil || len(h.kid) > maxKid {
			return header{}, refuse(reasonHeader)
		}
	}
	return h, nil
}

var (
	errDuplicate = errors.New("a name is there twice")
	errDeep      = errors.New("nested too deep")
	errNoText    = errors.New("not UTF-8")
	errNoObject  = errors.New("not an object")
)

// parseObject reads a JSON object and refuses what parsers understand in
// different ways: a name that is there twice, at any depth, and text behind the
// object (RFC 8725, section 2.4; RFC 7515, section 4).
func parseObject(text []byte) (map[string]json.RawMessage, error) {
	if err := checkJSON(text); err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, errNoObject
	}
	return fields, nil
}

// checkJSON finds duplicate names and deep nesting in one JSON value, and bytes
// that are no text, which parsers replace by the same character (RFC 8259,
// section 8.1).
func checkJSON(text []byte) error {
	if !utf8.Valid(text) {
		return errNoText
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := checkValue(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("text behind the value")
	}
	return nil
}

func checkValue(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return errDeep
	}
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			s, ok := name.(string)
			if !ok || seen[s] {
				return errDuplicate
			}
			seen[s] = true
		}
		if err := checkValue(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token() // the closing bracket
	return err
}

package tunnel

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"piko/fault"
)

// maxEndpoint is the longest endpoint in bytes: that of a DNS name.
const maxEndpoint = 253

var (
	errEndpointLength = errors.New("endpoint is longer than 253 bytes")
	errEndpointDots   = errors.New("endpoint is a step in a path")
)

// ParseEndpoint returns the canonical form of an endpoint's name, in lower
// case: 1 to 253 bytes of a-z, 0-9 and "._~:@-". The error is a *fault.Error
// with the code missing-endpoint or invalid-endpoint. A name that is in lower
// case already is returned as it is, without allocation.
func ParseEndpoint(s string) (string, error) {
	if s == "" {
		return "", fault.New(fault.MissingEndpoint, nil)
	}
	if len(s) > maxEndpoint {
		return "", fault.New(fault.InvalidEndpoint, errEndpointLength)
	}
	upper := false
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == '~', c == ':', c == '@', c == '-':
		case 'A' <= c && c <= 'Z':
			upper = true
		default:
			return "", fault.New(fault.InvalidEndpoint, fmt.Errorf("endpoint has the character %q", firstRune(s[i:])))
		}
	}
	if s == "." || s == ".." {
		// No handshake could name it: every mux and load balancer cleans paths.
		return "", fault.New(fault.InvalidEndpoint, errEndpointDots)
	}
	if upper {
		s = strings.ToLower(s)
	}
	return s, nil
}

// firstRune is what a person would call the character at the start of s.
func firstRune(s string) rune {
	r, _ := utf8.DecodeRuneInString(s)
	return r
}

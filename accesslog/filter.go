package accesslog

import (
	"errors"
	"net/textproto"
)

// HeaderFilter chooses the headers to log: all of them, only those of Allow, or
// all but those of Block. Names are compared without regard to case.
//
// The values of authorization, cookie, set-cookie, x-piko-authorization and
// proxy-authorization are replaced by [redacted], unless Allow names the header.
type HeaderFilter struct {
	Allow, Block []string // at most one of them
}

// Validate says what is wrong with the filter.
func (f HeaderFilter) Validate() error {
	if len(f.Allow) > 0 && len(f.Block) > 0 {
		return errors.New("allow list and block list exclude each other: set one of them")
	}
	return nil
}

// verdict is what to do with a header.
type verdict uint8

const (
	show verdict = iota
	redact
	hide
)

// filter is a HeaderFilter made ready. It is never written after construction.
type filter struct {
	named  map[string]verdict // by canonical name
	others verdict
	listed bool // there is an allow list
}

func newFilter(f HeaderFilter) filter {
	out := filter{named: make(map[string]verdict), listed: len(f.Allow) > 0}
	if out.listed {
		out.others = hide
		for _, name := range f.Allow {
			out.named[textproto.CanonicalMIMEHeaderKey(name)] = show
		}
		return out
	}
	for _, name := range []string{"Authorization", "Cookie", "Set-Cookie", "X-Piko-Authorization", "Proxy-Authorization"} {
		out.named[name] = redact
	}
	for _, name := range f.Block {
		out.named[textproto.CanonicalMIMEHeaderKey(name)] = hide
	}
	return out
}

// verdict costs no allocation for a name in canonical form, as net/http has
// them; any other form of a name must not get around the filter.
func (f *filter) verdict(name string) verdict {
	if !canonical(name) {
		name = textproto.CanonicalMIMEHeaderKey(name)
	}
	if v, ok := f.named[name]; ok {
		return v
	}
	return f.others
}

// canonical reports whether the letters that begin a word, and no others, are
// in upper case.
func canonical(name string) bool {
	first := true
	for i := range len(name) {
		c := name[i]
		if first && 'a' <= c && c <= 'z' || !first && 'A' <= c && c <= 'Z' {
			return false
		}
		first = c == '-'
	}
	return true
}

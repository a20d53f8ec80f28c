package accesslog

import (
	"errors"
	"net/textproto"
	"strings"
)

// HeaderFilter chooses the headers to log: all of them, only those of Allow, or
// all but those of Block. Names are compared without regard to case.
//
// The values of authorization, cookie, set-cookie and proxy-authorization are
// replaced by [redacted], unless Allow names the header; that of
// x-piko-authorization always is, since it is nobody's but piko's, and
// x-piko-tenant-id, which anybody can claim, is left out: the line has the tenant.
// A name with an underscore counts as the one with a hyphen.
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
	sizes  uint64             // which lengths the names have, so that most others need not be looked up
	others verdict
	listed bool // there is an allow list
}

func newFilter(f HeaderFilter) filter {
	out := listNames(f)
	for name := range out.named {
		out.sizes |= sizeBit(name)
	}
	return out
}

// sizeBit is one bit for each length of up to 62 bytes, and one for all that are longer.
func sizeBit(name string) uint64 { return 1 << min(len(name), 63) }

func listNames(f HeaderFilter) filter {
	out := filter{named: make(map[string]verdict), listed: len(f.Allow) > 0}
	if out.listed {
		out.others = hide
		for _, name := range f.Allow {
			out.named[canonicalName(name)] = show
		}
		if _, ok := out.named[headerPikoAuthorization]; ok {
			out.named[headerPikoAuthorization] = redact
		}
		delete(out.named, headerPikoTenant)
		return out
	}
	for _, name := range []string{"Authorization", "Cookie", "Set-Cookie", headerPikoAuthorization, "Proxy-Authorization"} {
		out.named[name] = redact
	}
	out.named[headerPikoTenant] = hide
	for _, name := range f.Block {
		out.named[canonicalName(name)] = hide
	}
	return out
}

// verdict costs no allocation for a name in canonical form, as net/http has
// them; any other form of a name must not get around the filter.
func (f *filter) verdict(name string) verdict {
	if f.sizes&sizeBit(name) == 0 { // all forms of a name are of one length
		return f.others
	}
	if !canonical(name) {
		name = canonicalName(name)
	}
	if v, ok := f.named[name]; ok {
		return v
	}
	return f.others
}

// Headers that are for piko itself: a token, and whose it is said to be.
const (
	headerPikoAuthorization = "X-Piko-Authorization"
	headerPikoTenant        = "X-Piko-Tenant-Id"
)

func canonicalName(name string) string {
	return textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// canonical reports whether the letters that begin a word, and no others, are
// in upper case, and there is no underscore.
func canonical(name string) bool {
	first := true
	for i := range len(name) {
		c := name[i]
		if c == '_' || first && 'a' <= c && c <= 'z' || !first && 'A' <= c && c <= 'Z' {
			return false
		}
		first = c == '-'
	}
	return true
}

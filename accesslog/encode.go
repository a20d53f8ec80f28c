package accesslog

import (
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// timeFormat is v0.9.0's, but of one width always.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// Bounds of a line. A request may have 1 MiB of headers.
const (
	maxValue       = 256     // bytes of one text
	maxHeaderBytes = 8 << 10 // of one object of headers, about
	maxHeaders     = 64      // names in one object
	maxValues      = 8       // of one name
)

const redacted = "[redacted]"

// encoder makes lines. It belongs to one call of Log at a time.
type encoder struct {
	buf    []byte
	fields [maxHeaders]field
}

// field is a header to show. It is looked up once: the lookups were half of a
// line's cost.
type field struct {
	name   string
	value  string   // if values is nil
	values []string // of a name of which there may be several
	redact bool
}

func (k Kind) msg() string {
	switch k {
	case Opened:
		return "connection opened"
	case Closed:
		return "connection closed"
	}
	return "request"
}

func levelName(level slog.Level) string {
	switch {
	case level < slog.LevelInfo:
		return "debug"
	case level < slog.LevelWarn:
		return "info"
	case level < slog.LevelError:
		return "warn"
	}
	return "error"
}

func (r *Record) time() time.Time {
	if r.Time.IsZero() {
		return time.Now()
	}
	return r.Time
}

func (l *Logger) subsystem(r *Record) string {
	if r.Subsystem != "" {
		return r.Subsystem
	}
	return l.opt.Subsystem
}

// The keys are constants and need no escaping.
func (e *encoder) raw(s string) { e.buf = append(e.buf, s...) }

func (e *encoder) key(k string) {
	e.buf = append(e.buf, ',', '"')
	e.buf = append(e.buf, k...)
	e.buf = append(e.buf, '"', ':')
}

func (e *encoder) str(k, v string) {
	e.key(k)
	e.buf = appendQuoted(e.buf, v)
}

func (e *encoder) optional(k, v string) {
	if v != "" {
		e.str(k, v)
	}
}

func (e *encoder) num(k string, v int64) {
	e.key(k)
	e.buf = strconv.AppendInt(e.buf, v, 10)
}

func (e *encoder) json(l *Logger, r *Record) {
	e.raw(`{"level":"`)
	e.raw(levelName(l.level(r.Status)))
	e.raw(`","ts":"`)
	e.buf = l.stamps.append(e.buf, r.time())
	e.raw(`","subsystem":`)
	e.buf = appendQuoted(e.buf, l.subsystem(r))
	e.str("msg", r.Kind.msg())
	e.raw(`,"request":{"proto":`)
	e.buf = appendQuoted(e.buf, r.Proto)
	e.str("method", r.Method)
	e.str("host", r.Host)
	e.str("path", r.Path)
	e.key("request_headers")
	e.headers(r.RequestHeader, r.RequestFields, &l.requests)
	e.key("response_headers")
	e.headers(r.ResponseHeader, r.ResponseFields, &l.responses)
	e.num("status", int64(r.Status))
	e.outcome(r)
	e.optional("endpoint", r.Endpoint)
	e.optional("tenant", r.Tenant)
	e.optional("subject", r.Subject)
	e.optional("token_id", r.TokenID)
	e.optional("client", r.Client)
	e.optional("node", r.Node)
	e.optional("upstream", r.Upstream)
	if r.Hop {
		e.raw(`,"hop":true`)
	}
	e.optional("request_id", r.RequestID)
	e.optional("trace_id", r.TraceID)
	if r.Retries > 0 {
		e.num("retries", int64(r.Retries))
	}
	e.optional("error", r.Err)
	e.raw("}}\n")
}

// outcome is what a connection that has just opened does not have.
func (e *encoder) outcome(r *Record) {
	if r.Kind == Opened {
		return
	}
	e.raw(`,"duration":"`)
	e.buf = appendDuration(e.buf, r.Duration)
	e.raw(`"`)
	e.num("bytes_in", r.BytesIn)
	e.num("bytes_out", r.BytesOut)
}

// headers writes the object of a header, in the order of the names.
func (e *encoder) headers(h http.Header, list []Field, f *filter) {
	e.raw("{")
	fields, more := e.sorted(h, list, f)
	start := len(e.buf)
	for left := fields; len(left) > 0; {
		if len(e.buf)-start > maxHeaderBytes {
			more += len(left)
			break
		}
		if len(left) < len(fields) {
			e.raw(",")
		}
		n := sameName(left)
		e.buf = appendQuoted(e.buf, left[0].name)
		e.raw(":[")
		e.values(left[:n])
		e.raw("]")
		left = left[n:]
	}
	if more > 0 {
		if len(fields) > 0 {
			e.raw(",")
		}
		e.raw(`"...":["`)
		e.buf = strconv.AppendInt(e.buf, int64(more), 10)
		e.raw(` more"]`)
	}
	e.raw("}")
	clear(fields) // keep no request's strings
}

// sameName is how many of the fields, which are sorted, have the first one's name.
func sameName(fields []field) int {
	n := 1
	for n < len(fields) && fields[n].name == fields[0].name {
		n++
	}
	return n
}

// values writes the values of the fields, which have one name.
func (e *encoder) values(fields []field) {
	n := 0
	for value := range each(fields) {
		if n > 0 {
			e.raw(",")
		}
		if n == maxValues {
			e.raw(`"..."`)
			return
		}
		e.value(fields[0], value)
		n++
	}
}

// each is the values of the fields.
func each(fields []field) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range fields {
			f := &fields[i]
			if f.values == nil && !yield(f.value) {
				return
			}
			for _, value := range f.values {
				if !yield(value) {
					return
				}
			}
		}
	}
}

func (e *encoder) value(f field, value string) {
	if f.redact {
		value = redacted
	}
	e.buf = appendQuoted(e.buf, value)
}

// sorted returns the headers to show, and how many did not fit. They are valid
// until the next call; the caller clears them.
func (e *encoder) sorted(h http.Header, list []Field, f *filter) (fields []field, more int) {
	fields = e.fields[:0]
	for name, values := range h {
		fields, more = f.add(fields, field{name: name, values: values}, more)
	}
	if h == nil {
		for i := range list {
			fields, more = f.add(fields, field{name: list[i].Name, value: list[i].Value}, more)
		}
	}
	slices.SortStableFunc(fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return fields, more
}

// add appends one that is to be shown, if there is room, and else counts it.
func (f *filter) add(fields []field, one field, more int) ([]field, int) {
	v := f.verdict(one.name)
	switch {
	case v == hide:
		return fields, more
	case len(fields) == maxHeaders:
		return fields, more + 1
	}
	one.redact = v == redact
	return append(fields, one), more
}

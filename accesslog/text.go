package accesslog

import (
	"net/http"
	"strconv"
)

// text writes a line of key=value for people, in the order in which they read:
// what happened, then where.
func (e *encoder) text(l *Logger, r *Record) {
	e.raw("ts=")
	e.buf = l.stamps.append(e.buf, r.time())
	e.raw(" level=")
	e.raw(levelName(l.level(r.Status)))
	e.pair("subsystem", l.subsystem(r))
	e.pair("msg", r.Kind.msg())
	e.pair("method", r.Method)
	e.pair("host", r.Host)
	e.pair("path", r.Path)
	e.pair("proto", r.Proto)
	e.count("status", int64(r.Status))
	if r.Kind != Opened {
		e.raw(" duration=")
		e.buf = appendDuration(e.buf, r.Duration)
		e.count("bytes_in", r.BytesIn)
		e.count("bytes_out", r.BytesOut)
	}
	e.pair("endpoint", r.Endpoint)
	e.pair("tenant", r.Tenant)
	e.pair("subject", r.Subject)
	e.pair("token_id", r.TokenID)
	e.pair("client", r.Client)
	e.pair("node", r.Node)
	e.pair("upstream", r.Upstream)
	if r.Hop {
		e.raw(" hop=true")
	}
	e.pair("request_id", r.RequestID)
	e.pair("trace_id", r.TraceID)
	if r.Retries > 0 {
		e.count("retries", int64(r.Retries))
	}
	e.pair("error", r.Err)
	e.listed("request_headers.", r.RequestHeader, r.RequestFields, &l.requests)
	e.listed("response_headers.", r.ResponseHeader, r.ResponseFields, &l.responses)
	e.raw("\n")
}

// pair leaves out what is empty.
func (e *encoder) pair(k, v string) {
	if v == "" {
		return
	}
	e.raw(" ")
	e.raw(k)
	e.raw("=")
	if plain(v) {
		e.raw(v)
		return
	}
	e.buf = appendQuoted(e.buf, v)
}

func (e *encoder) count(k string, v int64) {
	e.raw(" ")
	e.raw(k)
	e.raw("=")
	e.buf = strconv.AppendInt(e.buf, v, 10)
}

// listed writes the headers that the user asked for by name.
func (e *encoder) listed(prefix string, h http.Header, list []Field, f *filter) {
	if !f.listed {
		return
	}
	fields, _ := e.sorted(h, list, f)
	for left := fields; len(left) > 0; {
		same := left[:sameName(left)]
		n := 0
		for value := range each(same) {
			if n++; n > maxValues {
				break
			}
			e.raw(" ")
			e.raw(prefix)
			e.raw(same[0].name) // one of the configured names
			e.raw("=")
			e.value(same[0], value)
		}
		left = left[len(same):]
	}
	clear(fields)
}

// plain reports whether a text can stand without quotes.
func plain(s string) bool {
	if len(s) > maxValue {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' || c == '=' {
			return false
		}
	}
	return true
}

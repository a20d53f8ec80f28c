package agent

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"piko/accesslog"
	"piko/relay"
)

// laneLog makes lines of the access log from the heads of messages. Its maps
// are used again for the next request of the stream.
type laneLog struct {
	request, response http.Header
	values            []string
}

// write writes a line.
func (g *laneLog) write(l *listener, r *relay.LaneRequest, took time.Duration) {
	if g.request == nil {
		g.request, g.response = make(http.Header), make(http.Header)
	}
	g.values = g.values[:0]
	line := g.parse(g.request, r.Head)
	g.parse(g.response, r.ResponseHead)
	_, target, _ := strings.Cut(line, " ")
	target, _, _ = strings.Cut(target, " ")
	rec := accesslog.Record{
		Kind:  accesslog.Request,
		Proto: "HTTP/1.1", Method: r.Method, Host: g.request.Get("Host"), Path: path(target),
		Endpoint: l.cfg.Endpoint, Client: g.request.Get("X-Forwarded-For"), Upstream: l.service.host,
		Status: r.Status, BytesIn: r.Received, BytesOut: r.Sent, Duration: took, Retries: r.Retries,
		RequestID:     g.request.Get("X-Request-Id"),
		RequestHeader: g.request, ResponseHeader: g.response,
	}
	if r.Err != nil {
		rec.Err = r.Err.Error()
	}
	for _, name := range []string{"Host", "Transfer-Encoding"} { // net/http takes them out, too
		delete(g.request, name)
	}
	l.access.Log(&rec)
	clear(g.request)
	clear(g.response)
	clear(g.values)
}

// parse fills in h from a head, and returns its first line.
func (g *laneLog) parse(h http.Header, head string) (line string) {
	line, head, _ = strings.Cut(head, "\r\n")
	for head != "" {
		var field string
		field, head, _ = strings.Cut(head, "\r\n")
		name, value, ok := strings.Cut(field, ":")
		if !ok {
			break
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		value = textproto.TrimString(value)
		if old, ok := h[name]; ok {
			h[name] = append(old, value)
			continue
		}
		n := len(g.values)
		g.values = append(g.values, value)
		h[name] = g.values[n : n+1 : n+1]
	}
	return line
}

// path is the path of a target, without its escapes.
func path(target string) string {
	target, _, _ = strings.Cut(target, "?")
	if plain, err := url.PathUnescape(target); err == nil {
		return plain
	}
	return target
}

// statusLine is what follows the version.
func statusLine(status int) string {
	return strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n"
}

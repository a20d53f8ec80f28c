package agent

import (
	"cmp"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"piko/accesslog"
	"piko/relay"
)

// laneLog makes lines of the access log from the heads of messages. Its lists
// are used again for the next request of the stream.
type laneLog struct {
	request, response []accesslog.Field
}

// write writes a line.
func (g *laneLog) write(l *listener, r *relay.LaneRequest, took time.Duration) {
	var line string
	line, g.request = appendFields(g.request[:0], r.Head)
	_, g.response = appendFields(g.response[:0], r.ResponseHead)
	_, target, _ := strings.Cut(line, " ")
	target, _, _ = strings.Cut(target, " ")
	rec := accesslog.Record{
		Kind:  accesslog.Request,
		Proto: "HTTP/1.1", Method: r.Method, Path: path(target),
		Endpoint: l.cfg.Endpoint, Upstream: l.service.host,
		Status: r.Status, BytesIn: r.Received, BytesOut: r.Sent, Duration: took, Retries: r.Retries,
	}
	if r.Err != nil {
		rec.Err = r.Err.Error()
	}
	shown := g.request[:0]
	for _, f := range g.request {
		switch f.Name {
		case "Host": // net/http takes both out, too
			rec.Host = f.Value
			continue
		case "Transfer-Encoding":
			continue
		case "X-Forwarded-For":
			rec.Client = cmp.Or(rec.Client, f.Value)
		case "X-Request-Id":
			rec.RequestID = cmp.Or(rec.RequestID, f.Value)
		}
		shown = append(shown, f)
	}
	rec.RequestFields, rec.ResponseFields = shown, g.response
	l.access.Log(&rec)
	clear(g.request)
	clear(g.response)
}

// appendFields appends the fields of a head, and returns its first line.
func appendFields(list []accesslog.Field, head string) (line string, _ []accesslog.Field) {
	line, head, _ = strings.Cut(head, "\r\n")
	for head != "" {
		var field string
		field, head, _ = strings.Cut(head, "\r\n")
		name, value, ok := strings.Cut(field, ":")
		if !ok {
			break
		}
		list = append(list, accesslog.Field{Name: textproto.CanonicalMIMEHeaderKey(name), Value: textproto.TrimString(value)})
	}
	return line, list
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

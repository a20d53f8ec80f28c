package inspect

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// clientURL is where the client has sent the request, as far as the headers of
// the node in front tell.
func clientURL(x *exchange, target string) string {
	scheme := "http"
	if x.header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	if !strings.HasPrefix(target, "/") {
		return target
	}
	return scheme + "://" + x.host + target
}

// notTheClients are fields that the node has added, or that a client makes up
// for itself.
var notTheClients = []string{
	"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id", "Forwarded", "Cdn-Loop", "Connection", "Content-Length", "Accept-Encoding",
}

// curl is a command line for a POSIX shell that sends the request as the client did.
func (i *Inspector) curl(x *exchange) string {
	var b strings.Builder
	data := x.request.data
	text, ok := asText(data)
	if len(data) > 0 && (!ok || x.header.Get("Content-Encoding") != "") {
		b.WriteString("echo " + quote(base64.StdEncoding.EncodeToString(data)) + " | base64 -d | ")
		text = "@-"
	} else if !i.cfg.ShowSecrets {
		text = redactText(text)
	}
	b.WriteString("curl -i -X " + quote(x.method) + " " + quote(clientURL(x, x.shownTarget)))
	for _, h := range i.headers(x.header) {
		if !slices.Contains(notTheClients, h[0]) {
			b.WriteString(" \\\n  -H " + quote(h[0]+": "+h[1]))
		}
	}
	switch {
	case text == "@-" && len(data) > 0:
		b.WriteString(" \\\n  --data-binary @-")
	case len(data) > 0:
		b.WriteString(" \\\n  --data-raw " + quote(text))
	}
	b.WriteString("\n")
	if !x.request.whole() {
		b.WriteString("# The body was longer than what is kept of it.\n")
	}
	return b.String()
}

// quote makes one word of s for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// The shape of a HAR file, version 1.2 (http://www.softwareishard.com/blog/har-12-spec/).
type (
	harFile struct {
		Log harLog `json:"log"`
	}
	harLog struct {
		Version string     `json:"version"`
		Creator harCreator `json:"creator"`
		Entries []harEntry `json:"entries"`
	}
	harCreator struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	harEntry struct {
		Started  time.Time   `json:"startedDateTime"`
		Time     float64     `json:"time"` // milliseconds, as all times here
		Request  harRequest  `json:"request"`
		Response harResponse `json:"response"`
		Cache    struct{}    `json:"cache"`
		Timings  harTimings  `json:"timings"`
		Comment  string      `json:"comment,omitempty"`
		// Messages is what browsers write for WebSockets.
		Messages []harMessage `json:"_webSocketMessages,omitempty"`
	}
	harRequest struct {
		Method      string    `json:"method"`
		URL         string    `json:"url"`
		HTTPVersion string    `json:"httpVersion"`
		Cookies     []harPair `json:"cookies"`
		Headers     []harPair `json:"headers"`
		Query       []harPair `json:"queryString"`
		PostData    *harPost  `json:"postData,omitempty"`
		HeadersSize int       `json:"headersSize"`
		BodySize    int64     `json:"bodySize"`
	}
	harResponse struct {
		Status      int        `json:"status"`
		StatusText  string     `json:"statusText"`
		HTTPVersion string     `json:"httpVersion"`
		Cookies     []harPair  `json:"cookies"`
		Headers     []harPair  `json:"headers"`
		Content     harContent `json:"content"`
		RedirectURL string     `json:"redirectURL"`
		HeadersSize int        `json:"headersSize"`
		BodySize    int64      `json:"bodySize"`
	}
	harPair struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	harPost struct {
		MIMEType string    `json:"mimeType"`
		Params   []harPair `json:"params"`
		Text     string    `json:"text"`
		Encoding string    `json:"_encoding,omitempty"` // HAR has none for requests
	}
	harContent struct {
		Size     int64  `json:"size"`
		MIMEType string `json:"mimeType"`
		Text     string `json:"text,omitempty"`
		Encoding string `json:"encoding,omitempty"`
	}
	harTimings struct {
		Send    float64 `json:"send"`
		Wait    float64 `json:"wait"`
		Receive float64 `json:"receive"`
	}
	harMessage struct {
		Type   string  `json:"type"` // send or receive, as the client sees it
		Time   float64 `json:"time"` // seconds since 1970
		Opcode int     `json:"opcode"`
		Data   string  `json:"data"`
	}
)

// har is a HAR file of exchanges; what is not over yet is left out.
func (i *Inspector) har(list []*exchange) harFile {
	f := harFile{harLog{Version: "1.2", Creator: harCreator{"piko", "1"}, Entries: []harEntry{}}}
	for _, x := range list {
		if x.done {
			f.Log.Entries = append(f.Log.Entries, i.harEntry(x))
		}
	}
	return f
}

func (i *Inspector) harEntry(x *exchange) harEntry {
	d := i.detail(x)
	first := min(x.firstByte, x.took)
	e := harEntry{
		Started: x.start.UTC(), Time: milliseconds(x.took), Comment: x.failure,
		Timings: harTimings{0, milliseconds(first), milliseconds(x.took - first)},
		Request: harRequest{
			Method: x.method, URL: clientURL(x, x.shownTarget), HTTPVersion: x.proto,
			Cookies: []harPair{}, Headers: pairs(d.Request.Headers), Query: queryPairs(x.shownTarget),
			HeadersSize: -1, BodySize: x.request.size,
		},
		Response: harResponse{
			Status: x.status, StatusText: http.StatusText(x.status), HTTPVersion: "HTTP/1.1",
			Cookies: []harPair{}, Headers: pairs(d.Response.Headers), HeadersSize: -1, BodySize: x.response.size,
			RedirectURL: redactHeader("Location", x.answer.Get("Location")),
			Content:     harContent{Size: x.response.size, MIMEType: x.answer.Get("Content-Type"), Text: d.Response.Body.Text},
		},
	}
	if b64 := d.Response.Body.Base64; b64 != "" {
		e.Response.Content.Text, e.Response.Content.Encoding = b64, "base64"
	}
	if body := d.Request.Body; body.Kept > 0 {
		e.Request.PostData = &harPost{MIMEType: x.header.Get("Content-Type"), Params: []harPair{}, Text: body.Text}
		if body.Base64 != "" {
			e.Request.PostData.Text, e.Request.PostData.Encoding = body.Base64, "base64"
		}
	}
	if x.kind == kindWebSocket {
		e.Messages = harMessages(d.Messages)
	}
	return e
}

func harMessages(frames []frameView) []harMessage {
	var list []harMessage
	for _, m := range frames {
		h := harMessage{Type: "send", Time: float64(m.Time.UnixNano()) / 1e9, Data: m.Text + m.Base64}
		if m.Direction == "out" {
			h.Type = "receive"
		}
		for code, name := range opcodes {
			if name == m.Kind {
				h.Opcode = int(code)
			}
		}
		list = append(list, h)
	}
	return list
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func pairs(headers [][2]string) []harPair {
	list := make([]harPair, len(headers))
	for i, h := range headers {
		list[i] = harPair{h[0], h[1]}
	}
	return list
}

func queryPairs(target string) []harPair {
	list := []harPair{}
	_, query, _ := strings.Cut(target, "?")
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name == "" {
			continue
		}
		if n, err := url.QueryUnescape(name); err == nil {
			name = n
		}
		if v, err := url.QueryUnescape(value); err == nil {
			value = v
		}
		list = append(list, harPair{name, value})
	}
	return list
}

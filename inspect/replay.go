package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	// maxReplays bounds the replays under way.
	maxReplays = 16
	// replayTime bounds one replay.
	replayTime = 10 * time.Minute
)

// edit is what a replay changes; nil leaves it as it was. Where the page shows a
// secret as redacted, the placeholder stands for the secret.
type edit struct {
	Method  *string      `json:"method"`
	Path    *string      `json:"path"` // with the query
	Headers *[][2]string `json:"headers"`
	Body    *string      `json:"body"`
}

var (
	errNoReplay    = errors.New("the connection became a WebSocket or another protocol: what was said there cannot be said again")
	errBodyTooLong = errors.New("its body is not all here: it was longer than what is kept of one, or never ended; edit it, or begin the agent with a larger --inspect.max-body")
	errBusy        = fmt.Errorf("%d replays are under way: wait for one to end", maxReplays)
	errClosed      = errors.New("the agent is stopping")
)

// replayable says why an exchange cannot be sent again as it is.
func replayable(x *exchange) error {
	switch {
	case x.header.Get("Upgrade") != "":
		return errNoReplay
	case !x.request.whole(), x.length >= 0 && x.request.size != x.length, x.length < 0 && !x.request.ended:
		return errBodyTooLong
	}
	return nil
}

// replay sends an exchange again, edited, and returns the id of the new one. It
// does not wait for the answer.
func (i *Inspector) replay(x *exchange, e edit) (uint64, error) {
	req, edited, err := i.rebuild(x, e)
	if err != nil {
		return 0, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	next := i.next[x.to]
	if i.closed || next == nil {
		return 0, errClosed
	}
	select {
	case i.replays <- struct{}{}:
	default:
		return 0, errBusy
	}
	again := i.begin(x.to, req)
	again.replayOf, again.edited = x.id, edited
	i.store.add(again)
	i.running.Go(func() {
		defer func() { <-i.replays }()
		i.send(again, req, next)
	})
	return again.id, nil
}

// send runs a replay to its end.
func (i *Inspector) send(x *exchange, req *http.Request, next http.Handler) {
	ctx, cancel := context.WithTimeout(i.base, replayTime)
	defer cancel()
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			panic(v)
		}
	}()
	i.forward(x, &nobody{header: make(http.Header)}, req.WithContext(ctx), next)
}

// nobody is the client of a replay: it takes everything, and keeps nothing.
type nobody struct{ header http.Header }

func (n *nobody) Header() http.Header         { return n.header }
func (n *nobody) WriteHeader(int)             {}
func (n *nobody) Write(p []byte) (int, error) { return len(p), nil }

// rebuild makes the request of a replay, and says whether it differs.
func (i *Inspector) rebuild(x *exchange, e edit) (req *http.Request, edited bool, err error) {
	if x.header.Get("Upgrade") != "" {
		return nil, false, errNoReplay
	}
	method, target, data := x.method, x.target, x.request.data
	if e.Method != nil {
		method = *e.Method
	}
	if e.Path != nil {
		if target, err = i.restore("the path", *e.Path, x.target, secretSpans(x.target)); err != nil {
			return nil, false, err
		}
	}
	header := x.header.Clone()
	if e.Headers != nil {
		if header, err = i.rebuildHeader(x, *e.Headers); err != nil {
			return nil, false, err
		}
	}
	if e.Body == nil {
		err = replayable(x)
	} else {
		data, err = i.rebuildBody(x, *e.Body, header)
	}
	if err != nil {
		return nil, false, err
	}
	req, err = newRequest(method, target, x.host, header, data)
	edited = method != x.method || target != x.target || !bytes.Equal(data, x.request.data) || !equalHeaders(header, x.header)
	return req, edited, err
}

// rebuildHeader is an edited header with the secrets of the original.
func (i *Inspector) rebuildHeader(x *exchange, fields [][2]string) (http.Header, error) {
	header, nth := make(http.Header), make(map[string]int)
	for _, f := range fields {
		name, value := http.CanonicalHeaderKey(strings.TrimSpace(f[0])), strings.TrimSpace(f[1])
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, fmt.Errorf("the header %.80q cannot be sent: a name is letters, digits and dashes, and a value is one line", name)
		}
		original := ""
		if values := x.header[name]; nth[name] < len(values) {
			original = values[nth[name]]
		}
		nth[name]++
		value, err := i.restore("the header "+name, value, original, headerSpans(name, original))
		if err != nil {
			return nil, err
		}
		header[name] = append(header[name], value)
	}
	return header, nil
}

// rebuildBody is an edited body with the secrets of the original. It is not
// compressed any more.
func (i *Inspector) rebuildBody(x *exchange, body string, header http.Header) ([]byte, error) {
	plain, coding, ok := decode(x.request.data, x.header.Get("Content-Encoding"))
	original, text := asText(plain)
	if !text {
		original = ""
	}
	body, err := i.restore("the body", body, original, secretSpans(original))
	if err != nil {
		return nil, err
	}
	if body == original && x.request.whole() && text {
		return x.request.data, nil
	}
	if ok && coding != "" {
		header.Del("Content-Encoding")
	}
	return []byte(body), nil
}

// restore puts the secrets of the original in the place of their placeholders.
func (i *Inspector) restore(what, edited, original string, spans []span) (string, error) {
	if i.cfg.ShowSecrets {
		return edited, nil
	}
	s, ok := reveal(edited, original, spans)
	if !ok {
		return "", fmt.Errorf("%s does not have its %s where they were: put a value in place of each, or take them all away", what, redacted)
	}
	return s, nil
}

func newRequest(method, target, host string, header http.Header, data []byte) (*http.Request, error) {
	if !httpguts.ValidHeaderFieldName(method) {
		return nil, fmt.Errorf("the method %.80q cannot be sent: use letters, such as POST", method)
	}
	u, err := url.ParseRequestURI(target)
	if err != nil || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || !strings.HasPrefix(target, "/") && target != "*" {
		return nil, fmt.Errorf("the path %.200q cannot be sent: it begins with a slash, and has no spaces or other characters that have to be escaped", target)
	}
	header.Del("Content-Length")
	header.Del("Transfer-Encoding")
	header.Del("Expect")
	req := &http.Request{
		Method: method, URL: u, RequestURI: target, Host: host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody,
	}
	if len(data) > 0 {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
		header.Set("Content-Length", fmt.Sprint(len(data)))
	}
	return req, nil
}

// equalHeaders compares what a replay sends again with what was sent; the length
// follows from the body.
func equalHeaders(a, b http.Header) bool {
	skip := func(name string) bool {
		return name == "Content-Length" || name == "Transfer-Encoding" || name == "Expect"
	}
	for name, values := range a {
		if !skip(name) && !slices.Equal(values, b[name]) {
			return false
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok && !skip(name) {
			return false
		}
	}
	return true
}

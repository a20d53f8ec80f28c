package relay

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sort"
	"strings"
	"testing"
	"time"
)

// The same exchanges through our handler and through httputil.ReverseProxy over http.Transport: where those do what a
// proxy must, clients and services see no difference.
func TestLikeReverseProxy(t *testing.T) {
	for _, request := range []string{
		"GET /plain HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nAccept-Encoding: gzip\r\nX-A: 1\r\nX-A: 2\r\n\r\n",
		"HEAD /plain HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /chunked HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"HEAD /chunked HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /empty HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /empty-chunks HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /204 HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /205 HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /304 HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nIf-None-Match: \"a\"\r\n\r\n",
		"GET /404 HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /302 HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nConnection: close\r\n\r\n",
		"GET /103 HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /trailers HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nTE: trailers\r\n\r\n",
		"GET /cookies HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /hop HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nProxy-Connection: 1\r\n\r\n",
		"GET /close HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /sse HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /gzip HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /plain HTTP/1.0\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"POST /plain HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nContent-Length: 5\r\n\r\nhello",
		"POST /plain HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nContent-Length: 0\r\n\r\n",
		"PUT /plain HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
		"DELETE /plain HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"PROPFIND /plain HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nContent-Length: 3\r\n\r\nabc",
		"POST /plain HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
		"GET /half-length HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /half-chunks HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
		"GET /reset HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
	} {
		line, _, _ := strings.Cut(request, "\r\n")
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			p := service(t, varied)
			ours := conversation(t, front(t, forwarder(p)), request)
			tr := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.Dial(ctx) }}
			defer tr.CloseIdleConnections()
			theirs := conversation(t, front(t, &httputil.ReverseProxy{
				Transport:     tr,
				FlushInterval: -1, // as we do: what there is of a body that breaks off is seen
				Rewrite: func(pr *httputil.ProxyRequest) {
					pr.SetURL(&url.URL{Scheme: "http", Host: "service"})
					pr.Out.Host = pr.In.Host
				},
				ErrorLog:     log.New(io.Discard, "", 0),
				ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(502) },
			}), request)
			if ours != theirs {
				t.Errorf("ours:   %s\ntheirs: %s", ours, theirs)
			}
		})
	}
}

// conversation sends a request and says what came back: every response, header by header, and how it ended.
func conversation(t *testing.T, addr, request string) string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, request)
	method, _, _ := strings.Cut(request, " ")
	var out strings.Builder
	r := bufio.NewReader(c)
	for {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			fmt.Fprintf(&out, "no response: %v", err)
			break
		}
		if res.StatusCode == 100 { // they say it twice
			continue
		}
		body, err := io.ReadAll(res.Body)
		if res.ContentLength == int64(len(body)) && method != "HEAD" && res.StatusCode == 200 { // a short stream has one with us
			res.Header.Del("Content-Length")
			res.ContentLength = -1
		}
		res.Header.Del("Date")
		res.Header.Del("X-Error")
		var lines []string
		for k, v := range res.Header {
			lines = append(lines, fmt.Sprint(k, v))
		}
		for k, v := range res.Trailer {
			lines = append(lines, fmt.Sprint("trailer ", k, v))
		}
		sort.Strings(lines)
		fmt.Fprintf(&out, "%s %d %v length %d close %v body %q %v; ", res.Proto, res.StatusCode, lines, res.ContentLength, res.Close, body, err)
		if res.StatusCode >= 200 {
			break
		}
	}
	return out.String()
}

// varied is a service with an answer of each kind, which says what it got.
func varied(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	body, err := "", error(nil)
	if r.URL.Path != "/404" {
		var b []byte
		b, err = io.ReadAll(r.Body)
		body = string(b)
	}
	got := fmt.Sprintf("%s %s %s %v %d %v %q %v", r.Method, r.RequestURI, r.Host, r.TransferEncoding, r.ContentLength, header(r.Header), body, err)
	rc := http.NewResponseController(w)
	h.Set("Content-Type", "text/plain")
	switch r.URL.Path {
	case "/plain":
		io.WriteString(w, got)
	case "/chunked":
		for part := range strings.SplitSeq(got, " ") {
			io.WriteString(w, part)
			rc.Flush()
		}
	case "/empty-chunks":
		rc.Flush()
	case "/204", "/205", "/304", "/404", "/302":
		h.Set("Etag", `"a"`)
		h.Set("Location", "/x")
		var status int
		fmt.Sscan(r.URL.Path[1:], &status)
		w.WriteHeader(status)
	case "/103":
		h.Set("Link", "</a>")
		w.WriteHeader(103)
		h.Del("Link")
		io.WriteString(w, got)
	case "/trailers":
		h.Set("Trailer", "X-A, X-B")
		io.WriteString(w, got)
		h.Set("X-A", "1")
		h.Set(http.TrailerPrefix+"X-C", "3")
	case "/cookies":
		h["Set-Cookie"] = []string{"b=2", "a=1"}
		io.WriteString(w, got)
	case "/hop":
		h.Set("Connection", "X-Gone")
		h.Set("X-Gone", "1")
		h.Set("Keep-Alive", "1")
		io.WriteString(w, got)
	case "/close":
		h.Set("Connection", "close")
		io.WriteString(w, got)
	case "/sse":
		h.Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: "+got+"\n\n")
	case "/gzip":
		h.Set("Content-Encoding", "gzip")
		io.WriteString(w, "not really")
	case "/half-length":
		h.Set("Content-Length", "1000")
		io.WriteString(w, got)
		rc.Flush()
		panic(http.ErrAbortHandler)
	case "/half-chunks":
		io.WriteString(w, got)
		rc.Flush()
		panic(http.ErrAbortHandler)
	case "/reset":
		panic(http.ErrAbortHandler)
	}
}

func header(h http.Header) string {
	var lines []string
	for k, v := range h {
		lines = append(lines, fmt.Sprint(k, v))
	}
	sort.Strings(lines)
	return strings.Join(lines, " ")
}

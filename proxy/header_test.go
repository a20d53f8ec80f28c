package proxy

import (
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"testing"
)

// seen is what a service got: the header's lines in order, without those that the test has no say in.
func seen(r *http.Request) string {
	var lines []string
	for name, values := range r.Header {
		if name == headerLoop && slices.Equal(values, valueLoop) {
			continue // every request has it
		}
		for _, v := range values {
			lines = append(lines, name+": "+v)
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "|")
}

func TestRequestHeaders(t *testing.T) { everyWay(t, testRequestHeaders) }

func testRequestHeaders(t *testing.T, newWorld worldMaker) {
	const own = "X-Forwarded-For: 127.0.0.1|X-Forwarded-Host: e.x|X-Forwarded-Proto: http|X-Request-Id: id"
	for _, tt := range []struct {
		name, header, want string
		trusted            bool
	}{
		{name: "nothing is added but our own", want: own},
		{name: "what a client claims is replaced",
			header: "X-Forwarded-For: 6.6.6.6|X-Forwarded-Proto: https|X-Forwarded-Host: evil|X-Forwarded-Port: 1|X-Real-IP: 6.6.6.6|Forwarded: for=6.6.6.6",
			want:   own},
		{name: "what a trusted proxy says is appended to", trusted: true,
			header: "X-Forwarded-For: 6.6.6.6|X-Forwarded-For: 7.7.7.7|X-Forwarded-Proto: https|X-Forwarded-Host: good|X-Real-IP: 6.6.6.6",
			want:   "X-Forwarded-For: 6.6.6.6, 7.7.7.7, 127.0.0.1|X-Forwarded-Host: good|X-Forwarded-Proto: https|X-Real-Ip: 6.6.6.6|X-Request-Id: id"},
		{name: "ours survive Connection", header: "Connection: x-forwarded-for, X-FORWARDED-HOST, X-Request-Id, x-piko-endpoint|X-Piko-Endpoint: e",
			want: strings.Replace(own, "X-Request-Id: id", "X-Piko-Endpoint: e|X-Request-Id: *", 1)},
		{name: "internal headers", header: "X-Piko-Forward: true|x-piko-miss: a|X-Piko-Endpoint: e|X-Piko-Authorization: Bearer x|X-Piko-: y",
			want: strings.Replace(own, "X-Request", "X-Piko-Endpoint: e|X-Request", 1)},
		{name: "names that look alike", header: "x_piko_endpoint: e2|X_Piko-Forward: 1|X_FORWARDED_FOR: 6.6.6.6|x_real_ip: 6|x_request_id: a|Transfer_Encoding: chunked|Content_Length: 3|my_header: stays",
			want: "My_header: stays|" + own},
		{name: "hop-by-hop and httpoxy", header: "Connection: x-a, keep-alive|X-A: 1|X-B: 2|Keep-Alive: 5|Proxy-Connection: x|Proxy-Authorization: x|Proxy: http://evil|TE: gzip|HTTP2-Settings: AAMA|Upgrade: h2c",
			want: "X-B: 2|" + own},
		{name: "h2c is no upgrade", header: "Connection: Upgrade, HTTP2-Settings|Upgrade: h2c|HTTP2-Settings: AAMA", want: own},
		{name: "upgrades that would hide requests", header: "Connection: Upgrade|Upgrade: HTTP/2.0, TLS/1.0, H2C", want: own},
		{name: "TE: trailers", header: "Connection: TE|TE: gzip;q=0.5, trailers", want: strings.Replace(own, "X-Forw", "Te: trailers|X-Forw", 1)},
		{name: "a user's credentials", header: "Authorization: Basic x|Cookie: a=b|User-Agent: me|Accept-Encoding: br",
			want: "Accept-Encoding: br|Authorization: Basic x|Cookie: a=b|User-Agent: me|" + own},
		{name: "a trace", header: "Traceparent: 00-1-2-01", want: "Traceparent: 00-1-2-01|" + own},
		{name: "a long request id", header: "X-Request-Id: " + strings.Repeat("a", 129), want: strings.Replace(own, ": id", ": *", 1)},
		{name: "a request id with a space", header: "X-Request-Id: a b", want: strings.Replace(own, ": id", ": *", 1)},
		{name: "two request ids", header: "X-Request-Id: a|X-Request-Id: b", want: strings.Replace(own, ": id", ": *", 1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) {
				o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
				if tt.trusted {
					o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")}
				}
			})
			w.serve("e", func(w http.ResponseWriter, r *http.Request) { ok(w, seen(r)) })
			header := tt.header
			if !strings.Contains(strings.ToLower(header), "request-id") {
				header += "|X-Request-Id: id"
			}
			lines := strings.ReplaceAll(strings.Trim(header, "|"), "|", "\r\n")
			answer := w.talk("GET / HTTP/1.1\r\nHost: e.x\r\n" + lines + "\r\nConnection: close\r\n\r\n")
			_, got, _ := strings.Cut(answer, "\r\n\r\n")
			if i := strings.Index(tt.want, "*"); i >= 0 && len(got) >= i+32 {
				if id := got[i : i+32]; !usableID(id) || strings.Trim(id, "0123456789abcdef") != "" {
					t.Errorf("request id %q", id)
				}
				got = got[:i] + "*" + got[i+32:]
			}
			if got != tt.want {
				t.Errorf("the service got\n%q, want\n%q", got, tt.want)
			}
		})
	}
}

// Only piko may say what x-piko-* says; an agent's own error is piko's.
func TestResponseHeaders(t *testing.T) { everyWay(t, testResponseHeaders) }

func testResponseHeaders(t *testing.T, newWorld worldMaker) {
	for _, tt := range []struct {
		name   string
		status int
		header http.Header
		want   http.Header
	}{
		{"internal headers", 200, http.Header{"X-Piko-Miss": {"a"}, "X-Piko-Error": {"no-upstream"}, "X-Piko-Endpoint": {"e"}, "X-A": {"b"}}, http.Header{"X-A": {"b"}}},
		{"a bare 421", 421, http.Header{"X-Piko-Miss": {"draining"}}, http.Header{}},
		{"an agent's error", 502, http.Header{"X-Piko-Error": {"upstream-unreachable"}}, http.Header{"X-Piko-Error": {"upstream-unreachable"}}},
		{"an agent's error with another status", 200, http.Header{"X-Piko-Error": {"upstream-unreachable"}}, http.Header{}},
		{"a node's error", 502, http.Header{"X-Piko-Error": {"no-upstream"}}, http.Header{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.serve("e", func(w http.ResponseWriter, r *http.Request) {
				maps.Copy(w.Header(), tt.header)
				w.WriteHeader(tt.status)
			})
			status, _, res := w.do("GET", "/", nil)
			res.Header.Del("Date")
			res.Header.Del("Content-Length")
			if status != tt.status || len(res.Header) != len(tt.want) || res.Header.Get("X-Piko-Error") != tt.want.Get("X-Piko-Error") || res.Header.Get("X-A") != tt.want.Get("X-A") {
				t.Errorf("got %d %v, want %d %v", status, res.Header, tt.status, tt.want)
			}
		})
	}
}

package proxy

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// What a handler can see of malformed requests: 400 with the connection closed, and nothing reaches a service.
func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	parsedWays(t, testMalformedRequests)
}

func testMalformedRequests(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	var reached atomic.Int32
	for _, e := range []string{"e1", "e2", "e"} {
		w.serve(e, func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				reached.Add(1)
			}
		})
	}
	const ep = "X-Piko-Endpoint: e\r\n"
	for _, tt := range []struct{ name, request, status, code string }{
		{"CONNECT", "CONNECT e1.example.com:80 HTTP/1.1\r\nHost: e1.example.com:80\r\n\r\n", "405", "method-not-allowed"},
		{"CONNECT with a path", "CONNECT /x HTTP/1.1\r\nHost: e1.example.com:80\r\n\r\n", "405", "method-not-allowed"},
		{"authority form", "GET e2.example.com:80 HTTP/1.1\r\nHost: e1.example.com\r\n\r\n", "400", ""},
		{"another scheme", "GET ftp://e2.example.com/ HTTP/1.1\r\nHost: e1.example.com\r\n\r\n", "400", "malformed-request"},
		{"userinfo", "GET http://u:p@e2.example.com/ HTTP/1.1\r\nHost: e1.example.com\r\n\r\n", "400", "malformed-request"},
		{"asterisk with GET", "GET * HTTP/1.1\r\nHost: e1.example.com\r\n\r\n", "400", "malformed-request"},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", ""},
		{"fragment", "GET /a#b HTTP/1.1\r\nHost: e1.example.com\r\n\r\n", "400", "malformed-request"},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n" + ep + "\r\n", "400", "malformed-request"},
		{"two hosts in one", "GET / HTTP/1.1\r\nHost: e1.example.com,e2.example.com\r\n\r\n", "400", "malformed-request"},
		{"percent in host", "GET / HTTP/1.1\r\nHost: e1%2eexample.com\r\n" + ep + "\r\n", "400", "malformed-request"},
		{"port out of range", "GET / HTTP/1.1\r\nHost: e1.example.com:99999999\r\n\r\n", "400", "malformed-request"},
		{"port of letters", "GET / HTTP/1.1\r\nHost: e1.example.com:abc\r\n\r\n", "400", "malformed-request"},
		{"port alone", "GET / HTTP/1.1\r\nHost: :80\r\n" + ep + "\r\n", "400", "malformed-request"},
		{"bad address", "GET / HTTP/1.1\r\nHost: [::g]\r\n" + ep + "\r\n", "400", "malformed-request"},
		{"long method", strings.Repeat("G", 33) + " / HTTP/1.1\r\nHost: e1.example.com\r\n\r\n", "400", "malformed-request"},
		{"upgrade to rubbish", "GET / HTTP/1.1\r\nHost: e1.example.com\r\nConnection: Upgrade\r\nUpgrade: w\xc3\xa9b\r\n\r\n", "400", "malformed-request"},
		{"two endpoints", "GET / HTTP/1.1\r\nHost: a\r\n" + ep + ep + "\r\n", "400", "invalid-endpoint"},
		{"a list of endpoints", "GET / HTTP/1.1\r\nHost: a\r\nX-Piko-Endpoint: e1, e2\r\n\r\n", "400", "invalid-endpoint"},
		{"an empty endpoint", "GET / HTTP/1.1\r\nHost: e1.example.com\r\nX-Piko-Endpoint:\r\n\r\n", "400", "missing-endpoint"},
		{"a long endpoint", "GET / HTTP/1.1\r\nHost: a\r\nX-Piko-Endpoint: " + strings.Repeat("a", 300) + "\r\n\r\n", "400", "invalid-endpoint"},
		{"a path as endpoint", "GET / HTTP/1.1\r\nHost: a\r\nX-Piko-Endpoint: ../e1\r\n\r\n", "400", "invalid-endpoint"},
		{"no endpoint", "GET / HTTP/1.1\r\nHost: localhost:8000\r\n\r\n", "400", "missing-endpoint"},
		{"IPv4 as host", "GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n", "400", "missing-endpoint"},
		{"IPv6 as host", "GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", "400", "missing-endpoint"},
		{"reserved path", "GET /_piko/v1/cluster/log HTTP/1.1\r\nHost: e1.example.com\r\n\r\n", "404", "reserved-path"},
		{"reserved path, escaped", "GET /%5fpiko/x HTTP/1.1\r\nHost: e1.example.com\r\n\r\n", "404", "reserved-path"},
		{"reserved prefix", "GET /_piko HTTP/1.1\r\nHost: e1.example.com\r\n\r\n", "404", "reserved-path"},
		{"bad chunk", "POST / HTTP/1.1\r\nHost: e1.example.com\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "400", "malformed-request"},
		{"bad second chunk", "POST / HTTP/1.1\r\nHost: e1.example.com\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n-1\r\n", "400", "malformed-request"},
		{"chunk without end", "POST / HTTP/1.1\r\nHost: e1.example.com\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", "400", "malformed-request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reached.Store(0)
			smuggled := "GET /next HTTP/1.1\r\nHost: e1.example.com\r\nConnection: close\r\n\r\n"
			got := w.talk(tt.request + smuggled)
			if tt.status != "" && !strings.HasPrefix(got, "HTTP/1.1 "+tt.status+" ") {
				t.Errorf("got %q, want status %s", got, tt.status)
			}
			if tt.code != "" && !strings.Contains(got, "X-Piko-Error: "+tt.code+"\r\n") {
				t.Errorf("got %q, want code %s", got, tt.code)
			}
			if framing := tt.code == "malformed-request" || tt.code == "method-not-allowed"; framing {
				if !strings.Contains(got, "Connection: close\r\n") || strings.Count(got, "HTTP/1.1 ") != 1 || reached.Load() != 0 {
					t.Errorf("the connection went on, %d requests reached a service: %q", reached.Load(), got)
				}
			}
		})
	}
}

// Requests that look odd but are in order reach their service, and their target as it came.
func TestTargetsPassAsTheyAre(t *testing.T) { everyWay(t, testTargetsPassAsTheyAre) }

func testTargetsPassAsTheyAre(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	for _, e := range []string{"e", "e2"} {
		w.serve(e, func(w http.ResponseWriter, r *http.Request) { ok(w, e+" "+r.Method+" "+r.RequestURI+" "+r.Host) })
	}
	for _, tt := range []struct{ request, want string }{
		{"GET / HTTP/1.1\r\nHost: e.example.com\r\n\r\n", "e GET / e.example.com"},
		{"GET / HTTP/1.1\r\nHost: E.Example.COM.:8000\r\n\r\n", "e GET / E.Example.COM.:8000"},
		{"GET / HTTP/1.1\r\nHost: e2.example.com\r\nX-Piko-Endpoint: E\r\n\r\n", "e GET / e2.example.com"},
		{"GET / HTTP/1.1\r\nHost: [::1]:80\r\nX-Piko-Endpoint: e\r\n\r\n", "e GET / [::1]:80"},
		{"GET / HTTP/1.1\r\nHost: e.example.com:\r\n\r\n", "e GET / e.example.com:"},
		{"GET //a/../b/%2F%00;x?a=1;b=2&c=%zz&d=%&e=+ HTTP/1.1\r\nHost: e.x\r\n\r\n", "e GET //a/../b/%2F%00;x?a=1;b=2&c=%zz&d=%&e=+ e.x"},
		{"GET /\\\xc3\xbc?\\\xc3\xbc HTTP/1.1\r\nHost: e.x\r\n\r\n", "e GET /\\\xc3\xbc?\\\xc3\xbc e.x"},
		{"GET http://e2.example.com/a?b HTTP/1.1\r\nHost: e.example.com\r\n\r\n", "e2 GET /a?b e2.example.com"},
		{"GET http://e2.example.com HTTP/1.1\r\nHost: e.example.com\r\n\r\n", "e2 GET / e2.example.com"},
		{"GET HTTP://e2.example.com?a HTTP/1.1\r\nHost: e.example.com\r\n\r\n", "e2 GET /?a e2.example.com"},
		{"OPTIONS * HTTP/1.1\r\nHost: e.example.com\r\n\r\n", "e OPTIONS * e.example.com"},
		{"get /_pikoo HTTP/1.1\r\nHost: e.example.com\r\n\r\n", "e get /_pikoo e.example.com"},
		{"G!T /x/_piko/ HTTP/1.1\r\nHost: e.example.com\r\n\r\n", "e G!T /x/_piko/ e.example.com"},
		{"GET / HTTP/1.0\r\nX-Piko-Endpoint: e\r\n\r\n", "e GET / "},
	} {
		got := w.talk(strings.TrimSuffix(tt.request, "\r\n") + "Connection: close\r\n\r\n")
		if !strings.HasSuffix(got, "\r\n\r\n"+tt.want) || !strings.Contains(got, " 200 OK\r\n") {
			t.Errorf("%q: got %q, want %q", tt.request, got, tt.want)
		}
	}
}

// With --proxy.domain other hosts name no endpoint.
func TestDomains(t *testing.T) { parsedWays(t, testDomains) }

func testDomains(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, func(o *Options) { o.Domains = []string{"Example.com", ".tunnels.example.org."} })
	w.serve("e", func(w http.ResponseWriter, r *http.Request) { ok(w, "e") })
	for host, want := range map[string]string{
		"e.example.com": "200", "E.EXAMPLE.COM:80": "200", "e.example.com.": "200", "e.tunnels.example.org": "200",
		"e.a.example.com": "400", "example.com": "400", "e.example.net": "400", "e.com": "400", "e": "400",
	} {
		if got := w.talk("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" + closing); !strings.HasPrefix(got, "HTTP/1.1 "+want+" ") {
			t.Errorf("%s: got %q, want %s", host, got, want)
		}
	}
	if got := w.talk("GET / HTTP/1.1\r\nHost: other.net\r\nX-Piko-Endpoint: e\r\n\r\n" + closing); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("with the header: got %q", got)
	}
	if _, err := NewPublic(Options{Lookup: w.table.Lookup, Domains: []string{"."}}); err == nil {
		t.Error("a domain without a name was accepted")
	}
}

//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// ask is the head of a request of a conversation; more are fields with their line ends.
func ask(start, name string, more ...string) string {
	return start + "\r\nHost: e.example.com\r\n" + to("e") + "\r\n" + talkHeader + ": " + name + "\r\n" + strings.Join(more, "") + "\r\n"
}

// simple is one request and one answer.
func simple(name, start, more, body, answer string) rawTalk {
	method, _, _ := strings.Cut(start, " ")
	return rawTalk{
		name: name,
		client: func(c *talker) {
			c.send(ask(start, name, more) + body)
			c.response(method)
		},
		service: func(e *served) bool {
			e.body().rest()
			e.send(answer)
			// Not to hang up unasked: a request on its way would fail, and with it its talk.
			return !strings.HasSuffix(answer, "until the end") && !strings.HasPrefix(name, "half")
		},
	}
}

const okay = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

var rawTalks = append(append(methodTalks(), targetTalks()...), []rawTalk{
	simple("HEAD", "HEAD /a HTTP/1.1", "", "", "HTTP/1.1 200 OK\r\nContent-Length: 300\r\nETag: \"x\"\r\n\r\n"),
	simple("HEAD of a body without length", "HEAD / HTTP/1.1", "", "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
	simple("204", "DELETE / HTTP/1.1", "", "", "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"),
	simple("304", "GET / HTTP/1.1", "If-None-Match: \"x\"\r\n", "", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nCache-Control: no-cache\r\nContent-Type: a/b\r\nContent-Length: 300\r\n\r\n"),
	simple("unknown status", "GET / HTTP/1.1", "", "", "HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n"),
	simple("two Set-Cookie", "GET / HTTP/1.1", "Cookie: a=b; c=d\r\n", "", "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/, x\r\nX-B: 1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"),
	simple("fields as they are", "GET / HTTP/1.1", "Authorization: Basic eDp5\r\nX-Latin: \xe9\r\nAccept-Encoding: br\r\nRange: bytes=0-1\r\nTE: trailers\r\n", "",
		"HTTP/1.1 206 Partial Content\r\nServer: s\r\nX-Latin: \xe9\r\nX-Empty:\r\nContent-Encoding: br\r\nContent-Range: bytes 0-1/9\r\nVary: *\r\nContent-Length: 2\r\n\r\n\x8b\x00"),
	simple("no Content-Type", "GET / HTTP/1.1", "", "", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
	simple("chunks both ways", "POST / HTTP/1.1", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n1;ext=1\r\nd\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\nA\r\n0123456789\r\n0\r\n\r\n"),
	simple("no length", "GET / HTTP/1.1", "", "", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end"),
	simple("trailers", "GET / HTTP/1.1", "TE: trailers\r\n", "",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n3\r\nabc\r\n0\r\nX-A: b\r\nX-Unannounced: c\r\n\r\n"),
	simple("trailers of a request", "POST / HTTP/1.1", "Transfer-Encoding: chunked\r\nTrailer: X-A\r\n", "3\r\nabc\r\n0\r\nX-A: b\r\n\r\n", okay),
	simple("unannounced trailers of a request", "POST / HTTP/1.1", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n", okay),
	simple("103", "GET / HTTP/1.1", "", "", "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"+okay),
	simple("HTTP/1.0", "GET / HTTP/1.0", "", "", okay),
	simple("HTTP/1.0 and chunks", "GET / HTTP/1.0", "", "", "HTTP/1.0 200 OK\r\n\r\nuntil the end"),
	simple("HTTP/1.0 with a body", "POST / HTTP/1.0", "Content-Length: 3\r\n", "abc", okay),
	simple("HTTP/1.0 service", "GET / HTTP/1.1", "", "", "HTTP/1.0 200 OK\r\n\r\nuntil the end"),
	simple("900 KB header", "GET / HTTP/1.1", "X-Long: "+strings.Repeat("0123456789", 90_000)+"\r\n", "", okay),
	simple("240 KB header of a response", "GET / HTTP/1.1", "", "", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: "+strings.Repeat("0123456789", 24_000)+"\r\n\r\n"),
	simple("half a body by length", "GET / HTTP/1.1", "", "", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
	simple("half a body by chunks", "GET / HTTP/1.1", "", "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
	resetting("reset half-way by length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
	resetting("reset half-way by chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
	{
		name: "100 Continue",
		client: func(c *talker) {
			c.send(ask("PUT / HTTP/1.1", "100 Continue", "Expect: 100-continue\r\nContent-Length: 5\r\n"))
			c.interim()
			c.send("hello")
			c.response("PUT")
		},
		service: func(e *served) bool {
			e.send("HTTP/1.1 100 Continue\r\n\r\n")
			e.body().rest()
			e.send(okay)
			return true
		},
	},
	{
		name: "100-continue refused",
		client: func(c *talker) {
			c.send(ask("PUT / HTTP/1.1", "100-continue refused", "Expect: 100-continue\r\nContent-Length: 5000000\r\n"))
			c.response("PUT")
		},
		service: func(e *served) bool {
			e.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
			return false
		},
	},
	{
		name: "upload answered early",
		client: func(c *talker) {
			c.send(ask("PUT / HTTP/1.1", "upload answered early", "Content-Length: 50000000\r\n"))
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for piece, i := make([]byte, 50_000), 0; i < 1000; i++ {
					if _, err := c.Write(piece); err != nil {
						return
					}
				}
			}()
			c.response("PUT")
			c.Close()
			<-sent
		},
		service: func(e *served) bool {
			e.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
			e.Conn.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, e.r) // as good servers do, so that the answer is not lost
			return false
		},
	},
	{
		name: "pipelining",
		client: func(c *talker) {
			first, rest := ask("GET /1 HTTP/1.1", "pipelining"), ask("POST /2 HTTP/1.1", "pipelining", "Content-Length: 3\r\n")+"abc"+ask("GET /3 HTTP/1.1", "pipelining")
			c.send(first + rest)
			for range 3 {
				c.response("GET")
			}
		},
		service: func(e *served) bool {
			e.body().rest()
			e.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(e.start), e.start))
			return true
		},
	},
	{
		name: "full duplex",
		client: func(c *talker) {
			c.send(ask("POST / HTTP/1.1", "full duplex", "Transfer-Encoding: chunked\r\n") + "1\r\n0\r\n")
			body := c.begin("POST")
			for i := range 5 {
				body.want(1)
				c.send(fmt.Sprintf("1\r\n%d\r\n", i+1))
			}
			body.want(1)
			c.send("0\r\n\r\n")
			body.rest()
		},
		service: func(e *served) bool {
			in := e.body()
			e.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for range 6 {
				in.want(1)
				e.send("1\r\nx\r\n")
			}
			in.rest()
			e.send("0\r\n\r\n")
			return true
		},
	},
	{
		name: "upload broken off",
		client: func(c *talker) {
			c.send(ask("PUT / HTTP/1.1", "upload broken off", "Content-Length: 100\r\n") + "abc")
			<-c.met
		},
		service: func(e *served) bool {
			in := e.body()
			in.want(3)
			close(e.met)
			in.rest()
			return false
		},
	},
	{
		name: "upgrade",
		client: func(c *talker) {
			c.send(ask("GET / HTTP/1.1", "upgrade", "Connection: Upgrade\r\nUpgrade: chat/2\r\n") + "early")
			c.response("GET")
			c.saw.note("first %q", c.take(8))
			c.send(", late")
			c.Conn.(*net.TCPConn).CloseWrite()
			c.saw.note("rest %q", c.wantClosed(20*time.Second))
		},
		service: func(e *served) bool {
			e.send("HTTP/1.1 101 Go On\r\nConnection: upgrade\r\nUpgrade: chat/2\r\nX-A: b\r\n\r\nat once,")
			e.saw.note("got %q", e.wantClosed(20*time.Second))
			e.send(" and more behind your end")
			return false
		},
	},
	{
		name: "upgrade with a body",
		client: func(c *talker) {
			c.send(ask("POST / HTTP/1.1", "upgrade with a body", "Connection: Upgrade\r\nUpgrade: chat/2\r\nContent-Length: 4\r\n") + "bodyearly")
			c.response("POST")
			c.Conn.(*net.TCPConn).CloseWrite()
			c.saw.note("rest %q", c.wantClosed(20*time.Second))
		},
		service: func(e *served) bool {
			e.body().rest()
			e.send("HTTP/1.1 101 Go On\r\nConnection: upgrade\r\nUpgrade: chat/2\r\n\r\nhello")
			e.saw.note("got %q", e.wantClosed(20*time.Second))
			return false
		},
	},
	{
		name: "upgrade that the service ends first",
		client: func(c *talker) {
			c.send(ask("GET / HTTP/1.1", "upgrade that the service ends first", "Connection: Upgrade\r\nUpgrade: chat/2\r\n"))
			c.response("GET")
			c.saw.note("rest %q", c.wantClosed(20*time.Second))
			c.send("and still a word")
			c.Conn.(*net.TCPConn).CloseWrite()
			<-c.met // our end of the connection closes behind this
		},
		service: func(e *served) bool {
			e.send("HTTP/1.1 101 Go On\r\nConnection: upgrade\r\nUpgrade: chat/2\r\n\r\nall")
			e.Conn.(*net.TCPConn).CloseWrite()
			e.saw.note("got %q", e.wantClosed(20*time.Second))
			close(e.met)
			return false
		},
	},
	simple("upgrade refused", "GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: chat/2\r\n", "", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno"),
	simple("upgrade not taken", "GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: chat/2\r\n", "", okay),

	// What follows differs.
	{
		name: "bytes left over by a service", // would be the answer to another request
		client: func(c *talker) {
			c.send(ask("GET /1 HTTP/1.1", "bytes left over by a service"))
			c.response("GET")
			c.send(ask("GET /2 HTTP/1.1", "bytes left over by a service"))
			c.response("GET")
		},
		service: func(e *served) bool {
			e.send(okay + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			return true
		},
		instead: strings.Repeat("response 200\n\nbody \"ok\" \n", 2),
	},
	{
		name: "CONNECT", // would make a tunnel into the network of the service
		client: func(c *talker) {
			c.send("CONNECT e.example.com:80 HTTP/1.1\r\nHost: e.example.com:80\r\n" + to("e") + "\r\n\r\n")
			c.begin("GET")
		},
		instead: "response 405\n",
	},
	{
		name: "900 KB header of a response", // is bounded, since a node holds it as a whole
		client: func(c *talker) {
			c.send(ask("GET / HTTP/1.1", "900 KB header of a response"))
			c.begin("GET")
		},
		service: func(e *served) bool {
			e.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: " + strings.Repeat("0123456789", 90_000) + "\r\n\r\n")
			return false
		},
		instead: "response 502\n",
	},
}...)

func methodTalks() (talks []rawTalk) {
	for _, m := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "G!t-ME"} {
		talks = append(talks, simple("method "+m, m+" / HTTP/1.1", "Content-Length: 3\r\n", "abc", okay))
	}
	return append(talks, simple("OPTIONS *", "OPTIONS * HTTP/1.1", "", "", okay))
}

func targetTalks() (talks []rawTalk) {
	for i, target := range []string{
		"/a//b/../c/./d", "/%2F%2f..%2f", "/%00%ff", "/?a=1;b=2&c=%zz&d=%&e=+", "/?", "/??a", "/a?b?c", "/;a=b;c", "/\\a\\", "/{a}|^`\"<>", "//host/path", "/*",
		"/" + strings.Repeat("a", 60_000), "/?" + strings.Repeat("a=b&", 15_000),
	} {
		talks = append(talks, simple(fmt.Sprintf("target %d", i), "GET "+target+" HTTP/1.1", "", "", okay))
	}
	return talks
}

// resetting is a service that breaks off behind three bytes of its body, and does not even end the connection in order.
func resetting(name, answer string) rawTalk {
	return rawTalk{
		name: name,
		client: func(c *talker) {
			c.send(ask("GET / HTTP/1.1", name))
			body := c.begin("GET")
			body.want(3)
			close(c.met)
			body.rest()
		},
		service: func(e *served) bool {
			e.send(answer)
			<-e.met
			e.Conn.(*net.TCPConn).SetLinger(0)
			return false
		},
	}
}

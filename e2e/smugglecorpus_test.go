//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// damaged returns what a client sends: requests of which one is damaged, and behind them one that asks for the end of the
// connection. All their targets begin with the client's name, those too that only stand in a body.
func damaged(rnd *rand.Rand, owner string) string {
	var b strings.Builder
	for n := range rnd.IntN(3) {
		b.WriteString(ordinary(rnd, owner, fmt.Sprintf("before%d", n)))
	}
	b.WriteString(damage(rnd, owner, ordinary(rnd, owner, "damaged")))
	for n := range rnd.IntN(2) {
		b.WriteString(ordinary(rnd, owner, fmt.Sprintf("behind%d", n)))
	}
	fmt.Fprintf(&b, "GET /%s/last HTTP/1.1\r\nHost: h\r\nx-piko-endpoint: e\r\nConnection: close\r\n\r\n", owner)
	return b.String()
}

// inner is a request that stands in a body.
func inner(owner string) string {
	return fmt.Sprintf("GET /%s/inner HTTP/1.1\r\nHost: h\r\nx-piko-endpoint: e\r\n\r\n", owner)
}

func ordinary(rnd *rand.Rand, owner, name string) string {
	head := fmt.Sprintf(" /%s/%s HTTP/1.1\r\nHost: h\r\nx-piko-endpoint: e\r\n", owner, name)
	body := []string{"", "x", "0\r\n\r\n", inner(owner), "0\r\n\r\n" + inner(owner), "1\r\nZ\r\n0\r\n\r\n" + inner(owner)}[rnd.IntN(6)]
	switch rnd.IntN(4) {
	case 0:
		return "GET" + head + "\r\n"
	case 1:
		return "POST" + head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body
	default:
		chunks := ""
		if body != "" {
			chunks = fmt.Sprintf("%x\r\n%s\r\n", len(body), body)
		}
		return "POST" + head + "Transfer-Encoding: chunked\r\n\r\n" + chunks + "0\r\n\r\n"
	}
}

// framings are fields that say where a body ends, or look like it. N is a number.
var framings = []string{
	"Content-Length: N", "Content-Length: N, N", "Content-Length: +N", "Content-Length: -N", "Content-Length:\tN", "Content-Length : N",
	" Content-Length: N", "Content-Length: N ", "Content-Length: 0N", "Content-Length: 0xN", "Content-Length: N.0", "Content-Length:", "Content_Length: N",
	"content-length: N\r\ncontent-length: N", "Content-Length: 1N", "Content-Length: N\r\n ", "Content-Length\x00: N", "Content-Length: N\x0b",
	"Transfer-Encoding: chunked", "transfer-encoding: CHUNKED", "Transfer-Encoding : chunked", "Transfer-Encoding:chunked", "Transfer-Encoding:\tchunked",
	"Transfer-Encoding: xchunked", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked", "Transfer-Encoding: identity",
	"Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: chunked;q=1",
	"Transfer-Encoding:\r\n chunked", "Transfer-Encoding: chun\r\n ked", "X: a\r\n\tTransfer-Encoding: chunked", "X: a\nTransfer-Encoding: chunked",
	"X: a\rTransfer-Encoding: chunked", "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: chunked\x00", "Transfer-Encoding\x0b: chunked",
	"Transfer_Encoding: chunked", "Transfer-Encoding:", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "TE: chunked",
	"Connection: Content-Length", "Connection: Transfer-Encoding", "Connection: close, Transfer-Encoding", "Connection: keep-alive", "Expect: 100-continue",
	"Upgrade: h2c\r\nConnection: Upgrade", "Upgrade: websocket\r\nConnection: Upgrade", "Trailer: Content-Length", "Host: other", "Max-Forwards: 0",
}

// damage damages the request once to three times.
func damage(rnd *rand.Rand, owner, request string) string {
	for range 1 + rnd.IntN(3) {
		head, body, _ := strings.Cut(request, "\r\n\r\n")
		switch rnd.IntN(10) {
		case 0, 1, 2, 3:
			field := strings.ReplaceAll(framings[rnd.IntN(len(framings))], "N", fmt.Sprint(rnd.IntN(len(body)+10)))
			lines := strings.Split(head, "\r\n")
			at := 1 + rnd.IntN(len(lines))
			lines = append(lines[:at:at], append([]string{field}, lines[at:]...)...)
			request = strings.Join(lines, "\r\n") + "\r\n\r\n" + body
		case 4:
			request = swap(rnd, head, "\r\n", "\n", "\r", "\r\r\n", "\n\r\n", "\r\n\r\n") + "\r\n\r\n" + body
		case 5:
			request = head + "\r\n\r\n" + swap(rnd, body, "\r\n", "\n", "\r", "\r\r\n", " \r\n", ";a\r\n", ";\n\r\n", "")
		case 6:
			request = head + "\r\n\r\n" + swap(rnd, body, "0\r\n", "00\r\n", "0 \r\n", "-0\r\n", "0;x\r\n", "0x0\r\n", "0\r\nContent-Length: 5\r\n", "0\r\nX: y\r\n z\r\n", "00000000000000000\r\n")
		case 7:
			request = swap(rnd, head, "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/0.9", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/1.1\t") + "\r\n\r\n" + body
		case 8:
			request = swap(rnd, head, " /"+owner, " http://h/"+owner, "  /"+owner, "\t/"+owner, " //"+owner, " /"+owner+"/x y", " /"+owner+"#") + "\r\n\r\n" + body
		case 9: // bytes anywhere, but for the client's name
			at := rnd.IntN(len(request))
			if !strings.Contains(request[max(0, at-len(owner)):min(len(request), at+len(owner))], owner) {
				request = request[:at] + string("\r\n \t:;0\x00\x0b\x80,"[rnd.IntN(11)]) + request[at+rnd.IntN(2):]
			}
		}
	}
	return request
}

// swap puts something else in the place of one occurrence of a text.
func swap(rnd *rand.Rand, s, old string, others ...string) string {
	n := strings.Count(s, old)
	if n == 0 {
		return s
	}
	parts := strings.SplitAfterN(s, old, 1+rnd.IntN(n)+1)
	last := len(parts) - 2
	parts[last] = strings.TrimSuffix(parts[last], old) + others[rnd.IntN(len(others))]
	return strings.Join(parts, "")
}

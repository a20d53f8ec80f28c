package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// FuzzClientBytes sends any bytes to the proxy port. What reaches a service is well-formed, and no more requests than
// a reader of the bytes finds: nothing was split in two, and no rest of one was taken for another.
func FuzzClientBytes(f *testing.F) { fuzzClientBytes(f, noHop) }

// FuzzClientBytesWithHop does so with the service at another node.
func FuzzClientBytesWithHop(f *testing.F) { fuzzClientBytes(f, oneOwner) }

// FuzzClientBytesWithLanes does so with lanes there.
func FuzzClientBytesWithLanes(f *testing.F) { fuzzClientBytes(f, laneOwner) }

func fuzzClientBytes(f *testing.F, how way) {
	const head = "POST /a HTTP/1.1\r\nHost: e.x\r\n"
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: e.x\r\n\r\nGET / HTTP/1.1\r\nHost: e.x\r\n\r\n",
		head + "Content-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: e.x\r\n\r\n",
		head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: e.x\r\n\r\n",
		head + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: e.x\r\n\r\n",
		head + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		head + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.0\r\nHost: e.x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: e.x\r\n\r\n",
		"GET / HTTP/1.1\nHost: e.x\n\nGET http://e.x/?a HTTP/1.1\r\nHost: a\r\nConnection: x-b\r\nX-B: c\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: e.x\r\nTE: trailers\r\nX_A: b\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: e.x\r\nX-Piko-Route: f\r\nX_Piko_Route: f\r\nX-Piko-Expect: hop\r\nConnection: x-piko-attempts\r\nX-Piko-Attempts: 9\r\n\r\n",
		head + "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n1;a=b\r\nx\r\n0\r\nX-A: b\r\nContent-Length: 9\r\n\r\n",
	} {
		f.Add(s)
	}
	w := newWorldFor(f, how, nil)
	var requests sync.Map // of each client, by the address that the proxy says it has
	l := w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
		for {
			if _, err := r.Peek(1); err != nil {
				return
			}
			req, err := http.ReadRequest(r)
			if err != nil {
				if !brokenOff(err) {
					f.Errorf("malformed bytes reached a service: %v", err)
				}
				return
			}
			n, _ := requests.LoadOrStore(req.Header.Get("X-Forwarded-For"), new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				if !brokenOff(err) {
					f.Errorf("a malformed body reached a service: %v", err)
				}
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	var clients atomic.Uint32
	clients.Store(1)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4<<10 {
			return
		}
		n := clients.Add(1)
		ip := net.IPv4(127, byte(n>>16), byte(n>>8), byte(n))
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}}).Dial("tcp", w.addr)
		if err != nil {
			t.Skip(err) // not every system has all of 127/8
		}
		defer c.Close()
		io.WriteString(c, text)
		c.(*net.TCPConn).CloseWrite()
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && !brokenOff(err) {
			t.Errorf("%q: %v", text, err)
		}
		eventually(t, idle(l))
		got, _ := requests.LoadAndDelete(ip.String())
		if got == nil {
			return
		}
		if got, most := got.(*atomic.Int64).Load(), countRequests(text); got > most {
			t.Errorf("%q: %d requests reached a service, there are %d", text, got, most)
		}
	})
}

// brokenOff says that a connection ended in the middle, as a request does that was given up.
func brokenOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// countRequests is how many requests start in a text, the last one perhaps not whole.
func countRequests(text string) (n int64) {
	r := bufio.NewReader(strings.NewReader(text))
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return n
		}
		n++
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return n
		}
		if req.Method == http.MethodPost { // RFC 9112, section 2.2: some old clients add a line end
			for b, err := r.Peek(1); err == nil && (b[0] == '\r' || b[0] == '\n'); b, err = r.Peek(1) {
				r.Discard(1)
			}
		}
	}
}

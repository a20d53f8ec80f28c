package proxy

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// talks are conversations in which a hop must make no difference: what the client sends, and what the service answers
// once it has the head of the request. With "read" it reads the request's body first; then it closes the connection.
var talks = []struct {
	name, request, answer string
	read                  bool
}{
	{name: "length", request: "GET /a?b=%zz&c;d HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: 1\r\nX-A: 2\r\n\r\nabc"},
	{name: "target as it is", request: "GET /%2F..//a/%00/\\?%gg HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 204 No Content\r\n\r\n"},
	{name: "absolute target", request: "GET http://e.x HTTP/1.1\r\nHost: other.x\r\n\r\n", answer: "HTTP/1.1 204 No Content\r\n\r\n"},
	{name: "OPTIONS *", request: "OPTIONS * HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n"},
	{name: "odd method", request: "G!t-ME / HTTP/1.1\r\nHost: e.x\r\nContent-Length: 2\r\n\r\nab", read: true, answer: "HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n"},
	{name: "no length", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: a/b\r\n\r\nuntil the end"},
	{name: "old service", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.0 200 OK\r\n\r\nuntil the end"},
	{name: "old client", request: "GET / HTTP/1.0\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"},
	{name: "old client without host", request: "GET / HTTP/1.0\r\nX-Piko-Endpoint: e\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"},
	{name: "HEAD", request: "HEAD / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n"},
	{name: "HEAD of chunks", request: "HEAD / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
	{name: "304", request: "GET / HTTP/1.1\r\nHost: e.x\r\nIf-None-Match: a\r\n\r\n", answer: "HTTP/1.1 304 Not Modified\r\nETag: a\r\nContent-Length: 300\r\n\r\n"},
	{name: "205", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n"},
	{name: "hints", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n",
		answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Piko-Miss: a\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	{name: "most hints", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 16) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	{name: "too many hints", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 17) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	{name: "hints before a long body", request: "POST / HTTP/1.1\r\nHost: e.x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", read: true,
		answer: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 16) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	{name: "trailers", request: "GET / HTTP/1.1\r\nHost: e.x\r\nTE: trailers\r\n\r\n",
		answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A, Content-Length\r\n\r\n3\r\nabc\r\n0\r\nX-A: b\r\nX-Unannounced: c\r\nX-Piko-Miss: d\r\nContent-Length: 3\r\n\r\n"},
	{name: "request trailers", request: "POST / HTTP/1.1\r\nHost: e.x\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n3\r\nabc\r\n0\r\nX-A: b\r\n\r\n", read: true,
		answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	{name: "early answer", request: "POST / HTTP/1.1\r\nHost: e.x\r\nContent-Length: 10\r\n\r\nabc", answer: "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"},
	{name: "early answer to chunks", request: "POST / HTTP/1.1\r\nHost: e.x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", answer: "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"},
	{name: "expectation refused", request: "POST / HTTP/1.1\r\nHost: e.x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n", answer: "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"},
	{name: "long expectation refused", request: "POST / HTTP/1.1\r\nHost: e.x\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n", answer: "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"},
	{name: "half of a length", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"},
	{name: "half of the chunks", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"},
	{name: "half for an old client", request: "GET / HTTP/1.0\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"},
	{name: "half a head", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent"},
	{name: "hint and no answer", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"},
	{name: "gRPC without an answer", request: "POST /a/b HTTP/1.1\r\nHost: e.x\r\nContent-Type: application/grpc\r\nContent-Length: 3\r\n\r\nabc", read: true},
	{name: "a bare 421", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 421 Misdirected\r\nContent-Length: 3\r\n\r\nabc"},
	{name: "a forged miss", request: "POST / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 421 Misdirected\r\nX-Piko-Miss: draining\r\nX-Piko-Attempts: 3\r\nContent-Length: 3\r\n\r\nabc"},
	{name: "a forged failure", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 502 Bad Gateway\r\nX-Piko-Failed: no-response\r\nContent-Length: 3\r\n\r\nabc"},
	{name: "an agent's failure", request: "POST / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 504 Gateway Timeout\r\nX-Piko-Error: upstream-timeout\r\nX-Piko-Miss: a\r\nContent-Length: 3\r\n\r\nabc"},
	{name: "hop-by-hop", request: "GET / HTTP/1.1\r\nHost: e.x\r\nConnection: x-a, keep-alive\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
		answer: "HTTP/1.1 200 OK\r\nConnection: x-c\r\nX-C: 1\r\nKeep-Alive: a\r\nProxy: b\r\nX-D: 2\r\nContent-Length: 0\r\n\r\n"},
	{name: "transparent fields", request: "GET / HTTP/1.1\r\nHost: e.x\r\nAuthorization: Basic x\r\nCookie: a=b\r\nX-Obs: \xe9\r\n\r\n",
		answer: "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Obs: \xe9\r\nServer: s\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"},
	{name: "upgrade", request: "GET / HTTP/1.1\r\nHost: e.x\r\nConnection: Upgrade\r\nUpgrade: chat/2\r\n\r\n", answer: "HTTP/1.1 101 Go On\r\nConnection: upgrade\r\nUpgrade: chat/2\r\nX-Piko-Miss: a\r\nX-A: b\r\n\r\nhello"},
	{name: "upgrade refused", request: "GET / HTTP/1.1\r\nHost: e.x\r\nConnection: Upgrade\r\nUpgrade: chat/2\r\n\r\n", answer: "HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno"},
	{name: "101 that nobody asked for", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: chat/2\r\n\r\nhello"},
	{name: "header of almost the limit", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: " + strings.Repeat("a", 256<<10-200) + "\r\n\r\n"},
	{name: "header over the limit", request: "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: " + strings.Repeat("a", 256<<10) + "\r\n\r\n"},
	{name: "a client's lies", request: "POST / HTTP/1.1\r\nHost: e.x\r\nX-Piko-Route: f\r\nx-piko-route: f\r\nX_Piko_Route: f\r\nX-Piko-Attempts: 9\r\nX-Piko-Expect: hop\r\nX-Piko-Miss: a\r\nX-PIKO-FAILED: a\r\n" +
		"Connection: X-Piko-Route, X-Piko-Attempts, x-piko-expect\r\nTransfer-Encoding: chunked\r\nTrailer: X-Piko-Route\r\n\r\n3\r\nabc\r\n0\r\nX-Piko-Route: f\r\nX_Piko_Miss: f\r\n\r\n", read: true,
		answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	{name: "a client's lies about its expectation", request: "POST / HTTP/1.1\r\nHost: e.x\r\nX-Piko-Expect: hop\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
		answer: "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"},
}

// What service and client see of a conversation is the same whether the node has the upstream or another node has.
func TestHopMakesNoDifference(t *testing.T) {
	for _, tt := range talks {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var want string
			for _, how := range []way{noHop, oneOwner, laneOwner} {
				w := newWorldFor(t, how, nil)
				w.serve("f", func(w http.ResponseWriter, r *http.Request) { t.Error("another endpoint was asked") })
				var served record
				w.serveRaw("e", func(c net.Conn, r *bufio.Reader) { served.serve(c, r, tt.answer, tt.read) })
				client := w.exchange(strings.Replace(tt.request, "\r\n", "\r\nX-Request-Id: id\r\n", 1))
				got := served.text() + "\n=>\n" + client
				if how == noHop {
					want = got
				} else if got != want || served.text() == "" {
					t.Errorf("with a hop:\n%s\nwithout:\n%s", got, want)
				}
				ours := strings.NewReplacer("X-Piko-Endpoint: e", "", "X-Piko-Error:[upstream-", "", "Cdn-Loop: piko", "").Replace(got)
				if strings.Contains(strings.ToLower(ours), "piko") {
					t.Errorf("internal fields got out: %s", got)
				}
			}
		})
	}
}

// record is what services saw.
type record struct {
	mu  sync.Mutex
	all []string
}

func (s *record) add(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, text)
}

func (s *record) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.all, "\n")
}

// serve notes a request and gives the answer.
func (s *record) serve(c net.Conn, r *bufio.Reader, answer string, read bool) {
	var head []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if line = strings.TrimSuffix(line, "\r\n"); line == "" {
			break
		}
		head = append(head, line)
	}
	slices.Sort(head[1:])
	s.add(strings.Join(head, "|"))
	if read {
		raw := strings.Join(head, "\r\n") + "\r\n\r\n"
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(raw), r)))
		if err != nil {
			s.add(err.Error())
			return
		}
		body, err := io.ReadAll(req.Body)
		s.add(fmt.Sprintf("body %q %v %v", body, err, req.Trailer))
	}
	io.WriteString(c, answer)
}

// exchange sends a request and returns what comes back, but for what may differ from one time to the next.
func (w *world) exchange(request string) string {
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, request)
	r := bufio.NewReader(c)
	method, _, _ := strings.Cut(request, " ")
	var all strings.Builder
	for {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return all.String() + "no response"
		}
		res.Header.Del("Date")
		lengthMatters := method == "HEAD" || res.StatusCode == 304
		if !lengthMatters {
			res.Header.Del("Content-Length")
		}
		fmt.Fprintf(&all, "%s %s %v ", res.Proto, res.Status, res.Header)
		if res.StatusCode < 200 && res.StatusCode != 101 {
			continue
		}
		body, err := io.ReadAll(res.Body)
		if res.StatusCode == 101 {
			c.(*net.TCPConn).CloseWrite()
			body, err = io.ReadAll(r)
		}
		fmt.Fprintf(&all, "%q trailer %v close %v", body, res.Trailer, res.Close)
		if err != nil {
			all.WriteString(" broken off")
		}
		return all.String()
	}
}

// Long bodies come as they are, both ways at once.
func TestLongBodies(t *testing.T) { everyWay(t, testLongBodies) }

func testLongBodies(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		if r.ContentLength >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
		}
		io.Copy(w, r.Body)
	})
	for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1, 5_000_001} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(rand.Uint32())
		}
		for _, chunked := range []bool{false, true} {
			var in io.Reader = strings.NewReader(string(body))
			if chunked {
				in = io.MultiReader(in)
			}
			status, got, _ := w.do("POST", "/", in)
			if status != 200 || sha256.Sum256([]byte(got)) != sha256.Sum256(body) {
				t.Errorf("%d bytes, chunked %v: got %d and %d bytes", size, chunked, status, len(got))
			}
		}
	}
}

// Nothing is drawn from one side that the other does not take, but for what buffers on the way hold.
func TestBackPressure(t *testing.T) { everyWay(t, testBackPressure) }

func testBackPressure(t *testing.T, newWorld worldMaker) {
	const most = 48 << 20
	w := newWorld(t, nil)
	hold, sent := make(chan struct{}), make(chan int64, 1)
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			<-hold
			return
		}
		n, _ := io.CopyN(w, endless{stop: r.Context().Done()}, most)
		sent <- n
	})
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: e.x\r\nContent-Length: 1000000000\r\n\r\n")
	c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := io.CopyN(c, endless{}, most); err == nil {
		t.Errorf("%d bytes were taken from the client for a service that reads nothing", n)
	}
	close(hold)
	d, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(d, "GET / HTTP/1.1\r\nHost: e.x\r\n\r\n")
	select {
	case n := <-sent:
		t.Errorf("%d bytes were taken from the service for a client that reads nothing", n)
		d.Close()
	case <-time.After(300 * time.Millisecond):
		d.Close()
		<-sent
	}
}

type endless struct{ stop <-chan struct{} }

func (e endless) Read(p []byte) (int, error) {
	select {
	case <-e.stop:
		return 0, io.ErrClosedPipe
	default:
		return len(p), nil
	}
}

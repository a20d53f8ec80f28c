package strict

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// server is net/http's server behind Conn. Its handler notes every request whose body came whole.
type server struct {
	addr string

	mu   sync.Mutex
	seen []string
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := new(server)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	srv.Listener = listener{srv.Listener}
	srv.Config.ConnState = hijackHook
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	t.Cleanup(srv.Close)
	s.addr = srv.Listener.Addr().String()
	return s
}

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return NewConn(nc), nil
}

func hijackHook(nc net.Conn, state http.ConnState) {
	if h, ok := nc.(interface{ Hijacked() }); ok && state == http.StateHijacked {
		h.Hijacked()
	}
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		panic(http.ErrAbortHandler) // it must be malformed, not cut off
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.seen = append(s.seen, fmt.Sprintf("%s %s %q", r.Method, r.RequestURI, body))
	s.mu.Unlock()
	if r.Header.Get("Upgrade") == "echo" {
		echo(w)
		return
	}
	fmt.Fprint(w, "ok")
}

// echo takes the connection over and sends back what comes.
func echo(w http.ResponseWriter) {
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer nc.Close()
	io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	io.Copy(nc, rw.Reader)
}

// ask sends bytes, in one piece, and returns the statuses of what comes back until the server closes the connection.
func (s *server) ask(t *testing.T, sent string) (statuses []int) {
	t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(nc, sent); err != nil {
		t.Fatal(err)
	}
	nc.(*net.TCPConn).CloseWrite()
	br := bufio.NewReader(nc)
	for {
		res, err := http.ReadResponse(br, nil)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return statuses
		}
		if err != nil {
			t.Fatalf("read response %d: %v", len(statuses)+1, err)
		}
		if res.StatusCode == http.StatusSwitchingProtocols {
			return append(statuses, res.StatusCode)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		statuses = append(statuses, res.StatusCode)
	}
}

const next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"

// What is refused closes the connection: what follows is no request. What is not comes as it was sent, and the request
// behind it is another one.
func TestRequestsThatAreRefused(t *testing.T) {
	post := func(head, body string) string {
		return "POST /first HTTP/1.1\r\nHost: a\r\n" + head + "\r\n" + body
	}
	const chunked = "Transfer-Encoding: chunked\r\n"
	for _, tt := range []struct {
		name, sent string
		status     int    // 200: the request and the one behind it are served
		body       string // when 200
	}{
		{"Content-Length and Transfer-Encoding", post("Content-Length: 5\r\n"+chunked, "0\r\n\r\n"), 400, ""},
		{"Transfer-Encoding and Content-Length", post(chunked+"Content-Length: 5\r\n", "0\r\n\r\n"), 400, ""},
		{"Content-Length 0 and Transfer-Encoding", post("Content-Length: 0\r\n"+chunked, "0\r\n\r\n"), 400, ""},
		{"two equal Content-Lengths", post("Content-Length: 2\r\nContent-Length: 2\r\n", "ab"), 400, ""},
		{"two Content-Lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n", "ab"), 400, ""},
		{"two Content-Lengths of one field", post("Content-Length: 2, 2\r\n", "ab"), 400, ""},
		{"Content-Length with a sign", post("Content-Length: +2\r\n", "ab"), 400, ""},
		{"Content-Length in hex", post("Content-Length: 0x2\r\n", "ab"), 400, ""},
		{"Content-Length with a point", post("Content-Length: 2.0\r\n", "ab"), 400, ""},
		{"Content-Length with an underscore", post("Content-Length: 0_2\r\n", "ab"), 400, ""},
		{"Content-Length that is empty", post("Content-Length: \r\n", "ab"), 400, ""},
		{"Content-Length of 2^63", post("Content-Length: 9223372036854775808\r\n", "ab"), 400, ""},
		{"Content-Length of 2^64+2", post("Content-Length: 18446744073709551618\r\n", "ab"), 400, ""},
		{"Content-Length of 80 digits", post("Content-Length: "+strings.Repeat("0", 79)+"2\r\n", "ab"), 400, ""},
		{"folded Transfer-Encoding", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), 400, ""},
		{"folded field", post("X-A: a\r\n b\r\n", ""), 400, ""},
		{"field folded with a tab", post("X-A: a\r\n\tb\r\n", ""), 400, ""},
		{"first field folded", "GET /first HTTP/1.1\r\n X-A: a\r\nHost: a\r\n\r\n", 400, ""},
		{"bare LF behind the request line", "GET /first HTTP/1.1\nHost: a\r\n\r\n", 400, ""},
		{"bare LF behind a field", "GET /first HTTP/1.1\r\nHost: a\nX-A: a\r\n\r\n", 400, ""},
		{"bare LF as the end of the head", "GET /first HTTP/1.1\r\nHost: a\r\n\n", 400, ""},
		{"LF all over", "GET /first HTTP/1.1\nHost: a\n\n", 400, ""},
		{"bare LF before the request line", "\nGET /first HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		{"bare CR before the request line", "\rGET /first HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		{"Transfer-Encoding behind a bare LF", post("X-A: a\n"+chunked, "0\r\n\r\n"), 400, ""},
		{"CONNECT without a target", "CONNECT  HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""},
		{"HTTP/1.0 with Transfer-Encoding", "POST /first HTTP/1.0\r\nHost: a\r\n" + chunked + "\r\n0\r\n\r\n", 400, ""},
		{"HTTP/1.0 with both", "POST /first HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\n" + chunked + "\r\n0\r\n\r\n", 400, ""},
		{"Transfer-Encoding twice", post(chunked+chunked, "0\r\n\r\n"), 400, ""},
		{"Transfer-Encoding that is long", post("Transfer-Encoding: "+strings.Repeat(" ", 80)+"chunked\r\n", "0\r\n\r\n"), 400, ""},
		{"space behind a chunk's size", post(chunked, "2 \r\nab\r\n0\r\n\r\n"), 400, ""},
		{"space before a chunk's extension", post(chunked, "2 ;a=b\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"tab behind a chunk's size", post(chunked, "2\t\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"space before a chunk's size", post(chunked, " 2\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"chunk size with 0x", post(chunked, "0x2\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"chunk size with a sign", post(chunked, "+2\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"chunk size below 0", post(chunked, "-2\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"chunk size that is empty", post(chunked, "\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"chunk size of an extension alone", post(chunked, ";a\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"chunk size of 17 digits", post(chunked, "00000000000000002\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"chunk size of 2^64+2", post(chunked, "10000000000000002\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"chunk size of 2^63", post(chunked, "8000000000000000\r\nab\r\n0\r\n\r\n"), 400, ""},
		{"bare LF behind a chunk's size", post(chunked, "2\nab\r\n0\r\n\r\n"), 400, ""},
		{"bare LF in a chunk's extension", post(chunked, "2;\nab\r\n0\r\n\r\n"), 400, ""},
		{"bare CR behind a chunk's size", post(chunked, "2\rXab\r\n0\r\n\r\n"), 400, ""},
		{"bare LF behind a chunk", post(chunked, "2\r\nab\n0\r\n\r\n"), 400, ""},
		{"bare CR behind a chunk", post(chunked, "2\r\nab\r0\r\n\r\n"), 400, ""},
		{"chunk longer than its size", post(chunked, "2\r\nabc\r\n0\r\n\r\n"), 400, ""},
		{"bare LF behind the last chunk", post(chunked, "2\r\nab\r\n0\n\r\n"), 400, ""},
		{"bare LF as the end of the trailers", post(chunked, "2\r\nab\r\n0\r\n\n"), 400, ""},
		{"bare LF behind a trailer", post(chunked, "2\r\nab\r\n0\r\nX-A: a\n\r\n"), 400, ""},
		{"folded trailer", post(chunked, "2\r\nab\r\n0\r\nX-A: a\r\n b\r\n\r\n"), 400, ""},

		{"Content-Length", post("Content-Length: 2\r\n", "ab"), 200, "ab"},
		{"Content-Length with blanks", post("Content-Length: \t 2 \t\r\n", "ab"), 200, "ab"},
		{"Content-Length in capitals", post("CONTENT-LENGTH:2\r\n", "ab"), 200, "ab"},
		{"Content-Length with zeros", post("Content-Length: 0002\r\n", "ab"), 200, "ab"},
		{"chunks", post(chunked, "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"), 200, "abc"},
		{"Transfer-Encoding in capitals", post("TRANSFER-ENCODING: CHUNKED\r\n", "2\r\nab\r\n0\r\n\r\n"), 200, "ab"},
		{"chunk sizes in capitals and with zeros", post(chunked, "000A\r\n0123456789\r\n00\r\n\r\n"), 200, "0123456789"},
		{"chunks with extensions", post(chunked, "2;a\r\nab\r\n1;a=\"b c\" ; d\r\nc\r\n0;e\r\n\r\n"), 200, "abc"},
		{"a chunk with a long extension", post(chunked, "2;"+strings.Repeat("a", 1000)+"\r\nab\r\n0\r\n\r\n"), 200, "ab"},
		{"trailers", post(chunked+"Trailer: X-A\r\n", "2\r\nab\r\n0\r\nX-A: a\r\nX-B: b\r\n\r\n"), 200, "ab"},
		{"a body that looks like heads", post("Content-Length: 34\r\n", "GET /x HTTP/1.1\nHost: a\nX: a\n b\n\n\n"), 200, "GET /x HTTP/1.1\nHost: a\nX: a\n b\n\n\n"},
		{"an empty line before the next request", post("Content-Length: 2\r\n", "ab\r\n"), 200, "ab"},
		{"fields that are called alike", post("Content-Length: 2\r\nContent-Length-X: 3\r\nX-Content-Length: 4\r\nTransfer-Encodings: chunked\r\nContent: 1\r\nT: 1\r\nU: 1\r\n", "ab"), 200, "ab"},
		{"a long field", post("X-A: "+strings.Repeat("a", 9000)+"\r\nContent-Length: 2\r\n", "ab"), 200, "ab"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t)
			got := s.ask(t, tt.sent+next)
			want, served := []int{tt.status}, []string(nil)
			if tt.status == 200 {
				want = []int{200, 200}
				served = []string{fmt.Sprintf("POST /first %q", tt.body), `GET /next ""`}
			}
			if !slices.Equal(got, want) || !slices.Equal(s.seen, served) {
				t.Errorf("got %d, the handler saw %q; want %d, %q", got, s.seen, want, served)
			}
			// What came before is served in any case.
			s.seen = nil
			got = s.ask(t, next+post(chunked, "3\r\nxyz\r\n0\r\n\r\n")+tt.sent)
			if len(got) < 3 || got[2] != tt.status || len(s.seen) != 2+min(len(served), 1) {
				t.Errorf("behind two others got %d, the handler saw %q", got, s.seen)
			}
		})
	}
}

// Behind a request for another protocol may come that protocol, or another request: to find out which, nothing is
// looked at before net/http has decided.
func TestWhatFollowsAnUpgrade(t *testing.T) {
	const (
		taken   = "GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
		refused = "GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"
		connect = "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"
		posted  = "POST /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\nContent-Length: 2\r\n\r\nab"
		bad     = "GET /bad HTTP/1.1\nHost: a\n\n"
	)
	for _, tt := range []struct {
		name, sent string
		want       []int
	}{
		{"it is taken", taken + bad, []int{101}},
		{"it is not, and a request follows", refused + next, []int{200, 200}},
		{"it is not, and a bad one follows", refused + bad + next, []int{200, 400}},
		{"it is not, twice", refused + refused + next, []int{200, 200, 200}},
		{"it is not, twice, and a bad one follows", refused + refused + bad + next, []int{200, 200, 400}},
		{"it is not, and has a body", posted + next, []int{200, 200}},
		{"it is not, has a body, and a bad one follows", posted + bad + next, []int{200, 400}},
		{"it is not, has a body, and an empty line follows", posted + "\r\n" + next, []int{200, 200}},
		{"it is not, has a body, and a bare LF follows", posted + "\n" + next, []int{200, 400}},
		{"CONNECT, and a bad one follows", connect + bad, []int{200, 400}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := newServer(t).ask(t, tt.sent); !slices.Equal(got, tt.want) {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

// Whatever the new protocol says comes as it was sent, together with the request or later.
func TestAnotherProtocolPasses(t *testing.T) {
	s := newServer(t)
	for _, early := range []string{"", "\n", "GET / HTTP/1.1\nA: b\n c\n\n\n", strings.Repeat("\n\x00\r", 5000)} {
		nc, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(nc, "GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"+early)
		br := bufio.NewReader(nc)
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
			t.Fatalf("got %v, %v", res, err)
		}
		later := "PRI * HTTP/2.0\n\nSM\n\n"
		io.WriteString(nc, later)
		got := make([]byte, len(early)+len(later))
		if _, err := io.ReadFull(br, got); err != nil || string(got) != early+later {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

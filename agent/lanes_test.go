package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestStreamComesBackToTheLanes: a request that is not for them takes its stream to net/http's server, and the next one
// that is takes it back.
func TestStreamComesBackToTheLanes(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.URL.Path, body)
	})
	a := startAgent(t, service.URL)
	node := newFakeNode(t)
	s := newLanes(a.listener, context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(node) }()
	defer func() {
		s.Close()
		node.Close()
		<-served
	}()
	b := &testAgent{t: t, node: node}
	conn, r := b.dialNode()
	for i, ask := range []struct {
		head, body, want string
		lanes            int // that have the stream behind the answer
	}{
		{"GET /1 HTTP/1.1\r\nHost: a.b\r\n\r\n", "", "/1 ", 1},
		{"POST /2 HTTP/1.1\r\nHost: a.b\r\nConnection: x-own\r\nContent-Length: 5\r\n\r\n", "hello", "/2 hello", 0},
		{"GET /3 HTTP/1.1\r\nHost: a.b\r\nConnection: x-own\r\n\r\n", "", "/3 ", 0},
		{"PUT /4 HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "/4 abc", 1},
		{"GET /5 HTTP/1.1\r\nHost: a.b\r\n\r\n", "", "/5 ", 1},
		{"GET /6 HTTP/1.1\r\nHost: a.b\r\nTE: deflate\r\n\r\n", "", "/6 ", 0},
		{"GET /7 HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n", "", "/7 ", 0},
	} {
		io.WriteString(conn, ask.head+ask.body)
		if body := answerOf(t, r); body != ask.want {
			t.Fatalf("request %d: %q, want %q", i, body, ask.want)
		}
		eventually(t, func() error {
			n := s.Lanes()
			if n == ask.lanes {
				return nil
			}
			if ask.lanes == 1 { // net/http may have had a byte of the request already, which it looks for while a handler is at work
				io.WriteString(conn, "GET /again HTTP/1.1\r\nHost: a.b\r\n\r\n")
				answerOf(t, r)
			}
			return fmt.Errorf("request %d: %d lanes, want %d", i, n, ask.lanes)
		})
	}
	if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v behind an answer with Connection: close", rest, err)
	}
	if n := node.streams(); n != 1 {
		t.Errorf("%d streams", n)
	}
}

// TestWhatLanesDoNotTakeIsNetHTTPsToJudge: what is not beyond doubt gets the answer that it always got.
func TestWhatLanesDoNotTakeIsNetHTTPsToJudge(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "served") })
	a := startAgent(t, service.URL)
	for request, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n":                                      "400",
		"GET / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n":                                       "400",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy":     "400",
		"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n":                      "501",
		"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n":                                              "400",
		"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + strings.Repeat("x", 100<<10) + "\r\n\r\n": "200",
		"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n":                    "200",
		"GET / HTTP/1.0\r\n\r\n":                                                            "200",
	} {
		conn, r := a.dialNode()
		io.WriteString(conn, request)
		line, err := r.ReadString('\n')
		if err != nil || !strings.Contains(line, " "+want+" ") {
			t.Errorf("%.60q: %q, %v, want %s", request, line, err, want)
		}
		conn.Close()
	}
}

func answerOf(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

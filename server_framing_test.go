package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// bareService is a service below which nothing mends what it gets: it notes each request whose body came whole, and
// whatever else came.
type bareService struct {
	addr string

	mu   sync.Mutex
	seen []string
}

func startBareService(t *testing.T) *bareService {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &bareService{addr: ln.Addr().String()}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { s.serve(nc) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Wait()
	})
	return s
}

func (s *bareService) serve(nc net.Conn) {
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(time.Minute))
	br := bufio.NewReader(nc)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			if rest, _ := br.Peek(br.Buffered()); len(rest) > 0 {
				s.note(fmt.Sprintf("rubbish %q", rest))
			}
			return
		}
		if r.Method == "PRI" { // the agent asks for HTTP/2, which is no client's doing
			io.WriteString(nc, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.note(fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body))
		fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.RequestURI), r.RequestURI)
	}
}

func (s *bareService) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, what)
}

func (s *bareService) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = nil
	return seen
}

// tell sends bytes and returns the statuses of what comes back before the node closes the connection.
func tell(t *testing.T, addr net.Addr, sent string) (statuses []int) {
	t.Helper()
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return tellOn(t, nc, sent)
}

func tellOn(t *testing.T, nc net.Conn, sent string) (statuses []int) {
	t.Helper()
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(nc, sent); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(nc)
	for {
		res, err := http.ReadResponse(br, nil)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection stays open after %d", statuses)
		}
		if err != nil {
			return statuses
		}
		io.Copy(io.Discard, res.Body)
		statuses = append(statuses, res.StatusCode)
	}
}

// mended are requests that net/http's server alone would serve, and those whose chunks it refuses only in the middle of
// the body. E is where the endpoint's field stands.
var mended = map[string]string{
	"Content-Length and Transfer-Encoding":     "POST / HTTP/1.1\r\nHost: h\r\nEContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"Transfer-Encoding and Content-Length":     "POST / HTTP/1.1\r\nHost: h\r\nETransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"two equal Content-Lengths":                "POST / HTTP/1.1\r\nHost: h\r\nEContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
	"folded Transfer-Encoding":                 "POST / HTTP/1.1\r\nHost: h\r\nETransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
	"folded field":                             "GET / HTTP/1.1\r\nHost: h\r\nEX-A: a\r\n b\r\n\r\n",
	"bare LF":                                  "GET / HTTP/1.1\nHost: h\nE\n\n",
	"bare LF behind one field":                 "GET / HTTP/1.1\r\nHost: h\r\nEX-A: a\nX-B: b\r\n\r\n",
	"HTTP/1.0 with Transfer-Encoding":          "POST / HTTP/1.0\r\nHost: h\r\nETransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.0 with both":                       "POST / HTTP/1.0\r\nHost: h\r\nEConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"space behind a chunk's size":              "POST / HTTP/1.1\r\nHost: h\r\nETransfer-Encoding: chunked\r\n\r\n2 \r\nab\r\n0\r\n\r\n",
	"chunk size that is no number":             "POST / HTTP/1.1\r\nHost: h\r\nETransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nxyz\r\nab\r\n0\r\n\r\n",
	"chunk size of 17 digits":                  "POST / HTTP/1.1\r\nHost: h\r\nETransfer-Encoding: chunked\r\n\r\n00000000000000002\r\nab\r\n0\r\n\r\n",
	"bare LF behind a chunk's size":            "POST / HTTP/1.1\r\nHost: h\r\nETransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n",
	"bare LF in a chunk's extension":           "POST / HTTP/1.1\r\nHost: h\r\nETransfer-Encoding: chunked\r\n\r\n2;\nab\r\n0\r\n\r\n",
	"chunk without its CRLF":                   "POST / HTTP/1.1\r\nHost: h\r\nETransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
	"bare LF behind the last chunk's trailers": "POST / HTTP/1.1\r\nHost: h\r\nETransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-A: a\n\r\n",
	"folded trailer":                           "POST / HTTP/1.1\r\nHost: h\r\nETransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-A: a\r\n b\r\n\r\n",
}

// On the real ports, at one node and across two: what is refused gets 400 and the end of the connection, no service sees
// it or what follows, and what came before is served.
func TestRequestsOfTwoMeaningsAreRefused(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 2, nil)
	service := startBareService(t)
	startAgent(t, nodes[0], "my-endpoint", service.addr)
	client := newClient(t)
	const endpoint = "x-piko-endpoint: my-endpoint\r\n"
	const (
		next = "GET /next HTTP/1.1\r\nHost: h\r\n" + endpoint + "\r\n"
		last = "GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + endpoint + "\r\n"
	)
	for i, n := range nodes {
		eventually(t, func() error {
			if status, _, _ := get(t, client, "http://"+n.ProxyAddr().String()+"/", "x-piko-endpoint", "my-endpoint"); status != http.StatusOK {
				return fmt.Errorf("node %d answers %d", i+1, status)
			}
			return nil
		})
		service.take()
		for name, sent := range mended {
			t.Run(fmt.Sprintf("%s, node %d", name, i+1), func(t *testing.T) {
				lines := endpoint
				if strings.Contains(sent, "E\n") {
					lines = strings.TrimSuffix(endpoint, "\r\n")
				}
				got := tell(t, n.ProxyAddr(), next+strings.Replace(sent, "E", lines, 1)+last)
				if seen := service.take(); !slices.Equal(got, []int{200, 400}) || !slices.Equal(seen, []string{"GET /next "}) {
					t.Errorf("got %d, want 200 and 400; the service saw %q, want the first request alone", got, seen)
				}
				if head, _, _ := strings.Cut(sent, "\r\n\r\n"); !strings.HasSuffix(head, "\nETransfer-Encoding: chunked") || strings.Contains(head, "1.0") {
					if got := tell(t, n.UpstreamAddr(), strings.Replace(sent, "E", lines, 1)+last); !slices.Equal(got, []int{400}) {
						t.Errorf("the upstream port answered %d", got)
					}
				}
			})
		}
		if got := tell(t, n.ProxyAddr(), next+last); !slices.Equal(got, []int{200, 200}) {
			t.Errorf("after all that got %d", got)
		}
	}
}

func TestRequestsOfTwoMeaningsAreRefusedOverTLS(t *testing.T) {
	t.Parallel()
	change, trust := withTLS(t)
	n := startNode(t, change)
	service := startBareService(t)
	startAgent(t, n, "my-endpoint", service.addr)
	const endpoint = "x-piko-endpoint: my-endpoint\r\n"
	const last = "GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + endpoint + "\r\n"
	for _, tt := range []struct {
		sent string
		want []int
	}{
		{strings.Replace(mended["bare LF behind one field"], "E", endpoint, 1) + last, []int{400}},
		{strings.Replace(mended["Content-Length and Transfer-Encoding"], "E", endpoint, 1) + last, []int{400}},
		{last, []int{200}},
	} {
		nc, err := tls.Dial("tcp", n.ProxyAddr().String(), trust)
		if err != nil {
			t.Fatal(err)
		}
		if got := tellOn(t, nc, tt.sent); !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %d, want %d", tt.sent, got, tt.want)
		}
	}
	if seen := service.take(); !slices.Equal(seen, []string{"GET /last "}) {
		t.Errorf("the service saw %q", seen)
	}
}

package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// A body that turns out to be malformed is its client's fault, however much of it has been passed on: the client gets 400
// if nothing was answered, the service sees a request that breaks off, and no upstream is blamed, or strangers could have
// them all avoided.
func TestMalformedBodiesBlameNobody(t *testing.T) {
	t.Parallel()
	theseWays(t, testMalformedBodiesBlameNobody, noHop, oneOwner, laneOwner)
}

func testMalformedBodiesBlameNobody(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	whole := make(chan error, 100)
	l := w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/answered" {
			http.NewResponseController(w).EnableFullDuplex()
			io.WriteString(w, "begun")
			http.NewResponseController(w).Flush()
		}
		_, err := io.Copy(io.Discard, r.Body)
		whole <- err
	})
	var avoided atomic.Bool
	other := w.add("e", func(context.Context) (net.Conn, error) {
		avoided.Store(true)
		return nil, errors.New("nobody is here")
	})
	other.SetDraining(true) // so that requests go to l
	const chunked = " HTTP/1.1\r\nHost: e.x\r\nTransfer-Encoding: chunked\r\n\r\n"
	for range 5 { // as many as would eject it
		for name, body := range map[string]string{
			"no number": "2\r\nab\r\nxyz\r\nab\r\n0\r\n\r\n",
			"too much":  "2\r\nabc\r\n0\r\n\r\n",
			"bare LF":   "2\r\nab\r\n2\nab\r\n0\r\n\r\n",
			"no CRLF":   "2\r\nab\r\n2\r\nabX\r\n0\r\n\r\n",
		} {
			if got := w.talk("POST /" + chunked + body); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "X-Piko-Error: malformed-request") {
				t.Errorf("%s: got %q", name, got)
			}
			select {
			case err := <-whole:
				if err == nil {
					t.Errorf("%s: the service took the body for a whole one", name)
				}
			default: // it was over before the service got it
			}
		}
	}
	wantUnblamed := func() {
		t.Helper()
		eventually(t, idle(l))
		other.SetDraining(false)
		if avoided.Load() || !w.chosen("e", l) {
			t.Error("the upstream is blamed")
		}
		other.SetDraining(true)
	}
	wantUnblamed()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /answered"+chunked+"2\r\nab\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", res, err)
	}
	io.WriteString(c, "xyz\r\n")
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the client took half an answer for a whole one")
	}
	wantUnblamed()
}

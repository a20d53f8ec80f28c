package agent

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// wantFault checks the JSON answer of a failure.
func wantFault(t testing.TB, status int, body string, wantStatus int, wantCode string) {
	t.Helper()
	var answer struct{ Error, Code string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Errorf("body %q is not JSON: %v", body, err)
	}
	if status != wantStatus || answer.Code != wantCode || answer.Error == "" {
		t.Errorf("answer is %d %+v, want %d with code %s and a text", status, answer, wantStatus, wantCode)
	}
}

func TestServiceDownIs502AndLoggedOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // nobody listens there any more
	a := startAgent(t, ln.Addr().String())
	for range 3 {
		status, body, err := a.get("/")
		if err != nil {
			t.Fatal(err)
		}
		wantFault(t, status, body, 502, "upstream-unreachable")
	}
	if n := strings.Count(a.log.String(), "service unreachable"); n != 1 {
		t.Errorf("3 failures were logged %d times, want once:\n%s", n, a.log)
	}
	if log := a.log.String(); !strings.Contains(log, ln.Addr().String()) || !strings.Contains(log, "refused") {
		t.Errorf("log does not say who and why:\n%s", log)
	}

	ln, err = net.Listen("tcp", ln.Addr().String())
	if err != nil {
		t.Skip("the service's port was taken meanwhile")
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	go srv.Serve(ln)
	defer srv.Close()
	if status, _, err := a.get("/"); status != http.StatusNotFound || err != nil {
		t.Errorf("status %d, error %v once the service is up, want its 404", status, err)
	}
	if !strings.Contains(a.log.String(), "service reachable again") {
		t.Errorf("recovery was not logged:\n%s", a.log)
	}
}

func TestServiceThatDoesNotFinishItsHandshakeIs504(t *testing.T) {
	ln := silentListener(t)
	a := startAgent(t, "https://"+ln.Addr().String(), func(o *agentOptions) { o.listener.DialTimeout = 50 * time.Millisecond })
	status, body, err := a.get("/")
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, status, body, 504, "upstream-timeout")
}

// silentListener accepts and says nothing.
func silentListener(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestServiceThatSpeaksRubbishIs502(t *testing.T) {
	for _, answer := range []string{"SSH-2.0-OpenSSH_9.9\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", ""} {
		t.Run(answer, func(t *testing.T) {
			a := startAgent(t, rawService(t, answer))
			status, body, err := a.get("/")
			if err != nil {
				t.Fatal(err)
			}
			wantFault(t, status, body, 502, "upstream-unreachable")
		})
	}
}

// rawService answers each connection's first request with the bytes and then
// resets the connection. It returns its address.
func rawService(t testing.TB, answer string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				buf := make([]byte, 64<<10)
				conn.Read(buf)
				io.WriteString(conn, answer)
				conn.Close()
			})
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	return ln.Addr().String()
}

func TestAnswerThatDiesHalfWayIsBrokenForTheClient(t *testing.T) {
	for name, answer := range map[string]string{
		"with a length": "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
		"chunked":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			a := startAgent(t, rawService(t, answer))
			status, body, err := a.get("/")
			if err == nil {
				t.Errorf("client got status %d and %q as if it were complete, want an error", status, body)
			}
			if err != nil && status == 200 && body != "half" {
				t.Errorf("client got %q before the break, want what the service had sent", body)
			}
			a.get("/")
			if n := strings.Count(a.log.String(), "service broke off its answer"); n != 1 {
				t.Errorf("2 answers that broke off in a moment were logged %d times, want once:\n%s", n, a.log)
			}
		})
	}
}

//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// These last longer than any time-out that a proxy has by habit (30 s for a request, 60 s for
// an idle connection), and run with the defaults.

// TestNothingIsCut holds that what is slow or silent for a minute and a half lives, however
// it is spoken to, with one node and with two.
func TestNothingIsCut(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		o := startOrigin(t, "origin")
		w.agent(t, "e", o.addr)
		w.agent(t, "calls", startCalls(t))
		for name, flag := range map[string]string{"HTTP/1.1": "--http1.1", "HTTP/2": "--http2-prior-knowledge"} {
			slow := func(kind string, test func(t *testing.T, w *way, flag string)) {
				t.Run(kind+" over "+name, func(t *testing.T) {
					t.Parallel()
					test(t, w, flag)
				})
			}
			slow("events", func(t *testing.T, w *way, flag string) { slowEvents(t, w, flag, 31, 3*time.Second) })
			slow("two events", func(t *testing.T, w *way, flag string) { slowEvents(t, w, flag, 2, 91*time.Second) })
			slow("an upload", slowUpload)
		}
		for name, test := range map[string]func(*testing.T, *way){"a WebSocket": idleWebSocket, "a call": idleCall, "TCP": idleTCP} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, w)
			})
		}
	})
}

// atLeast wants something to have taken as long as it has to, to prove anything.
func atLeast(t *testing.T, took, least time.Duration) {
	t.Helper()
	if took < least {
		t.Errorf("it took %v, less than %v, so it proves nothing", took, least)
	}
}

func slowEvents(t *testing.T, w *way, flag string, n int, every time.Duration) {
	t.Helper()
	r := curlFor(t, 3*time.Minute, nil, flag, "-N", "-H", to("e"), w.entry.url(fmt.Sprintf("/sse?n=%d&every=%v", n, every)))
	if got := strings.Count(r.stdout, "data: origin\n\n"); r.code != 0 || got != n {
		t.Errorf("curl ended with status %d after %v and %d events, want all %d\n%s", r.code, r.took, got, n, r.stderr)
	}
	atLeast(t, r.took, 90*time.Second)
}

func slowUpload(t *testing.T, w *way, flag string) {
	t.Helper()
	const size = 62 << 10
	body := io.LimitReader(&slowReader{next: time.Now(), every: time.Second, r: &generator{}}, size)
	r := curlFor(t, 3*time.Minute, body, flag, "-T", "-", "-H", to("e"), w.entry.url("/upload-hash"))
	if want := fmt.Sprintf("%d %s\n", size, generated(size)); r.code != 0 || r.stdout != want {
		t.Errorf("curl ended with status %d after %v: %q, want %q\n%s", r.code, r.took, r.stdout, want, r.stderr)
	}
	atLeast(t, r.took, 60*time.Second)
}

func idleWebSocket(t *testing.T, w *way) {
	t.Helper()
	c := dialWebSocket(t, w.entry, "e", "/ws")
	wantEcho(t, c, "before")
	c.SetReadDeadline(time.Now().Add(91 * time.Second))
	if kind, message, err := c.ReadMessage(); !isTimeout(err) {
		t.Fatalf("a silent WebSocket ended or spoke: %d %q, %v", kind, message, err)
	}
	// gorilla ends a connection for good at a time-out, so the echo has to be read from below.
	conn := c.NetConn()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if err := c.WriteMessage(websocket.TextMessage, []byte("after")); err != nil {
		t.Fatalf("send a message after 91 s: %v", err)
	}
	got := make([]byte, 2+len("after"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "\x81\x05after" {
		t.Errorf("after 91 s the echo is %q, %v", got, err)
	}
}

// idleCall makes a call that is silent both ways between its two messages.
func idleCall(t *testing.T, w *way) {
	t.Helper()
	c := startCall(t, w.entry.proxy, "calls")
	c.wantEcho("before")
	<-time.After(91 * time.Second)
	c.wantEcho("after")
	c.end()
}

// idleTCP is silent both ways, and then it is asked whether it has lived.
func idleTCP(t *testing.T, w *way) {
	t.Helper()
	w.agentTCP(t, "tcp", rawService(t, echoBytes))
	c := dialRaw(t, w.forward(t, "tcp").addr)
	c.SetDeadline(time.Now().Add(3 * time.Minute))
	c.wantEcho("before")
	<-time.After(91 * time.Second)
	c.wantEcho("after")
	c.closeWrite()
	if rest := c.wantClosed(10 * time.Second); len(rest) > 0 {
		t.Errorf("after our end came %q", rest)
	}
}

// slowReader gives 1 KiB at a time.
type slowReader struct {
	next  time.Time
	every time.Duration
	r     io.Reader
}

func (s *slowReader) Read(p []byte) (int, error) {
	<-time.After(time.Until(s.next))
	s.next = s.next.Add(s.every)
	return io.ReadFull(s.r, p[:min(len(p), 1<<10)])
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}

// TestIdleTunnel holds that a tunnel without any request stays, through a load balancer that
// drops what is idle, and serves again at once.
func TestIdleTunnel(t *testing.T) {
	t.Parallel()
	for name, balance := range balancers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, o := startServer(t), startOrigin(t, "origin")
			a := startAgent(t, balance(t, s.upstream), "e", o.addr)
			s.waitUpstreams(t, "e", 1, 10*time.Second)
			began := time.Now()
			for time.Since(began) < 40*time.Second {
				<-time.After(500 * time.Millisecond)
				s.waitUpstreams(t, "e", 1, 0)
			}
			wantCurl(t, "origin", "-H", to("e"), s.url("/"))
			if n := len(a.grep("connected")); n > 2 {
				t.Errorf("the agent has %d log lines about connections, so the tunnel did not stay", n)
			}
		})
	}
}

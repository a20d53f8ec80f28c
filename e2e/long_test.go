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

// These last longer than any time-out that a proxy of this kind has by habit (30 s for a
// request, 60 s for an idle connection), and run with the defaults.

func TestLongEventStream(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	// 2.4 s apart, so that it lasts 38.4 s, and one gap of them is over 30 s.
	for _, c := range []struct{ n, every string }{{"17", "2400ms"}, {"2", "38s"}} {
		t.Run(c.n+" events", func(t *testing.T) {
			t.Parallel()
			r := curl(t, "-N", "-H", to("e"), s.url("/sse?n="+c.n+"&every="+c.every))
			if got := fmt.Sprint(strings.Count(r.stdout, "data: origin\n\n")); r.code != 0 || got != c.n {
				t.Errorf("curl ended with status %d after %v and %s events, want all %s\n%s", r.code, r.took, got, c.n, r.stderr)
			}
			if r.took < 36*time.Second {
				t.Errorf("the stream took %v, so it proves nothing", r.took)
			}
		})
	}
}

func TestSlowUpload(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	const size = 38 << 10
	began := time.Now()
	body := io.LimitReader(&slowReader{next: time.Now(), every: time.Second, r: &generator{}}, size)
	r := curlFrom(t, body, "-T", "-", "-H", to("e"), s.url("/upload-hash"))
	if want := fmt.Sprintf("%d %s\n", size, generated(size)); r.code != 0 || r.stdout != want {
		t.Errorf("curl ended with status %d after %v: %q, want %q\n%s", r.code, r.took, r.stdout, want, r.stderr)
	}
	if took := time.Since(began); took < 36*time.Second {
		t.Errorf("the upload took %v, so it proves nothing", took)
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

func TestIdleWebSocket(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	c := dialWebSocket(t, s, "e", "/ws")
	wantEcho(t, c, "before")
	c.SetReadDeadline(time.Now().Add(65 * time.Second))
	if kind, message, err := c.ReadMessage(); !isTimeout(err) {
		t.Fatalf("a silent WebSocket ended or spoke: %d %q, %v", kind, message, err)
	}
	// gorilla ends a connection for good at a time-out, so the echo has to be read from below.
	conn := c.NetConn()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if err := c.WriteMessage(websocket.TextMessage, []byte("after")); err != nil {
		t.Fatalf("send a message after 65 s: %v", err)
	}
	got := make([]byte, 2+len("after"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "\x81\x05after" {
		t.Errorf("after 65 s the echo is %q, %v", got, err)
	}
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

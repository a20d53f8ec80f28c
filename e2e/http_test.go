//go:build e2e

package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// curl runs curl quietly, with a limit of 60 s, and the given arguments.
func curl(t testing.TB, args ...string) result {
	t.Helper()
	return curlFrom(t, nil, args...)
}

// curlFrom is curl with a standard input.
func curlFrom(t testing.TB, stdin io.Reader, args ...string) result {
	t.Helper()
	return curlFor(t, 60*time.Second, stdin, args...)
}

// curlFor is curl with a standard input and another limit.
func curlFor(t testing.TB, limit time.Duration, stdin io.Reader, args ...string) result {
	t.Helper()
	return run(t, limit, stdin, tool(t, "curl"), append([]string{"--silent", "--show-error", "--noproxy", "*"}, args...)...)
}

// wantCurl runs curl and wants exit status 0 and this output.
func wantCurl(t testing.TB, want string, args ...string) {
	t.Helper()
	if r := curl(t, args...); r.code != 0 || r.stdout != want {
		t.Errorf("curl %q ended with status %d, output %.300q, want 0, %.300q\n%s", args, r.code, r.stdout, want, r.stderr)
	}
}

// inFlight starts a curl for each path, and returns when all of them are at the service.
func inFlight(t testing.TB, s *server, o *origin, paths ...string) <-chan result {
	t.Helper()
	tool(t, "curl") // skip here, not in a goroutine
	before := o.requests.Load()
	answers := make(chan result, len(paths))
	for _, path := range paths {
		go func() { answers <- curl(t, "-H", to("e"), s.url(path)) }()
	}
	o.waitRequests(t, before+int64(len(paths)))
	return answers
}

// to is the header that names the endpoint of a request, as curl takes it.
func to(endpoint string) string { return "x-piko-endpoint: " + endpoint }

// request sends one request over a connection of its own and returns the whole response.
func request(t testing.TB, s *server, method, target, endpoint string, header ...string) (*http.Response, string) {
	t.Helper()
	lines := []string{method + " " + target + " HTTP/1.1", "Host: localhost", "Connection: close"}
	if endpoint != "" {
		lines = append(lines, to(endpoint))
	}
	lines = append(lines, header...)
	return sendRaw(t, s.proxy, strings.Join(lines, "\r\n")+"\r\n\r\n")
}

// sendRaw sends bytes as they are, reads one response and its body, and closes.
func sendRaw(t testing.TB, addr, raw string) (*http.Response, string) {
	t.Helper()
	c := dialRaw(t, addr)
	defer c.Close()
	c.send(raw)
	method, _, _ := strings.Cut(raw, " ")
	return c.response(method)
}

// jsonError is what piko answers when it refuses a request.
type jsonError struct{ Error, Code string }

// wantError wants that a response is piko's JSON error with this status, code and text.
func wantError(t testing.TB, res *http.Response, body string, status int, code, text string) {
	t.Helper()
	var e jsonError
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Errorf("status %s, body %.200q is no JSON: %v; want %d, code %s", res.Status, body, err, status, code)
		return
	}
	if res.StatusCode != status || e.Code != code || !strings.Contains(e.Error, text) {
		t.Errorf("got status %d, code %q, error %q, want %d, %q, %q", res.StatusCode, e.Code, e.Error, status, code, text)
	}
	if got := res.Header.Get("X-Piko-Error"); got != code {
		t.Errorf("x-piko-error is %q, want %q", got, code)
	}
	if got := res.Header.Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
		t.Errorf("content type is %q, want JSON", got)
	}
}

// dialWebSocket opens a WebSocket through the proxy.
func dialWebSocket(t testing.TB, s *server, endpoint, path string) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{HandshakeTimeout: 10 * time.Second}
	c, res, err := d.Dial("ws://"+s.proxy+path, http.Header{"X-Piko-Endpoint": {endpoint}})
	if err != nil {
		status := ""
		if res != nil {
			status = res.Status
		}
		t.Fatalf("open a WebSocket: %v %s", err, status)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// wantEcho sends a message and wants it back.
func wantEcho(t testing.TB, c *websocket.Conn, message string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if err := c.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
		t.Errorf("send a message: %v", err)
		return
	}
	if _, got, err := c.ReadMessage(); err != nil || string(got) != message {
		t.Errorf("the echo of %.50q is %.50q, %v", message, got, err)
	}
}

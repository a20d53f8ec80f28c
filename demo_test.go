package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/gorilla/websocket"
)

// demoProcess is a process whose output is kept; signals may be nil.
func demoProcess(ctx context.Context, stdout io.Writer, signals <-chan os.Signal) *process {
	return &process{
		ctx:    ctx,
		getenv: func(string) (string, bool) { return "", false },
		stdout: stdout, stderr: io.Discard,
		signals: signals,
	}
}

func TestDemoWithExitEndsWithStatus0(t *testing.T) {
	var out bytes.Buffer
	if status := run([]string{"demo", "--exit"}, demoProcess(t.Context(), &out, nil)); status != exitOK {
		t.Errorf("status %d, want 0:\n%s", status, &out)
	}
	for _, want := range []string{"x-piko-endpoint: my-endpoint", "Host: my-endpoint.example.com", "POST /echo", "server-sent events", "101: 3 messages", "All 5 requests"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, &out)
		}
	}
}

func TestDemoRunsUntilASignalAndCanBeTried(t *testing.T) {
	r, w := io.Pipe()
	signals := make(chan os.Signal, 1)
	status := make(chan int, 1)
	go func() {
		status <- run([]string{"demo"}, demoProcess(t.Context(), w, signals))
		w.Close()
	}()
	var url string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "curl -H 'x-piko-endpoint: my-endpoint' "); ok {
			url = rest
		}
		if strings.Contains(lines.Text(), "Ctrl-C") {
			break
		}
	}
	if url == "" {
		t.Fatalf("demo printed no curl line; status %d", <-status)
	}
	go io.Copy(io.Discard, r)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-piko-endpoint", "my-endpoint")
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("the line to try does not work: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if string(body) != demoGreeting || err != nil {
		t.Errorf("the line to try gives %q, error %v", body, err)
	}
	signals <- syscall.SIGINT
	if s := <-status; s != exitOK {
		t.Errorf("status %d after Ctrl-C, want 0", s)
	}
}

func TestDemoFailsWhenARequestFails(t *testing.T) {
	d, err := newDemo(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d.start(t.Context())
	defer d.stop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.try(ctx, io.Discard); err == nil {
		t.Error("requests under a context that has ended worked")
	}
}

func TestDemoWebSocketSpeaksWithOthers(t *testing.T) {
	t.Run("our service with gorilla's client", func(t *testing.T) {
		s := httptest.NewServer(demoOrigin())
		defer s.Close()
		conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(s.URL, "http")+"/websocket", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.ReadMessage(); err != nil || string(got) != "hello" {
			t.Errorf("echo is %q, error %v", got, err)
		}
	})
	t.Run("our client with gorilla's service", func(t *testing.T) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := new(websocket.Upgrader).Upgrade(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			kind, message, err := conn.ReadMessage()
			if err != nil {
				t.Error(err)
				return
			}
			conn.WriteMessage(kind, message)
			conn.ReadMessage() // the close, which is answered
		}))
		defer s.Close()
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		r, err := wsDial(conn, req)
		if err != nil {
			t.Fatal(err)
		}
		if err := wsRoundTrip(conn, r, wsText, "hello"); err != nil {
			t.Errorf("message: %v", err)
		}
		if err := wsRoundTrip(conn, r, wsClose, "\x03\xe8"); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

func TestDemoWebSocketRefusesOtherFrames(t *testing.T) {
	for name, frame := range map[string]string{
		"fragmented":        "\x01\x81\x00\x00\x00\x00a",
		"reserved bit":      "\xc1\x81\x00\x00\x00\x00a",
		"unmasked":          "\x81\x01a",
		"too long":          "\x81\xfe\x00\x80\x00\x00\x00\x00",
		"cut in the header": "\x81",
		"cut in the mask":   "\x81\x81\x00",
		"cut in the text":   "\x81\x82\x00\x00\x00\x00a",
	} {
		if _, _, err := wsRead(strings.NewReader(frame), true); err == nil {
			t.Errorf("a frame that is %s was read", name)
		}
	}
	if err := wsWrite(io.Discard, wsText, make([]byte, wsMaxPayload+1), true); err == nil {
		t.Error("a frame that is too long was written")
	}
}

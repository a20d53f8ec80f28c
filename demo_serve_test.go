package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestDemoService(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	p := demoProcess(ctx, io.Discard, nil)
	p.stderr = w
	status := make(chan int, 1)
	go func() {
		status <- run([]string{"demo", "service", "--bind-addr", "127.0.0.1:0"}, p)
		w.Close()
	}()
	log := bufio.NewScanner(r)
	log.Scan()
	_, addr, found := strings.Cut(log.Text(), "addr=")
	if !found {
		t.Fatalf("no address in the log: %q", log.Text())
	}

	answer := askDemo(t, http.MethodDelete, "http://"+addr+"/a%20b?c=d", "")
	wantParts(t, answer, demoGreeting, "DELETE /a%20b?c=d HTTP/1.1\nHost: "+addr+"\n", "\nX-Test: yes\n")
	if line := scanLine(log); !regexp.MustCompile(`method=DELETE path=/a%20b .*client=192\.0\.2\.1`).MatchString(line) {
		t.Errorf("got the log line %q", line)
	}
	if got := askDemo(t, http.MethodPost, "http://"+addr+"/echo", "body"); got != "body" {
		t.Errorf("echo: got %q, want the body", got)
	}
	scanLine(log)

	cancel()
	for log.Scan() {
		t.Errorf("unexpected log line %q", log.Text())
	}
	if got := <-status; got != exitOK {
		t.Errorf("exit status %d, want %d", got, exitOK)
	}
}

func scanLine(s *bufio.Scanner) string {
	s.Scan()
	return s.Text()
}

// askDemo sends a request on a connection of its own and returns the answer's body.
func askDemo(t *testing.T, method, url, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("X-Test", "yes")
	req.Header.Set("X-Forwarded-For", "192.0.2.1")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

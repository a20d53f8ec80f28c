package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"piko/client"
	"piko/tunnel"
)

func TestWhereTheTokenComesFrom(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "token", "from-the-file\n")
	config := writeFile(t, "agent.yaml", "connect:\n  token_command: echo from-a-command\nlisteners: [{endpoint_id: e, addr: 1}]\n")
	for name, c := range map[string]struct {
		env, args []string
		want      string
		mayChange bool
		poll      time.Duration
	}{
		"nowhere":                {want: ""},
		"flag":                   {args: []string{"--connect.token", "from-a-flag"}, want: "from-a-flag"},
		"environment":            {env: []string{"PIKO_CONNECT_TOKEN=from-env"}, want: "from-env"},
		"file":                   {args: []string{"--connect.token-file", file}, want: "from-the-file", mayChange: true, poll: tokenPoll},
		"file by environment":    {env: []string{"PIKO_CONNECT_TOKEN_FILE=" + file}, want: "from-the-file", mayChange: true, poll: tokenPoll},
		"command":                {args: []string{"--connect.token-command", "echo from-a-command"}, want: "from-a-command", mayChange: true},
		"command by environment": {env: []string{"PIKO_CONNECT_TOKEN_COMMAND=echo from-a-command"}, want: "from-a-command", mayChange: true},
		"command in the file":    {args: []string{"--config.path", config}, want: "from-a-command", mayChange: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := parseAgent(t, c.env, append([]string{"start"}, c.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			fcfg, err := parseForward(t, c.env, append([]string{"tcp", "1", "e"}, c.args...)...)
			if name != "command in the file" && (err != nil || fcfg.Connect.tokenConfig != cfg.Connect.tokenConfig) {
				t.Errorf("forward has %+v, %v", fcfg.Connect.tokenConfig, err)
			}
			var out client.Client
			if err := cfg.Connect.apply(&out); err != nil {
				t.Fatal(err)
			}
			got := ""
			if out.Token != nil {
				if got, err = out.Token(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got != c.want || out.TokenMayChange != c.mayChange || out.TokenPoll != c.poll {
				t.Errorf("token %q, may change %v, polled each %v", got, out.TokenMayChange, out.TokenPoll)
			}
		})
	}
}

func TestMistakesAboutTokens(t *testing.T) {
	file := writeFile(t, "token", "secret")
	huge := writeFile(t, "huge", strings.Repeat("x", tunnel.MaxToken+1))
	config := writeFile(t, "agent.yaml", "connect: {token_file: "+file+"}\nlisteners: [{endpoint_id: e, addr: 1}]\n")
	for name, c := range map[string]struct {
		env, args []string
		want      []string
	}{
		"two of them":              {args: []string{"--connect.token", "secret", "--connect.token-file", file}, want: []string{"--connect.token and --connect.token-file", "give one"}},
		"flag and environment":     {env: []string{"PIKO_CONNECT_TOKEN=secret"}, args: []string{"--connect.token-command", "true"}, want: []string{"--connect.token and --connect.token-command", "PIKO_"}},
		"file and flag":            {args: []string{"--config.path", config, "--connect.token", "secret"}, want: []string{"--connect.token and --connect.token-file"}},
		"all three":                {env: []string{"PIKO_CONNECT_TOKEN_FILE=" + file}, args: []string{"--connect.token", "secret", "--connect.token-command", "x"}, want: []string{"--connect.token and --connect.token-file and --connect.token-command"}},
		"a file that is not there": {args: []string{"--connect.token-file", "/nowhere"}, want: []string{"--connect.token-file", "/nowhere"}},
		"a file that is too large": {args: []string{"--connect.token-file", huge}, want: []string{"--connect.token-file", "larger than 8192 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, command := range [][]string{{"agent", "http", "e", "1"}, {"forward", "tcp", "1", "e"}} {
				if command[0] == "forward" && name == "file and flag" {
					continue
				}
				p := newTestProcess(t, c.env...)
				ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
				defer cancel()
				p.ctx = ctx
				status := run(append(command, c.args...), &p.process)
				stderr := p.err.String()
				if status != exitUsage {
					t.Errorf("%s: exit status %d: %s", command[0], status, stderr)
				}
				for _, want := range c.want {
					if !strings.Contains(stderr, want) {
						t.Errorf("%s: the error %q does not say %q", command[0], stderr, want)
					}
				}
				if strings.Contains(stderr, "secret") {
					t.Errorf("%s: the error has the token: %s", command[0], stderr)
				}
			}
		})
	}
}

func TestTokenFileThatIsNoToken(t *testing.T) {
	for text, want := range map[string]string{
		"": "empty", " \n\t": "empty", "a b": "more than a token", "a\nb": "more than a token", "a\x00b": "more than a token", "tok\xc3\xa9n": "more than a token",
		strings.Repeat("s", tunnel.MaxToken+1): "larger than", strings.Repeat(" ", 1<<20): "empty", strings.Repeat(" ", 1<<20) + "secret": "empty",
	} {
		got, err := readToken(writeFile(t, "token", text))
		if err == nil || got != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %q, %v, want %q", text, got, err, want)
		}
	}
	longest := strings.Repeat("s", tunnel.MaxToken)
	if got, err := readToken(writeFile(t, "token", "\n"+longest+"\n")); got != longest || err != nil {
		t.Errorf("the longest token: %d bytes, %v", len(got), err)
	}
}

func TestTokenCommand(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the commands are for a Unix shell")
	}
	token := "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
	for name, c := range map[string]struct {
		command string
		want    string
		err     []string // in the error, if there is one
	}{
		"prints":                     {command: "echo ' " + token + "  '", want: token},
		"uses the shell":             {command: "printf '%s' '{" + token + "}' | tr -d '{}'", want: token},
		"speaks on stderr":           {command: "echo warning >&2; echo " + token, want: token},
		"fails":                      {command: "echo no lease >&2; exit 3", err: []string{"exit status 3", "no lease"}},
		"is not there":               {command: "/nowhere/vault", err: []string{"/nowhere/vault", "127"}},
		"prints nothing":             {command: "true", err: []string{"is empty"}},
		"prints two words":           {command: "echo Bearer " + token, err: []string{"more than a token"}},
		"prints without end":         {command: "yes xxxxxxxx | head -c 1000000", err: []string{"larger than"}},
		"fails with the token":       {command: "echo " + token + "; echo bad " + token + " >&2; exit 1", err: []string{"exit status 1", "bad ***"}},
		"fails with an opaque token": {command: "echo opaque1; echo bad opaque1 >&2; exit 1", err: []string{"bad ***"}},
		"tells the token alone":      {command: "echo bad " + token + " >&2; exit 1", err: []string{"bad ***"}},
		"tells too much":             {command: "yes 'far too much' | head -c 100000 >&2; exit 1", err: []string{"far too much", "..."}},
		"tells control characters":   {command: `printf 'a\033[2J\r\nb' >&2; exit 1`, err: []string{"a [2J b"}},
		"has no input":               {command: "cat; exit 4", err: []string{"exit status 4"}},
		"leaves something behind":    {command: "sleep 3 & echo " + token, want: token},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := newTokenCommand(c.command).token(t.Context())
			if got != c.want || (err != nil) != (c.err != nil) {
				t.Fatalf("token %q, %v", got, err)
			}
			for _, want := range c.err {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error %q does not say %q", err, want)
				}
			}
			if err != nil && (strings.Contains(err.Error(), token) || strings.Contains(err.Error(), "opaque1") || len(err.Error()) > 500) {
				t.Errorf("the error is %q", err)
			}
		})
	}
}

// A command that hangs is ended, with what it has started.
func TestTokenCommandEndsWithItsContext(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the command is for a Unix shell")
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if out, err := exec.CommandContext(t.Context(), "mkfifo", pipe).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v, %s", err, out)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("test")
	result := make(chan error, 1)
	c := newTokenCommand("cat " + pipe + " > /dev/null & wait")
	go func() {
		_, err := c.token(ctx)
		result <- err
	}()
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // when cat has opened it
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cancel(why)
	if err := <-result; !errors.Is(err, why) {
		t.Errorf("ended with %v", err)
	}
	eventually(t, func() error {
		if _, err := w.WriteString("x"); !errors.Is(err, syscall.EPIPE) {
			return fmt.Errorf("what the command has started goes on: %v", err)
		}
		return nil
	})
}

// All who ask at once get what one run has printed; who asks later, a new one.
func TestTokenCommandRunsOnceAtATime(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the command is for a Unix shell")
	}
	count := filepath.Join(t.TempDir(), "count")
	c := newTokenCommand("echo x >> " + count + "; wc -l < " + count)
	first, err := c.token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.until = time.Now().Add(time.Hour)
	results := make(chan string)
	for range 20 {
		go func() {
			token, _ := c.token(t.Context())
			results <- token
		}()
	}
	for range 20 {
		if got := <-results; got != first {
			t.Errorf("got %q", got)
		}
	}
	c.until = time.Time{}
	if got, err := c.token(t.Context()); got == first || err != nil {
		t.Errorf("later: %q, %v", got, err)
	}
}

// Who waits for a run of others waits no longer than it wants.
func TestTokenCommandIsWaitedForWithinTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTokenCommand("true")
		c.running <- struct{}{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

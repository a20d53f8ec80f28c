package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	// tokenCommandTime is how long a command for tokens may run.
	tokenCommandTime = 10 * time.Second

	// tokenCommandRest is how long its output is waited for when it has ended:
	// what it has started may hold it open.
	tokenCommandRest = time.Second

	// tokenFresh is how long a token that a command has printed is good for all
	// who ask: the listeners of an agent do so at once.
	tokenFresh = time.Second

	// maxComplaint bounds what is shown of what a command says on stderr.
	maxComplaint = 300
)

// tokenCommand runs a command that prints tokens, once at a time.
type tokenCommand struct {
	// Static.
	command string
	running chan struct{} // holds one token while the command runs

	// Owned by who has put something into running.
	last  string
	until time.Time // last is good
}

func newTokenCommand(command string) *tokenCommand {
	return &tokenCommand{command: command, running: make(chan struct{}, 1)}
}

// token runs the command, unless it was run a moment ago.
func (c *tokenCommand) token(ctx context.Context) (string, error) {
	select {
	case c.running <- struct{}{}:
		defer func() { <-c.running }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if time.Now().Before(c.until) {
		return c.last, nil
	}
	token, err := c.run(ctx)
	if err != nil {
		return "", fmt.Errorf("run --connect.token-command: %w", err)
	}
	c.last, c.until = token, time.Now().Add(tokenFresh)
	return token, nil
}

// run is one run of the command. It has the environment of this process and no
// input. It goes through the shell because a token is often what jq has made of
// another command's answer.
func (c *tokenCommand) run(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, tokenCommandTime, fmt.Errorf("it took more than %v", tokenCommandTime))
	defer cancel()
	shell, flag := "/bin/sh", "-c"
	if runtime.GOOS == "windows" {
		shell, flag = "cmd", "/C"
	}
	cmd := exec.CommandContext(ctx, shell, flag, c.command)
	cmd.WaitDelay = tokenCommandRest
	stdout, stderr := &cappedBuffer{most: maxTokenText}, &cappedBuffer{most: maxTokenText}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	killGroup(cmd)
	err := cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has ended well, and left something behind
	}
	text, complaint := stdout.bytes(), stderr.bytes()
	token, bad := cutToken(text)
	switch {
	case err != nil:
		return "", complain(err, complaint, text)
	case bad != nil:
		return "", complain(fmt.Errorf("what it prints %w", bad), complaint, text)
	}
	return token, nil
}

// tokenShape is what looks like a JWT.
var tokenShape = regexp.MustCompile(`[\w-]{8,}\.[\w-]{8,}\.[\w-]*`)

// complain adds to err what the command says on stderr: one line without
// control characters, and without what it has printed or what looks like a token.
func complain(err error, stderr, stdout []byte) error {
	text := string(stderr)
	for secret := range strings.FieldsSeq(string(stdout)) {
		if len(secret) >= len("x.y.z") {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	text = strings.ToValidUTF8(tokenShape.ReplaceAllString(text, "***"), "")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(text) > maxComplaint {
		text = strings.ToValidUTF8(text[:maxComplaint], "") + "..."
	}
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: %q", err, text)
}

// cappedBuffer keeps the first bytes that are written to it, one more than most
// at most, and takes all. What the command has started may go on writing.
type cappedBuffer struct {
	most int

	// Guarded by mu.
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *cappedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Write(p[:min(len(p), b.most+1-b.buf.Len())])
	return len(p), nil
}

func (b *cappedBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"piko/client"
	"piko/tunnel"
)

// tokenPoll is how often the file with a token is looked at while there are
// tunnels, whose servers get a new one.
const tokenPoll = time.Second

// tokenConfig says where the token for the server comes from: one of them.
type tokenConfig struct {
	Token        string `placeholder:"JWT" help:"Token for the server. Prefer the environment variable: other users of the machine see command lines."`
	TokenFile    string `placeholder:"FILE" help:"File with the token and nothing else. It is read for each attempt to connect, and looked at every second: a new token needs no restart, and open tunnels go on with it."`
	TokenCommand string `placeholder:"COMMAND" help:"Command that prints the token, run by the shell for each attempt to connect, and before the token expires. It has 10 s."`
}

// apply gives c the token. Which of the options are there is checked before any
// file is read.
func (t *tokenConfig) apply(c *client.Client) error {
	var given []string
	for _, option := range []struct{ name, value string }{
		{"--connect.token", t.Token}, {"--connect.token-file", t.TokenFile}, {"--connect.token-command", t.TokenCommand},
	} {
		if option.value != "" {
			given = append(given, option.name)
		}
	}
	if len(given) > 1 {
		return fmt.Errorf("%s: give one of them, wherever they stand: flags, PIKO_ environment variables or the file", strings.Join(given, " and "))
	}
	switch {
	case t.Token != "":
		c.Token = func(context.Context) (string, error) { return t.Token, nil }
	case t.TokenFile != "":
		if _, err := readToken(t.TokenFile); err != nil {
			return fmt.Errorf("--connect.token-file: %w", err)
		}
		c.Token = func(context.Context) (string, error) { return readToken(t.TokenFile) }
		c.TokenMayChange, c.TokenPoll = true, tokenPoll
	case t.TokenCommand != "":
		c.Token = newTokenCommand(t.TokenCommand).token
		c.TokenMayChange = true
	}
	return nil
}

// readToken reads a file that holds a token and nothing else.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTokenText+1))
	if err != nil {
		return "", err
	}
	token, err := cutToken(text)
	if err != nil {
		return "", fmt.Errorf("%s %w; write the token into it and nothing else", path, err)
	}
	return token, nil
}

// maxTokenText is a token with all the space that may be around it.
const maxTokenText = tunnel.MaxToken + 1<<10

// cutToken takes away the space around a token, and says what a text is that
// holds none. The error never has any of the text.
func cutToken(text []byte) (string, error) {
	token := strings.TrimSpace(string(text))
	switch {
	case token == "":
		return "", errors.New("is empty")
	case len(text) > maxTokenText || len(token) > tunnel.MaxToken:
		return "", fmt.Errorf("is larger than %d bytes, which no token is", tunnel.MaxToken)
	}
	for i := range len(token) {
		if c := token[i]; c <= ' ' || c >= 0x7f {
			return "", errors.New("holds more than a token")
		}
	}
	return token, nil
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"piko/events"
)

// eventsConfig is the events.* section.
type eventsConfig struct {
	WebhookURL        webhookURL `placeholder:"URL" help:"Where to send a POST when an endpoint or a node comes up, goes down or drains. Of the nodes of a cluster that have it, the one with the first name sends what all see."`
	WebhookSecret     secret     `placeholder:"SECRET" help:"Signs what is sent (HMAC-SHA256 in X-Piko-Signature), so that the receiver knows who has. At least 16 bytes. Prefer the file: other users of the machine see command lines."`
	WebhookSecretFile string     `placeholder:"PATH" help:"File with the secret and nothing else."`
}

// webhookURL is where events are sent: http or https, or nowhere.
type webhookURL string

// UnmarshalText accepts a URL with a host, and the empty string.
func (u *webhookURL) UnmarshalText(text []byte) error {
	if len(text) != 0 {
		if err := checkURL(string(text), "https", "http"); err != nil {
			return err
		}
	}
	*u = webhookURL(text)
	return nil
}

// secret is that of the flag, or of the file.
func (c *eventsConfig) secret() ([]byte, error) {
	if c.WebhookSecretFile == "" {
		return []byte(string(c.WebhookSecret)), nil
	}
	f, err := os.Open(c.WebhookSecretFile)
	if err != nil {
		return nil, fmt.Errorf("--events.webhook-secret-file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
	if err != nil {
		return nil, fmt.Errorf("--events.webhook-secret-file: %w", err)
	}
	text = bytes.TrimSpace(text)
	var s secret
	if err := s.UnmarshalText(text); err != nil {
		return nil, fmt.Errorf("--events.webhook-secret-file: %s: %w", c.WebhookSecretFile, err)
	}
	return text, nil
}

// check finds what no single value shows.
func (c *eventsConfig) check() error {
	given := c.WebhookSecret != "" || c.WebhookSecretFile != ""
	switch {
	case c.WebhookSecret != "" && c.WebhookSecretFile != "":
		return errors.New("--events.webhook-secret-file: give it or --events.webhook-secret, not both")
	case c.WebhookURL != "" && !given:
		return errors.New("--events.webhook-secret-file: missing; without a secret the receiver cannot know who sends. Write one into a file, such as the output of: openssl rand -base64 32")
	case c.WebhookURL == "" && given:
		return errors.New("--events.webhook-url: missing; the secret is for nothing else")
	}
	_, err := c.secret()
	return err
}

// newWebhook is nil if nothing is to be sent.
func (s *server) newWebhook(log *slog.Logger, registry prometheus.Registerer) (*events.Webhook, error) {
	c := &s.cfg.Events
	if c.WebhookURL == "" {
		return nil, nil
	}
	key, err := c.secret()
	if err != nil {
		return nil, err
	}
	s.webhookSecret.Store(&key)
	return &events.Webhook{URL: string(c.WebhookURL), Secret: func() []byte { return *s.webhookSecret.Load() }, Speaks: s.isFirst, Logger: subsystem(log, "events"), Registerer: registry}, nil
}

// files are those that are taken over when they change.
func (c *eventsConfig) files() []string {
	if c.WebhookSecretFile == "" {
		return nil
	}
	return []string{c.WebhookSecretFile}
}

// prepareEvents prepares another secret for a webhook that runs. Each event is signed with the one of the moment in which
// it is sent, also when that is not the first time.
func (s *server) prepareEvents(next *serverConfig) (p reloadPart, err error) {
	if s.webhook == nil || next.Events.WebhookURL == "" {
		return p, nil
	}
	key, err := next.Events.secret()
	if err != nil {
		return p, err
	}
	was, now := &s.was().Events, &next.Events
	if was.WebhookSecret != now.WebhookSecret {
		p.applied = append(p.applied, "events.webhook-secret")
	}
	if was.WebhookSecretFile != now.WebhookSecretFile || now.WebhookSecretFile != "" && !bytes.Equal(key, *s.webhookSecret.Load()) {
		p.applied = append(p.applied, "events.webhook-secret-file")
	}
	p.commit = func() { s.webhookSecret.Store(&key) }
	return p, nil
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"piko/events"
)

// TestWebhookOfACluster: of two nodes that have a webhook, one sends what both
// see, signed with the secret of the file.
func TestWebhookOfACluster(t *testing.T) {
	t.Parallel()
	type hook struct {
		events.Event
		signed bool
	}
	got := make(chan hook, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h := hook{signed: strings.Contains(r.Header.Get(events.HeaderSignature), ",v1=")}
		_ = json.Unmarshal(body, &h.Event)
		got <- h
	}))
	t.Cleanup(receiver.Close)
	file := writeFile(t, "secret", "0123456789abcdef-CANARY\n")
	nodes := startCluster(t, 2, func(cfg *serverConfig) {
		cfg.Events = eventsConfig{WebhookURL: webhookURL(receiver.URL), WebhookSecretFile: file}
	})
	stop := startAgent(t, nodes[1], "my-endpoint", testService(t).URL)
	want := []string{events.EndpointUp, events.EndpointDown}
	for h := range got {
		switch {
		case h.Endpoint == "": // about n2, which has come
		case !h.signed || h.Type != want[0] || h.Endpoint != "my-endpoint" || h.Node != "n1":
			t.Fatalf("got %+v, want %s of n1", h, want[0])
		default:
			want = want[1:]
			stop()
		}
		if len(want) == 0 {
			break
		}
	}
	for _, n := range nodes {
		if strings.Contains(n.log.String(), "CANARY") {
			t.Error("the secret is in the log")
		}
	}
}

// TestWebhookSecretIsReloaded: another secret in the file signs from then on; one that is none changes nothing.
func TestWebhookSecretIsReloaded(t *testing.T) {
	t.Parallel()
	signatures := make(chan [2]string, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), "my-endpoint") {
			signatures <- [2]string{r.Header.Get(events.HeaderSignature), string(body)}
		}
	}))
	t.Cleanup(receiver.Close)
	file := writeFile(t, "secret", "the first secret\n")
	n := startNode(t, func(cfg *serverConfig) {
		cfg.Events = eventsConfig{WebhookURL: webhookURL(receiver.URL), WebhookSecretFile: file}
	})
	if files := n.cfg.files(); !slices.Contains(files, file) {
		t.Errorf("watched are %v", files)
	}
	signed := func(secret string) {
		t.Helper()
		stop := startAgent(t, n, "my-endpoint", testService(t).URL)
		defer stop()
		got := <-signatures
		var unix int64
		if _, err := fmt.Sscanf(got[0], "t=%d,", &unix); err != nil || got[0] != events.Sign([]byte(secret), time.Unix(unix, 0), []byte(got[1])) {
			t.Errorf("%s is not signed with %q", got, secret)
		}
	}
	rewrite(t, file, "short")
	if _, _, err := n.prepare(n.cfg); err == nil || !strings.Contains(err.Error(), "too short") {
		t.Errorf("a secret that is too short: %v", err)
	}
	rewrite(t, file, "the second secret\n")
	commit, applied, err := n.prepare(n.cfg)
	if err != nil || !slices.Equal(applied, []string{"events.webhook-secret-file"}) {
		t.Fatalf("applied %v, %v", applied, err)
	}
	commit()
	signed("the second secret")
	if _, applied, err := n.prepare(n.cfg); err != nil || len(applied) != 0 {
		t.Errorf("the same again: applied %v, %v", applied, err)
	}
}

func TestWebhookOptions(t *testing.T) {
	file := writeFile(t, "secret", "short")
	for args, want := range map[string]string{
		"--events.webhook-url https://example.com":                                       "--events.webhook-secret-file: missing",
		"--events.webhook-url ftp://example.com":                                         "--events.webhook-url",
		"--events.webhook-secret 0123456789abcdef":                                       "--events.webhook-url: missing",
		"--events.webhook-secret CANARY":                                                 "too short",
		"--events.webhook-url https://example.com --events.webhook-secret-file " + file:  "too short",
		"--events.webhook-url https://example.com --events.webhook-secret-file /nowhere": "no such file",
		"--events.webhook-url https://example.com --events.webhook-secret-file " + file + " --events.webhook-secret 0123456789abcdef=": "not both",
	} {
		status, _, stderr := runPiko(t, append([]string{"server"}, strings.Fields(args)...)...)
		if status != exitUsage || !strings.Contains(stderr, want) || strings.Contains(stderr, "CANARY") {
			t.Errorf("%s: exit status %d, %s, want %q", args, status, stderr, want)
		}
	}
}

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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

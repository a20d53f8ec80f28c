//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"piko/tracing/tracingtest"
)

// TestTrace: a request through two nodes and an agent is one trace at the collector, below the
// client's and above the service's, though all three are told to stop a moment later.
func TestTrace(t *testing.T) {
	t.Parallel()
	collector := tracingtest.Start(t)
	const token = "Bearer for-the-collector-only"
	headers := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(headers, []byte("Authorization: "+token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--tracing.endpoint", collector.URL, "--tracing.headers-file", headers, "--log.level", "debug"}
	gossip, o := freeAddr(t), startOrigin(t, "origin")
	owner := startServer(t, append([]string{"--cluster.node-id", "owner", "--cluster.gossip.bind-addr", gossip}, flags...)...)
	entry := startServer(t, append([]string{"--cluster.node-id", "entry", "--cluster.join", gossip}, flags...)...)
	agent := owner.agent(t, "my-endpoint", o.addr, append([]string{"--connections", "1", "--tracing.service-name", "my-agent"}, flags...)...)

	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	var service seen
	eventually(t, 10*time.Second, "the entry node knows the endpoint", func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, entry.url("/dump"), nil)
		if err != nil {
			return err
		}
		req.Header = http.Header{"X-Piko-Endpoint": {"my-endpoint"}, "Traceparent": {"00-" + trace + "-" + parent + "-01"}, "Connection": {"close"}}
		service, err = seenBy(req)
		return err
	})
	for _, p := range []*process{agent, entry.process, owner.process} {
		p.stop(t, 20*time.Second)
	}

	spans := map[string]tracingtest.Span{} // by parent; of the request that was answered
	for _, s := range collector.Spans() {
		if s.Trace == trace && !s.Failed {
			spans[s.Parent] = s
		}
	}
	id := parent
	for _, want := range []string{"piko-server SERVER entry", "piko-server CLIENT ", "piko-server SERVER owner", "piko-server CLIENT ", "my-agent SERVER ", "my-agent CLIENT "} {
		s, ok := spans[id]
		if got := s.Service + " " + s.Kind + " " + s.Attrs["piko.node"]; !ok || got != want {
			t.Fatalf("below %s is %q, want %q; all are %+v", id, got, want, collector.Spans())
		}
		id = s.ID
	}
	if got, want := service.Header.Get("Traceparent"), fmt.Sprintf("00-%s-%s-01", trace, id); got != want {
		t.Errorf("the service got %q, want %q", got, want)
	}
	for _, r := range collector.Requests() {
		if r.Header.Get("Authorization") != token {
			t.Errorf("the collector got %v", r.Header)
		}
	}
	for _, p := range []*process{agent, entry.process, owner.process} {
		if strings.Contains(p.readOutput(), token) {
			t.Errorf("the log of %s has the collector's token", p.name)
		}
	}
	if !strings.Contains(entry.readOutput(), `"trace_id":"`+trace+`"`) {
		t.Error("the access log of the entry node does not name the trace")
	}
}

// seenBy sends the request, and returns what the service says of it.
func seenBy(req *http.Request) (s seen, err error) {
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return s, fmt.Errorf("status %d", res.StatusCode)
	}
	return s, json.NewDecoder(res.Body).Decode(&s)
}

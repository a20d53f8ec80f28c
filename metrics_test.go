package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"piko/agent"
	"piko/client"
	"piko/forward"
)

// metric is one that something has registered, whether it has values or not.
type metric struct {
	labels []string // in order
	help   string
}

var descPattern = regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: ("(?:[^"\\]|\\.)*"), unit: "[^"]*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// registered are the metrics of a registry that are ours, by name.
func registered(t *testing.T, reg *prometheus.Registry) map[string]metric {
	t.Helper()
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		reg.Describe(ch)
	}()
	found := make(map[string]metric)
	for desc := range ch {
		m := descPattern.FindStringSubmatch(desc.String())
		if m == nil {
			t.Fatalf("a metric cannot be read: %s", desc)
		}
		if !strings.HasPrefix(m[1], "piko_") {
			continue
		}
		help, err := strconv.Unquote(m[2])
		if err != nil {
			t.Fatalf("%s: %v", desc, err)
		}
		var labels []string
		for label := range strings.SplitSeq(m[3]+","+m[4], ",") {
			if name, _, _ := strings.Cut(label, "="); name != "" {
				labels = append(labels, name)
			}
		}
		slices.Sort(labels)
		found[m[1]] = metric{labels, help}
	}
	return found
}

// metricsOf are all metrics of a node, an agent, a forwarder, and those that all of them have.
func metricsOf(t *testing.T) (node, agents, forwards, all map[string]metric) {
	t.Helper()
	n := startNode(t, func(cfg *serverConfig) {
		cfg.Proxy.Auth.HMACSecretKey = []hmacSecret{testSecret}
		cfg.Tracing.Endpoint = "http://127.0.0.1:1"
		cfg.Events = eventsConfig{WebhookURL: "http://127.0.0.1:1", WebhookSecretFile: writeFile(t, "secret", "0123456789abcdef")}
	})
	eventually(t, func() error { // the webhook has its own when it runs
		if node = registered(t, n.registry); node["piko_events_webhook_total"].help == "" {
			return errors.New("the webhook's metrics are not there")
		}
		return nil
	})
	own := prometheus.NewRegistry()
	if _, err := agent.New(agent.Config{Listeners: []agent.Listener{{Endpoint: "e", Addr: "http://localhost"}}}, &client.Client{}, nil, own, nil); err != nil {
		t.Fatal(err)
	}
	ports := prometheus.NewRegistry()
	if _, err := forward.New(forward.Config{Ports: []forward.Port{{Addr: "1", Endpoint: "e"}}, Registerer: ports}, &client.Client{}, nil); err != nil {
		t.Fatal(err)
	}
	common := newRegistry()
	common.MustRegister(append(newReloadMetrics().collectors(), newLogMetrics(func() uint64 { return 0 }), n.expiry)...)
	all = registered(t, common)
	for name, m := range node {
		if strings.HasPrefix(name, "piko_port_") || strings.HasPrefix(name, "piko_tracing_") {
			all[name] = m
		}
	}
	for name := range all {
		delete(node, name)
	}
	return node, registered(t, own), registered(t, ports), all
}

const observabilityDoc = "docs/observability.md"

// TestMetricsAreDocumented compares the tables of the document with the metrics; -update writes them.
func TestMetricsAreDocumented(t *testing.T) {
	node, agents, forwards, all := metricsOf(t)
	before, err := os.ReadFile(observabilityDoc)
	if err != nil {
		t.Fatal(err)
	}
	text := string(before)
	for mark, metrics := range map[string]map[string]metric{"a node": node, "an agent": agents, "a forwarder": forwards, "all": all} {
		begin := "<!-- note: metrics of " + mark + "; written by: go test -run TestMetricsAreDocumented -update . -->\n"
		head, rest, ok := strings.Cut(text, begin)
		_, tail, end := strings.Cut(rest, "\n\n") // the empty line after the table
		if !ok || !end {
			t.Fatalf("%s has no %s", observabilityDoc, begin)
		}
		var table strings.Builder
		table.WriteString("| metric | labels | meaning |\n|---|---|---|\n")
		for _, name := range slices.Sorted(maps.Keys(metrics)) {
			table.WriteString(fmt.Sprintf("| `%s` | %s | %s |\n", name, strings.Join(metrics[name].labels, ", "), strings.ReplaceAll(metrics[name].help, "|", `\|`)))
		}
		text = head + begin + table.String() + "\n" + tail
	}
	if text == string(before) {
		return
	}
	if *update {
		if err := os.WriteFile(observabilityDoc, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s does not have the metrics that there are; run go test -run TestMetricsAreDocumented -update .", observabilityDoc)
}

// TestMetricsOfV090: dashboards that were made for v0.9.0 find what they ask for.
func TestMetricsOfV090(t *testing.T) {
	node, agents, _, _ := metricsOf(t)
	for _, where := range []struct {
		has  map[string]metric
		want string
	}{
		{node, `piko_cluster_nodes status
piko_upstreams_connected_upstreams
piko_upstreams_registered_endpoints
piko_upstreams_upstream_requests_total
piko_upstreams_remote_requests_total node_id
piko_proxy_requests_in_flight
piko_proxy_requests_total method status
piko_proxy_request_latency_seconds method status
piko_proxy_request_size_bytes
piko_proxy_response_size_bytes
piko_gossip_connections_inbound_total
piko_gossip_connections_outbound_total
piko_gossip_stream_bytes_inbound_total
piko_gossip_stream_bytes_outbound_total
piko_gossip_packet_bytes_inbound_total
piko_gossip_packet_bytes_outbound_total
piko_gossip_digest_entries_inbound_total
piko_gossip_digest_entries_outbound_total
piko_gossip_delta_entries_inbound_total
piko_gossip_delta_entries_outbound_total
piko_gossip_entries deleted internal node_id`},
		{agents, `piko_agent_requests_in_flight endpoint
piko_agent_requests_total endpoint method status
piko_agent_request_latency_seconds endpoint method status
piko_agent_request_size_bytes endpoint
piko_agent_response_size_bytes endpoint`},
	} {
		for line := range strings.SplitSeq(where.want, "\n") {
			want := strings.Fields(line)
			if m, ok := where.has[want[0]]; !ok || !slices.Equal(m.labels, want[1:]) && len(m.labels)+len(want) != 1 {
				t.Errorf("%s: there: %v, with labels %v", line, ok, m.labels)
			}
		}
	}
}

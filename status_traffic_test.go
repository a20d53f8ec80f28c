package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"piko/admin"
	"piko/events"
)

// TestStatusCommandsOfTraffic: each command in each format, asked at a node that
// has no tunnel itself.
func TestStatusCommandsOfTraffic(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 2, nil)
	startAgent(t, nodes[1], "my-endpoint", brokenService(t))
	url := "http://" + nodes[0].AdminAddr().String()
	ask := func(args string) string {
		status, stdout, stderr := runPiko(t, append([]string{"server", "status", "--server.url", url}, strings.Fields(args)...)...)
		if status != exitOK {
			t.Fatalf("%s: exit status %d: %s", args, status, stderr)
		}
		return stdout
	}
	c := newClient(t)
	eventually(t, func() error {
		if status, _, _ := get(t, c, "http://"+nodes[0].ProxyAddr().String(), "x-piko-endpoint", "my-endpoint"); status != http.StatusInternalServerError {
			return fmt.Errorf("the service is not reached: %d", status)
		}
		return nil
	})
	for args, want := range map[string]string{
		"overview":                                "NODE",
		"overview --cluster":                      "total",
		"endpoints --cluster --sort rps":          "my-endpoint  -       1        n2",
		"endpoints --search nothing":              "0 of 0, 1 in all",
		"endpoint my-endpoint --cluster":          "500",
		"upstreams":                               "UPSTREAM",
		"upstreams --cluster":                     "the service answered 500",
		"upstreams --forward n2 --endpoint other": "UPSTREAM",
	} {
		if got := ask(args + " -o table"); !strings.Contains(got, want) {
			t.Errorf("%s: got\n%s\nwhich lacks %q", args, got, want)
		}
		var v any
		if got := ask(args + " -o json"); json.Unmarshal([]byte(got), &v) != nil {
			t.Errorf("%s: no JSON: %s", args, got)
		}
		if got := ask(args); yaml.Unmarshal([]byte(got), &v) != nil || !strings.Contains(got, "partial: []\n") {
			t.Errorf("%s: no YAML: %s", args, got)
		}
	}
	var list admin.UpstreamList
	if err := json.Unmarshal([]byte(ask("upstreams --cluster -o json")), &list); err != nil || len(list.Upstreams) != 1 {
		t.Fatalf("upstreams: %+v, %v", list, err)
	}
	id := list.Upstreams[0].ID
	if got := ask("disconnect " + id + " -o table"); got != "disconnected "+id+"\n" {
		t.Errorf("disconnect: %s", got)
	}
	eventually(t, func() error {
		list = admin.UpstreamList{}
		if err := json.Unmarshal([]byte(ask("upstreams --cluster -o json")), &list); err != nil || len(list.Upstreams) != 1 || list.Upstreams[0].ID == id {
			return fmt.Errorf("%+v, %v", list, err)
		}
		return nil
	})
	if got := ask("drain --forward n2 -o table"); !strings.Contains(got, "TUNNELS LEFT") {
		t.Errorf("drain: %s", got)
	}
	if got := ask("overview --forward n2"); !strings.Contains(got, "state: draining") || !strings.Contains(got, "deadline: null") {
		t.Errorf("after the drain: %s", got)
	}
}

func TestStatusCommandsThatFail(t *testing.T) {
	n := startNode(t, nil)
	url := "http://" + n.AdminAddr().String()
	old := httptest.NewServer(http.NotFoundHandler()) // a node of v0.9.0
	defer old.Close()
	for args, want := range map[string]string{
		"endpoint nobody":                        "nobody serves",
		"endpoint a/b":                           "invalid endpoint",
		"endpoints --limit 2000":                 "use 0 to 1000",
		"disconnect nonsense":                    "piko server status upstreams",
		"disconnect n9.1":                        "no such node",
		"disconnect " + n.id + ".1":              "no such tunnel",
		"events --forward n9":                    "not forwarded",
		"overview --server.url " + old.URL:       "not the admin port",
		"events --server.url " + old.URL:         "not the admin port",
		"drain --server.url http://127.0.0.1:1":  "is the server running",
		"events --server.url http://127.0.0.1:1": "is the server running",
		"endpoints --sort colour":                "--sort",
	} {
		status, stdout, stderr := runPiko(t, append([]string{"server", "status", "--server.url", url}, strings.Fields(args)...)...)
		if status == exitOK || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit status %d, stdout %q, stderr %q lacks %q", args, status, stdout, stderr, want)
		}
	}
}

// TestWatchingEndsInGoodOrder: what goes on until interrupted is no failure then.
func TestWatchingEndsInGoodOrder(t *testing.T) {
	n := startNode(t, nil)
	for args, want := range map[string]string{
		"overview --watch -o table": "active",
		"endpoints -w -o json":      `"total"`,
		"events -o table":           "upstream-connected",
	} {
		t.Run(args, func(t *testing.T) {
			p := newTestProcess(t)
			status := startRun(t, p, append([]string{"server", "status", "--server.url", "http://" + n.AdminAddr().String()}, strings.Fields(args)...)...)
			eventually(t, func() error {
				if strings.Contains(p.out.String(), want) {
					return nil
				}
				n.events.Publish(events.Event{Type: events.UpstreamConnected, Node: n.id}) // when it watches
				return fmt.Errorf("stdout lacks %q: %s", want, p.out.String())
			})
			p.sigs <- interrupt
			if got := <-status; got != exitOK {
				t.Errorf("exit status %d: %s", got, p.err.String())
			}
		})
	}
}

func TestCellsOfTables(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{rate(0), "0"}, {rate(0.001), "0.00"}, {rate(1.5), "1.50"}, {rate(1234.5), "1234"},
		{latency(0), "-"}, {latency(0.001234), "1.23ms"}, {latency(0.12345), "123ms"}, {latency(1.23456), "1.23s"},
		{size(0), "0 B"}, {size(1023), "1023 B"}, {size(1536), "1.5 KiB"}, {size(3 << 30), "3.0 GiB"}, {size(1 << 50), "1024.0 TiB"},
		{since(time.Time{}), "-"}, {oneLine("a\nb\x1b[2J"), "a b [2J"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

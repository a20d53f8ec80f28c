package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"piko/admin"
	"piko/events"
)

// readJSON asks an admin port.
func readJSON(t *testing.T, c *http.Client, n *testNode, path string, v any) error {
	t.Helper()
	status, body, _ := get(t, c, "http://"+n.AdminAddr().String()+path)
	if status != http.StatusOK {
		return fmt.Errorf("%s: %d %s", path, status, body)
	}
	return json.Unmarshal([]byte(body), v)
}

// brokenService answers with 500.
func brokenService(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	t.Cleanup(s.Close)
	return s.URL
}

// TestStatusOfTraffic: any node shows what all have seen of an endpoint whose
// tunnels are on two of three.
func TestStatusOfTraffic(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 3, nil)
	startAgent(t, nodes[0], "my-endpoint", testService(t).URL)
	startAgent(t, nodes[1], "my-endpoint", testService(t).URL)
	startAgent(t, nodes[1], "broken", brokenService(t))
	c := newClient(t)
	for i, n := range nodes {
		reach(t, c, n, "my-endpoint")
		eventually(t, func() error {
			if status, _, _ := get(t, c, "http://"+n.ProxyAddr().String(), "x-piko-endpoint", "broken"); status != http.StatusInternalServerError {
				return fmt.Errorf("broken through %d: %d", i, status)
			}
			return nil
		})
	}
	for _, n := range nodes {
		eventually(t, func() error {
			for _, endpoint := range []string{"my-endpoint", "broken"} { // for what counts is the last seconds
				get(t, c, "http://"+nodes[0].ProxyAddr().String(), "x-piko-endpoint", endpoint)
			}
			return checkTraffic(t, c, n)
		})
	}
	var alone admin.EndpointDetail
	if err := readJSON(t, c, nodes[2], "/status/endpoints/my-endpoint", &alone); err != nil || len(alone.Upstreams) != 0 || alone.Tunnels != 2 || !slices.Equal(alone.Nodes, []string{"n1", "n2"}) {
		t.Errorf("n3 alone: %+v, %v", alone, err)
	}
	for path, want := range map[string]int{
		"/status/endpoints/nobody":              404,
		"/status/endpoints/a%20b":               400,
		"/status/endpoints?limit=1001":          400,
		"/status/endpoints?sort=colour":         400,
		"/status/upstreams?limit=-1":            400,
		"/status/upstreams/n1.1/disconnect":     405,
		"/status/drain":                         405,
		"/status/live?endpoint=a%20b":           400,
		"/status/overview?forward=n2":           200,
		"/status/events?forward=n2":             403,
		"/status/endpoints/a/b":                 404,
		"/status/endpoints/nobody?cluster=true": 404,
	} {
		if status, body, _ := get(t, c, "http://"+nodes[0].AdminAddr().String()+path); status != want {
			t.Errorf("%s: got %d %s, want %d", path, status, body, want)
		}
	}
}

// checkTraffic says what is missing at a node that is asked for all.
func checkTraffic(t *testing.T, c *http.Client, n *testNode) error {
	var o admin.Overview
	var list admin.EndpointList
	var d, broken admin.EndpointDetail
	var ups admin.UpstreamList
	if err := errors.Join(
		readJSON(t, c, n, "/status/overview?cluster=true", &o),
		readJSON(t, c, n, "/status/endpoints?cluster=true&sort=errors&search=B", &list),
		readJSON(t, c, n, "/status/endpoints/my-endpoint?cluster=true", &d),
		readJSON(t, c, n, "/status/endpoints/broken?cluster=true", &broken),
		readJSON(t, c, n, "/status/upstreams?cluster=true", &ups),
	); err != nil {
		return err
	}
	ids := []string{}
	for _, n := range o.Nodes {
		ids = append(ids, n.ID+" "+n.State)
	}
	switch {
	case !slices.Equal(slices.Sorted(slices.Values(ids)), []string{"n1 active", "n2 active", "n3 active"}) || len(o.Partial) > 0:
		return fmt.Errorf("overview of %v without %v", ids, o.Partial)
	case o.Totals.Tunnels != 3 || o.Totals.Endpoints != 2 || o.Totals.RequestsPerSecond <= 0 || o.Totals.ErrorsPerSecond <= 0:
		return fmt.Errorf("totals %+v", o.Totals)
	case list.Total != 2 || list.Matched != 1 || len(list.Endpoints) != 1 || list.Endpoints[0].Endpoint != "broken" || list.Endpoints[0].ErrorsPerSecond <= 0:
		return fmt.Errorf("list %+v", list)
	case d.Tunnels != 2 || !slices.Equal(d.Nodes, []string{"n1", "n2"}) || len(d.Upstreams) != 2 || d.P99 <= 0 || len(d.RecentErrors) > 0:
		return fmt.Errorf("my-endpoint %+v", d)
	case len(broken.RecentErrors) < 3 || broken.RecentErrors[0].Status != 500 || broken.RecentErrors[0].Upstream == "":
		return fmt.Errorf("errors of broken %+v", broken.RecentErrors)
	case len(ups.Upstreams) != 3 || ups.Upstreams[0].Endpoint != "broken":
		return fmt.Errorf("upstreams %+v", ups)
	}
	u := ups.Upstreams[0]
	if u.Node != "n2" || u.Requests < 3 || u.Errors != u.Requests || u.LastError == nil || u.BytesIn == 0 || u.BytesOut == 0 || u.Weight != 100 || u.AgentVersion == "" || u.Instance == "" || !strings.HasPrefix(u.ID, "n2.") {
		return fmt.Errorf("upstream %+v", u)
	}
	return nil
}

// TestStatusOfADeadNode: what a node has seen that does not answer is missing,
// and said to be.
func TestStatusOfADeadNode(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 2, nil)
	startMember(t, "n3", func(cfg *serverConfig) { cfg.Admin.AdvertiseAddr = "127.0.0.1:1" }, nodes...)
	c := newClient(t)
	eventually(t, func() error {
		if size := nodes[0].gossip.Size(); size != 3 {
			return fmt.Errorf("n1 knows %d nodes", size)
		}
		return nil
	})
	var o admin.Overview
	if err := readJSON(t, c, nodes[0], "/status/overview?cluster=true", &o); err != nil {
		t.Fatal(err)
	}
	if len(o.Partial) != 1 || o.Partial[0].Node != "n3" || !strings.Contains(o.Partial[0].Error, "unreachable") || len(o.Nodes) != 3 || o.Nodes[2].State != admin.StatusUnreachable {
		t.Errorf("got %+v", o)
	}
	for _, path := range []string{"/status/endpoints?cluster=true", "/status/upstreams?cluster=true"} {
		var list struct{ Partial []admin.Partial }
		if err := readJSON(t, c, nodes[0], path, &list); err != nil || len(list.Partial) != 1 {
			t.Errorf("%s: %+v, %v", path, list, err)
		}
	}
}

// follow reads a stream of events until the test ends.
func follow(t *testing.T, url, lastID string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	c := newClient(t)
	c.Timeout = 0
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("%s: %d %s", url, res.StatusCode, got)
	}
	lines, ended := make(chan string, 1024), make(chan struct{})
	go func() {
		defer close(ended)
		defer res.Body.Close()
		scanner := bufio.NewScanner(res.Body)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return lines
}

// await reads lines until one has all the parts.
func await(t *testing.T, lines <-chan string, parts ...string) string {
	t.Helper()
	late := time.NewTimer(15 * time.Second)
	defer late.Stop()
	var seen []string
	for {
		select {
		case line := <-lines:
			seen = append(seen, line)
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
				return line
			}
		case <-late.C:
			t.Fatalf("no line with %q; but\n%s", parts, strings.Join(seen, "\n"))
		}
	}
}

// TestEventsOfACluster: an endpoint whose agent goes is down two seconds later,
// and a node that stops, too; a page that comes back gets what it has missed.
func TestEventsOfACluster(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 2, nil)
	url := "http://" + nodes[0].AdminAddr().String() + "/status/events"
	lines := follow(t, url, "")
	await(t, lines, ": events of this node")
	stop := startAgent(t, nodes[0], "my-endpoint", testService(t).URL)
	await(t, lines, "data:", events.UpstreamConnected, `"upstream":"n1.`)
	id := await(t, follow(t, url, "another-1"), "id: ")
	await(t, lines, "data:", events.EndpointUp, `"endpoint":"my-endpoint"`, `"node":"n1"`)
	stop()
	await(t, lines, "data:", events.UpstreamDisconnected)
	await(t, lines, "data:", events.EndpointDown, `"endpoint":"my-endpoint"`)
	nodes[1].drainAsked()
	await(t, lines, "data:", events.NodeDraining, `"node":"n2"`)
	if err := nodes[1].stop(); err != nil {
		t.Fatal(err)
	}
	await(t, lines, "data:", events.NodeDown, `"node":"n2"`)
	again := follow(t, url, strings.TrimPrefix(id, "id: "))
	await(t, again, "data:", events.EndpointUp)
	await(t, again, "data:", events.NodeDown)
}

// TestLiveStatus: the overview and an endpoint each second, also of one that has
// yet to come.
func TestLiveStatus(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	lines := follow(t, "http://"+n.AdminAddr().String()+"/status/live?endpoint=my-endpoint&cluster=true", "")
	await(t, lines, "event: overview")
	await(t, lines, "data:", `"state":"active"`, `"tunnels":0`)
	startAgent(t, n, "my-endpoint", testService(t).URL)
	await(t, lines, "event: endpoint")
	await(t, lines, "data:", `"endpoint":"my-endpoint"`, `"tunnels":1`)
}

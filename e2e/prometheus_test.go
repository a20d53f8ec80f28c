//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"piko/certs/certstest"
)

const deployed = "../deploy/"

// TestPrometheus has a real Prometheus scrape two nodes, an agent and a forwarder with traffic, and asks it whatever the
// dashboards and the recording rules ask: each query has an answer with numbers. Then a node dies, and an alert fires.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	prometheus := tool(t, "prometheus")
	promtool := tool(t, "promtool")
	m := startMonitored(t, prometheus)
	for name, target := range map[string]string{"node": m.nodes[0].admin, "agent": m.agent, "forward": m.forward} {
		t.Run("promtool has nothing to say against the metrics of "+name, func(t *testing.T) {
			metrics, err := fetch("http://" + target + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			if r := run(t, 20*time.Second, strings.NewReader(string(metrics)), promtool, "check", "metrics"); r.code != 0 || r.stderr != "" {
				t.Errorf("exit status %d: %s%s", r.code, r.stdout, r.stderr)
			}
		})
	}
	left := m.queries(t)
	eventually(t, 20*time.Second, "all queries have data", func() error {
		var errs []error
		left = slices.DeleteFunc(left, func(a asked) bool {
			err := m.hasData(a)
			errs = append(errs, err)
			return err == nil
		})
		return errors.Join(errs...)
	})
	m.kill(t)
}

// monitored is what Prometheus watches.
type monitored struct {
	nodes          []*server
	agent, forward string // addresses of their metrics
	prometheus     string
}

// startMonitored starts everything, with traffic until the test ends.
func startMonitored(t *testing.T, prometheus string) *monitored {
	t.Helper()
	const tenant = "acme"
	token := signClaims(t, tenants[tenant], map[string]any{"sub": tenant, "exp": time.Now().Add(time.Hour).Unix()})
	ca := certstest.NewCA(t, "ports")
	cert, key := ca.Issue([]string{"127.0.0.1"}).Files()
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(hook.Close)
	file, gossip := tenantsFile(t), freeAddr(t)
	m := &monitored{agent: freeAddr(t), forward: freeAddr(t), prometheus: freeAddr(t)}
	for i, args := range [][]string{{"--cluster.gossip.bind-addr", gossip}, {"--cluster.join", gossip}} {
		s := &server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t), args: slices.Concat(args, []string{
			"--cluster.node-id", fmt.Sprint("n", i+1), "--cluster.secret", clusterSecret, "--config.path", file,
			"--upstream.tls.cert", cert, "--upstream.tls.key", key, "--events.webhook-url", hook.URL, "--events.webhook-secret", clusterSecret, "--proxy.access-log.disable"})}
		s.startWith(t, []string{"GOMEMLIMIT=1GiB"})
		m.nodes = append(m.nodes, s)
	}
	for _, n := range m.nodes {
		n.waitReady(t)
	}
	m.startPrometheus(t, prometheus)
	m.await(t, `count(piko_node_ready) == 2`)

	// The agent is at one node, so that requests to the other take a hop. It and the forwarder come when Prometheus has
	// seen the nodes without them: what they change is an increase.
	service, raw := startOrigin(t, tenant), tcpService(t, echoTCP)
	listeners := writeFile(t, t.TempDir(), "agent.yaml", fmt.Sprintf(`listeners:
  - {endpoint_id: app, addr: '%s', health_check: {type: tcp, interval: 500ms}}
  - {endpoint_id: raw, addr: '%s', protocol: tcp}
`, service.addr, raw))
	connect := []string{"--connect.tenant-id", tenant, "--connect.token", token, "--server.enabled", "--server.bind-addr"}
	start(t, "agent", nil, pikoBinary, slices.Concat([]string{"agent", "start", "--config.path", listeners, "--connections", "1",
		"--connect.url", "https://" + m.nodes[0].upstream, "--connect.tls.root-cas", ca.File()}, connect, []string{m.agent})...)
	port := freeAddr(t)
	start(t, "forward", nil, pikoBinary, slices.Concat([]string{"forward", "tcp", port, "raw", "--connect.url", "http://" + m.nodes[1].proxy}, connect, []string{m.forward})...)
	eventually(t, 15*time.Second, "the agent is there", func() error {
		got, err := tenantApp(t.Context(), m.nodes[1].proxy, tenant, token)
		if err == nil && got != tenant {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
	m.await(t, `count({__name__=~"piko_agent_listeners_connected|piko_forward_connections_open"}) == 3`)
	m.load(t, port, token)
	return m
}

// load sends requests of all kinds.
func (m *monitored) load(t *testing.T, port, token string) {
	ended := make(chan struct{})
	var running sync.WaitGroup
	t.Cleanup(func() { close(ended); running.Wait() })
	repeat := func(do func()) {
		running.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ended:
					return
				case <-tick.C:
					do()
				}
			}
		})
	}
	for _, n := range m.nodes {
		addr := n.proxy // for a node that is dead all of this fails, which is none of our business
		repeat(func() { _, _ = tenantApp(t.Context(), addr, "acme", token) })
		repeat(func() { _, _ = tenantApp(t.Context(), addr, "globex", token) }) // its key has not signed that
		repeat(func() {
			req, _ := http.NewRequest(http.MethodPost, "http://"+addr+"/echo", strings.NewReader("a body"))
			req.Host, req.Header = "nobody.acme.test", http.Header{"Authorization": {"Bearer " + token}}
			if res, err := http.DefaultClient.Do(req); err == nil {
				res.Body.Close()
			}
		})
	}
	repeat(func() {
		c, err := net.Dial("tcp", port)
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(c, "hello")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(c)
	})
}

// shorter are times that a test can wait for.
var shorter = regexp.MustCompile(`(?m)^(\s+for:) .*$`)

// startPrometheus starts it with the rules as they are delivered, but that alerts fire at once.
func (m *monitored) startPrometheus(t *testing.T, path string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"rules.yaml", "alerts.yaml"} {
		writeFile(t, dir, name, shorter.ReplaceAllString(string(readFile(t, deployed+"prometheus/"+name)), "$1 1s"))
	}
	config := writeFile(t, dir, "prometheus.yml", fmt.Sprintf(`global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml, alerts.yaml]
scrape_configs:
  - {job_name: piko, static_configs: [{targets: ['%s', '%s']}]}
  - {job_name: piko-agent, static_configs: [{targets: ['%s']}]}
  - {job_name: piko-forward, static_configs: [{targets: ['%s']}]}
`, m.nodes[0].admin, m.nodes[1].admin, m.agent, m.forward))
	start(t, "prometheus", nil, path, "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", m.prometheus, "--log.level", "warn")
}

// sample is one series of an answer.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

// ask asks Prometheus.
func (m *monitored) ask(expr string) ([]sample, error) {
	body, err := fetch("http://" + m.prometheus + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			ResultType string
			Result     []sample
		}
	}
	err = json.Unmarshal(body, &answer)
	return answer.Data.Result, err
}

func (m *monitored) await(t *testing.T, expr string) {
	t.Helper()
	eventually(t, 15*time.Second, expr, func() error {
		list, err := m.ask(expr)
		if err == nil && len(list) == 0 {
			err = fmt.Errorf("no")
		}
		return err
	})
}

// asked is a query and where it is from.
type asked struct{ what, expr string }

// hasData reports whether an answer has a number.
func (m *monitored) hasData(a asked) error {
	list, err := m.ask(a.expr)
	if err != nil {
		return err
	}
	for _, s := range list {
		if v, err := strconv.ParseFloat(fmt.Sprint(s.Value[1]), 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
			return nil
		}
	}
	return fmt.Errorf("%s: %d series without a number from %s", a.what, len(list), a.expr)
}

var (
	labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	recorded    = regexp.MustCompile(`(?m)^\s+- record: (\S+)$`)
)

// queries are those of all panels and variables, and the names of what rules record.
func (m *monitored) queries(t *testing.T) (list []asked) {
	t.Helper()
	files, err := filepath.Glob(deployed + "dashboards/*.json")
	if err != nil || len(files) != 4 {
		t.Fatalf("%d dashboards, %v", len(files), err)
	}
	type panel struct {
		Title   string
		Targets []struct{ Expr string }
		Panels  []panel
	}
	for _, file := range files {
		var d struct {
			Title      string
			Panels     []panel
			Templating struct {
				List []struct{ Name, Definition string }
			}
		}
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &d)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		job := "piko"
		if strings.HasSuffix(file, "agent.json") {
			job = "piko-agent"
		}
		fill := strings.NewReplacer("$__rate_interval", "1m", "$job", job, "$instance", ".*", "$tenant", ".*", "$endpoint", ".*", "$forward", ".*")
		for _, v := range d.Templating.List {
			if q := labelValues.FindStringSubmatch(v.Definition); q != nil {
				list = append(list, asked{d.Title + ": variable " + v.Name, fill.Replace("count by (" + q[2] + ") (" + q[1] + ")")})
			}
		}
		for len(d.Panels) > 0 {
			p := d.Panels[0]
			d.Panels = append(d.Panels[1:], p.Panels...)
			for _, q := range p.Targets {
				list = append(list, asked{d.Title + ": " + p.Title, fill.Replace(q.Expr)})
			}
		}
	}
	for _, rule := range recorded.FindAllStringSubmatch(string(readFile(t, deployed+"prometheus/rules.yaml")), -1) {
		list = append(list, asked{"rule", rule[1]})
	}
	if len(list) < 150 {
		t.Fatalf("only %d queries were found", len(list))
	}
	return list
}

// kill kills a node and waits for the alert.
func (m *monitored) kill(t *testing.T) {
	t.Helper()
	dead := m.nodes[1]
	alert := fmt.Sprintf(`ALERTS{alertname="PikoTargetDown", alertstate="firing", job="piko", instance="%s", severity="warning"}`, dead.admin)
	if list, err := m.ask(`ALERTS{alertname=~"PikoTargetDown|PikoNoReadyNode|PikoClusterSplit|PikoReloadFailed"}`); err != nil || len(list) > 0 {
		t.Errorf("before anything has happened there are the alerts %v, %v", list, err)
	}
	dead.process.kill(t)
	m.await(t, alert)
	body, err := fetch("http://" + m.prometheus + "/api/v1/alerts")
	if want := dead.admin + " cannot be scraped"; err != nil || !strings.Contains(string(body), want) {
		t.Errorf("the alert does not say %q: %v, %s", want, err, body)
	}
}

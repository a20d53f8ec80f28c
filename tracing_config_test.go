package main

import (
	"crypto/tls"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"piko/certs/certstest"
	"piko/tracing/tracingtest"
)

// Mistakes in the options of tracing, which servers and agents have alike, are named with their remedy, and no secret is shown.
func TestTracingOptions(t *testing.T) {
	t.Parallel()
	good, bad := writeFile(t, "headers", "Authorization: Bearer x\n\nX-Tenant: a\n"), writeFile(t, "bad", "CANARY\n")
	const on = "--tracing.endpoint|http://127.0.0.1:1|"
	for args, want := range map[string]string{
		"--tracing.endpoint|ftp://c":                                 "--tracing.endpoint",
		"--tracing.endpoint|http://u:CANARY@c":                       "--tracing.headers-file",
		"--tracing.endpoint|http://c/?key=CANARY":                    "--tracing.headers-file",
		"--tracing.headers|A: CANARY":                                "--tracing.endpoint: missing",
		"--tracing.tls.root-cas|/nowhere":                            "--tracing.endpoint: missing",
		on + "--tracing.headers|CANARY":                              "not a header",
		on + "--tracing.headers|Ä: CANARY":                           "not a header",
		on + "--tracing.headers|A: CANARY\r\nB: x":                   "not a header",
		on + "--tracing.headers|A: b|--tracing.headers-file|" + good: "not both",
		on + "--tracing.headers-file|" + bad:                         "bad:1: not a header",
		on + "--tracing.headers-file|/nowhere":                       "no such file",
		on + "--tracing.sample-ratio|1.5":                            "--tracing.sample-ratio: 1.5",
		on + "--tracing.sample-ratio|NaN":                            "--tracing.sample-ratio",
		on + "--tracing.max-rate=-1":                                 "--tracing.max-rate: -1",
		on + "--tracing.tls.cert|x":                                  "--tracing.tls.key: missing",
	} {
		for _, command := range [][]string{{"server"}, {"agent", "http", "e", "1"}} {
			status, stdout, stderr := runPiko(t, append(command, strings.Split(args, "|")...)...)
			if status != exitUsage || !strings.Contains(stderr, want) || strings.Contains(stdout+stderr, "CANARY") {
				t.Errorf("%s %s: exit status %d, %s, want %q", command, args, status, stderr, want)
			}
		}
	}
	c := tracingConfig{Endpoint: "http://c", SampleRatio: 1, HeadersFile: good}
	h, err := c.headers()
	if err != nil || c.check() != nil || h.Get("Authorization") != "Bearer x" || h.Get("X-Tenant") != "a" {
		t.Errorf("the file's headers are %v, %v, %v", h, err, c.check())
	}
	c.Headers = []traceHeader{"Authorization: Bearer CANARY"}
	if shown := fmt.Sprintf("%v %+v %#v %s", c, c, c, c.Headers); strings.Contains(shown, "CANARY") {
		t.Errorf("a header is shown: %s", shown)
	}
}

// Spans go to a collector with a certificate of an authority of one's own, which a reload may change.
func TestTracingTLS(t *testing.T) {
	t.Parallel()
	ca, other := certstest.NewCA(t, "ca"), certstest.NewCA(t, "other")
	collector := &tracingtest.Collector{}
	srv := httptest.NewUnstartedServer(collector)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue([]string{loopback}).TLS()}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	n := startNode(t, func(cfg *serverConfig) {
		cfg.Tracing.Endpoint, cfg.Tracing.TLS.RootCAs = collectorURL(srv.URL), other.File()
	})
	next := n.cfg
	next.Tracing.TLS.RootCAs = ca.File()
	commit, applied, err := n.prepare(next)
	if err != nil || strings.Join(applied, " ") != "tracing.tls.root-cas" {
		t.Fatalf("a reload takes over %q, %v", applied, err)
	}
	commit()
	get(t, newClient(t), "http://"+n.ProxyAddr().String()+"/", "x-piko-endpoint", "nobody")
	collector.Wait(t, 1)
}

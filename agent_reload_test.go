package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"piko/agent"
	"piko/certs/certstest"
)

// What an agent dials with, to the server and to its services, changes with the
// files, all or nothing, and so do its listeners.
func TestTakeoverOfAnAgent(t *testing.T) {
	ca, next := certstest.NewCA(t, "ca"), certstest.NewCA(t, "next")
	connect, service := ca.File(), ca.File()
	text := fmt.Sprintf("connect: {tls: {root_cas: %s}}\nlisteners:\n  - {endpoint_id: a, addr: 3000}\n  - {endpoint_id: b, addr: 'https://localhost:1', tls: {root_cas: %s}}\n", connect, service)
	path := writeFile(t, "agent.yaml", text)
	read := func() *cli {
		t.Helper()
		command, err := parse([]string{"agent", "start", "--config.path", path}, &newTestProcess(t).process)
		if err != nil {
			t.Fatal(err)
		}
		return rootOf(command)
	}
	cfg := read().Agent.agentConfig
	if got := cfg.files(); !slices.Contains(got, connect) || !slices.Contains(got, service) {
		t.Errorf("the files %q are looked at", got)
	}
	parts, err := cfg.build()
	if err != nil {
		t.Fatal(err)
	}
	ag, err := agent.New(parts.agent, &parts.client, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newRunningAgent(ag, &cfg, &parts, nil)
	trusts := func(ca *certstest.CA) []bool {
		server, local := parts.client.GetTLS(), (*r.listeners.Load())[1].service.Config()
		return []bool{server.RootCAs.Equal(ca.Pool()), local.RootCAs.Equal(ca.Pool())}
	}
	take := func(want ...string) {
		t.Helper()
		commit, applied, err := r.take(read())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(applied, want) {
			t.Errorf("applied %q, want %q", applied, want)
		}
		commit()
	}
	if parts.agent.Listeners[0].GetTLS != nil {
		t.Error("a listener without a section has one")
	}
	certstest.Replace(t, connect, next.PEM)
	certstest.Replace(t, service, []byte("half"))
	if _, _, err := r.take(read()); err == nil || !strings.Contains(err.Error(), "listeners[1].tls.root-cas") {
		t.Errorf("half a file was taken: %v", err)
	}
	if got := trusts(ca); !got[0] || !got[1] {
		t.Errorf("something of it is in force: %v", got)
	}
	certstest.Replace(t, service, next.PEM)
	take("connect.tls.root-cas", "listeners[1].tls.root-cas")
	if got := trusts(next); !got[0] || !got[1] {
		t.Errorf("it is not in force: %v", got)
	}
	take()
	rewrite(t, path, strings.Replace(text, "endpoint_id: b", "endpoint_id: c", 1))
	take("listeners: added c, removed b")
	rewrite(t, path, strings.Replace(text, "addr: 3000", "addr: 3001", 1)+"  - {endpoint_id: d, addr: 1}\n")
	take("listeners: added b d, changed a, removed c")
	if got := ag.Status(); len(got) != 3 || got[0].Service != "localhost:3001" || got[2].Endpoint != "d" {
		t.Errorf("the agent has %+v", got)
	}
	rewrite(t, path, strings.Replace(text, "addr: 3000", "addr: 'ftp://x'", 1))
	if _, _, err := r.take(read()); err == nil {
		t.Error("a service that cannot be was taken")
	}
}

package main

import (
	"os/exec"
	"strings"
	"testing"
)

func TestCompletionKnowsEveryCommandAndFlag(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		status, script, stderr := runPiko(t, "completion", shell)
		if status != exitOK {
			t.Fatalf("%s: exit status %d: %s", shell, status, stderr)
		}
		for _, want := range []string{"server", "status", "endpoints", "proxy.bind-addr", "connect.url", "config.path", "debug", "agent", "http"} {
			if !strings.Contains(script, want) {
				t.Errorf("the script for %s does not know %s", shell, want)
			}
		}
	}
}

func TestBashCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here")
	}
	_, script, _ := runPiko(t, "completion", "bash")
	for _, tt := range []struct{ words, want string }{
		{"piko se", "server"},
		{"piko server status up", "upstreams upstream"},
		{"piko server status endpoints --sort ''", "name tunnels rps errors p99"},
		{"piko server --log.level ''", "debug info warn error"},
		{"piko server --shutdown", "--shutdown-delay"},
		{"piko server --log.level warn --shutdown", "--shutdown-delay"},
		{"piko agent http --http-client.idle", "--http-client.idle-conn-timeout"},
		{"piko agent --connect.tenant", "--connect.tenant-id"},
		{"piko agent tcp --proxy-protocol v", "v1 v2"},
		{"piko forward tcp --connect.token-f", "--connect.token-file"},
		{"piko completion ''", "bash zsh fish --help --version"},
		{"piko server status upstream endpoints -o ''", "yaml json table"},
		{"piko server status cluster no", "nodes node"},
		{"piko server status cluster nodes --status ''", "all active draining unreachable left"},
		{"piko server status gossip node x --forw", "--forward"},
	} {
		driver := script + "\nCOMP_WORDS=(" + tt.words + "); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _piko; echo \"${COMPREPLY[@]}\"\n"
		out, err := exec.CommandContext(t.Context(), bash, "--norc", "-c", driver).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v; want %q", tt.words, got, err, tt.want)
		}
	}
}

func TestZshAndFishTakeTheirScripts(t *testing.T) {
	for _, shell := range []string{"zsh", "fish"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("no %s here", shell)
			continue
		}
		_, script, _ := runPiko(t, "completion", shell)
		file := writeFile(t, "script", script)
		if out, err := exec.CommandContext(t.Context(), path, "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
}

package main

import (
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
)

func TestInspectSettings(t *testing.T) {
	file := writeFile(t, "agent.yaml", "inspect:\n  enabled: true\n  addr: 127.0.0.1:5050\n  max_body: 2KiB\n  show_secrets: true\nui: off\nlisteners: [{endpoint_id: e, addr: 1}]\n")
	cfg, err := parseAgent(t, nil, "start", "--config.path", file)
	if err != nil {
		t.Fatal(err)
	}
	if want := (inspectConfig{true, "127.0.0.1:5050", 64 << 20, 2 << 10, true}); cfg.Inspect != want || cfg.Terminal.UI != "off" {
		t.Errorf("%+v, ui %s", cfg.Inspect, cfg.Terminal.UI)
	}
	cfg, err = parseAgent(t, []string{"PIKO_INSPECT=true"}, "http", "e", "1", "--log.format", "json")
	if err != nil || !cfg.Inspect.Enabled || cfg.Inspect.Addr != "127.0.0.1:4040" || !cfg.Terminal.formatGiven {
		t.Errorf("%+v, %v", cfg, err)
	}
	if cfg, err := parseAgent(t, nil, "http", "e", "1"); err != nil || cfg.Inspect.Enabled || cfg.Terminal.formatGiven {
		t.Errorf("by default: %+v, %v", cfg, err)
	}
}

func TestInspectSettingsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"agent", "tcp", "e", "1", "--inspect"}, "--inspect: there are only TCP endpoints"},
		{[]string{"agent", "http", "e", "1", "--inspect", "--inspect.max-body", "1"}, "--inspect.max-body"},
		{[]string{"agent", "http", "e", "1", "--inspect", "--inspect.max-bytes", "1MiB"}, "--inspect.max-bytes"},
		{[]string{"agent", "http", "e", "1", "--inspect.addr", "4040"}, "--inspect.addr"},
		{[]string{"agent", "http", "e", "1", "--ui", "on"}, "--ui on"},
		{[]string{"agent", "http", "e", "1", "--ui", "maybe"}, "--ui"},
	} {
		if status, _, stderr := runPiko(t, c.args...); status != exitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: status %d, %s", c.args, status, stderr)
		}
	}
}

func TestInspectorTakesTheNextPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	log := new(strings.Builder)
	c := inspectConfig{Addr: bindAddr(taken.Addr().String())}
	ln, err := c.listen(slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	from, to := taken.Addr().(*net.TCPAddr).Port, ln.Addr().(*net.TCPAddr).Port
	if to <= from || to >= from+inspectPorts || !strings.Contains(log.String(), "taken") {
		t.Errorf("from %d to %d, log %s", from, to, log)
	}
	c.Addr = "192.0.2.1:4040"
	if _, err := c.listen(slog.New(slog.NewTextHandler(io.Discard, nil))); err == nil || !strings.Contains(err.Error(), "--inspect.addr") {
		t.Errorf("an address of another machine: %v", err)
	}
}

package main

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"piko/fault"
)

// withHangups lets p get SIGHUP through the returned channel.
func withHangups(p *testProcess) chan<- os.Signal {
	hups := make(chan os.Signal, 1)
	p.hangups = func() <-chan os.Signal { return hups }
	return hups
}

// rewrite replaces the text of a configuration file.
func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// lineWith is the first line of the log that has text, once there is one.
func lineWith(t *testing.T, p *testProcess, text string) string {
	t.Helper()
	eventually(t, func() error { return logged(p, text) })
	for line := range strings.Lines(p.err.String()) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

func TestHangupReloadsTheLogLevelAndNamesWhatNeedsARestart(t *testing.T) {
	t.Parallel()
	const listener = "listeners: [{endpoint_id: e, addr: %}]\n"
	server := append([]string{"server"}, anyPorts...)
	for _, tt := range []struct {
		name          string
		args          []string
		ready         string
		before, after string
		want          []string // settings that need a restart
		also          string   // what is applied beside the level of the log
	}{
		{"server", server, "node ready",
			"log: {level: info}\n",
			"log: {level: debug}\nproxy: {timeout: 77s, trusted_proxies: [10.0.0.0/8]}\n",
			[]string{"proxy.timeout", "proxy.trusted-proxies"}, ""},
		{"agent start", []string{"agent", "start"}, "agent started",
			"log: {level: info}\n" + strings.ReplaceAll(listener, "%", "3000"),
			"log: {level: debug}\nconnect: {token: 77s}\n" + strings.ReplaceAll(listener, "%", "77"),
			[]string{"connect.token"}, `"listeners: changed e",`},
		{"agent http", []string{"agent", "http", "e", "3000"}, "agent started",
			"log: {level: info}\n",
			"log: {level: debug}\ngrace_period: 77s\n" + strings.ReplaceAll(listener, "%", "77"),
			[]string{"grace-period"}, ""}, // it never has the file's listeners
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, "piko.yaml", tt.before)
			p := newTestProcess(t, "PIKO_CONNECT_URL=http://127.0.0.1:1")
			hups := withHangups(p)
			status := startRun(t, p, append(tt.args, "--config.path", path)...)
			eventually(t, func() error { return logged(p, tt.ready) })
			rewrite(t, path, tt.after)
			hups <- syscall.SIGHUP

			got := lineWith(t, p, "configuration reloaded")
			want := `"applied":[` + tt.also + `"log.level: was info, now debug"],"needs_restart":["` + strings.Join(tt.want, `","`) + `"]`
			if !strings.Contains(got, want) || !strings.Contains(got, `"level":"info"`) {
				t.Errorf("got %s want %s at info", got, want)
			}
			if _, text, _ := strings.Cut(got, "configuration reloaded"); strings.Contains(text, "77") {
				t.Errorf("the line shows a value: %s", got)
			}
			p.sigs <- syscall.SIGTERM
			if got := <-status; got != exitOK {
				t.Errorf("exit status %d, want 0", got)
			}
		})
	}
}

func TestHangupIsLoggedThoughTheNewLevelHidesIt(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "piko.yaml", "")
	p := newTestProcess(t)
	hups := withHangups(p)
	startRun(t, p, append([]string{"server", "--config.path", path}, anyPorts...)...)
	eventually(t, func() error { return logged(p, "node ready") })
	rewrite(t, path, "log: {level: error}\n")
	hups <- syscall.SIGHUP
	lineWith(t, p, "log.level: was info, now error")
	rewrite(t, path, "")
	hups <- syscall.SIGHUP
	lineWith(t, p, "log.level: was error, now info")
}

func TestHangupWithABrokenConfigurationKeepsTheOldOne(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "log: {level: debug}\nproxi: {timeout: 1s}\n", "proxi"},
		{"bad value", "log: {level: verbose}\n", "verbose"},
		{"values that do not fit", "log: {level: debug}\nshutdown_delay: 2m\n", "--shutdown-delay: 2m0s leaves nothing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, "piko.yaml", "")
			p := newTestProcess(t)
			hups := withHangups(p)
			startRun(t, p, append([]string{"server", "--config.path", path}, anyPorts...)...)
			eventually(t, func() error { return logged(p, "node ready") })
			rewrite(t, path, tt.text)
			hups <- syscall.SIGHUP

			got := lineWith(t, p, "configuration not reloaded")
			if !strings.Contains(got, tt.want) || !strings.Contains(got, `"level":"error"`) {
				t.Errorf("got %s want an error with %q", got, tt.want)
			}
			rewrite(t, path, "")
			hups <- syscall.SIGHUP
			if got := lineWith(t, p, "configuration reloaded"); !strings.Contains(got, `"applied":[],"needs_restart":[]`) {
				t.Errorf("after the repair something differs from the start: %s", got)
			}
		})
	}
}

func TestCommandsWithoutAConfigurationLeaveHangupAlone(t *testing.T) {
	for _, args := range [][]string{
		{"version"},
		{"demo", "--no-such-flag"},
		{"server", "status", "upstream", "endpoints", "--server.url", "http://127.0.0.1:1"},
		{"config", "check", "--config.path", writeFile(t, "piko.yaml", "")},
	} {
		p := newTestProcess(t)
		p.hangups = func() <-chan os.Signal {
			t.Errorf("SIGHUP is caught by piko %s", strings.Join(args, " "))
			return nil
		}
		run(args, &p.process)
	}
}

func TestReloadChangesTheSubsystemsOfTheLog(t *testing.T) {
	path := writeFile(t, "piko.yaml", "log: {level: error, subsystems: [upstream]}\n")
	p := newTestProcess(t)
	withHangups(p)
	startRun(t, p, append([]string{"server", "--config.path", path}, anyPorts...)...)
	eventually(t, func() error {
		if p.takeover.Load() == nil {
			return errors.New("not started yet")
		}
		return nil
	})
	log := p.logs.Load().Logger
	subsystem(log, "proxy").Debug("first line")
	rewrite(t, path, "log: {level: error, subsystems: [main, proxy]}\n")
	first, err := p.reload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	subsystem(log, "proxy").Debug("second line")
	subsystem(log, "upstream").Debug("third line")
	lineWith(t, p, "second line")
	for _, text := range []string{"first line", "third line"} {
		if logged(p, text) == nil {
			t.Errorf("the log has the %s", text)
		}
	}
	if want := []string{"log.subsystems: was [upstream], now [main proxy]"}; !slices.Equal(first.Applied, want) {
		t.Errorf("applied %q, want %q", first.Applied, want)
	}
	again, err := p.reload(t.Context())
	if err != nil || len(again.Applied) > 0 || len(again.NeedsRestart) > 0 || again.Hash != first.Hash {
		t.Errorf("the same again: %+v, %v, first %+v", again, err, first)
	}
	rewrite(t, path, "log: {level: error, subsystems: [main]}\n")
	if other, err := p.reload(t.Context()); err != nil || other.Hash == first.Hash {
		t.Errorf("another configuration: %+v, %v, first %+v", other, err, first)
	}
}

func TestReloadThatIsAskedForSaysWhatIsWrong(t *testing.T) {
	path := writeFile(t, "piko.yaml", "")
	p := newTestProcess(t)
	withHangups(p)
	startRun(t, p, append([]string{"server", "--config.path", path}, anyPorts...)...)
	eventually(t, func() error { return logged(p, "node ready") })
	rewrite(t, path, "log: {level: loud}\n")
	_, err := p.reload(t.Context())
	if !errors.Is(err, fault.InvalidConfig) || !strings.Contains(err.Error(), "loud") {
		t.Errorf("got %v", err)
	}
	lineWith(t, p, "configuration not reloaded")
}

func TestHashOfAConfigurationLeavesSecretsOut(t *testing.T) {
	settings := map[string]any{"a": 1, "cluster.secret": "x", "cluster.secret-file": "f"}
	was := hashOf(settings)
	settings["cluster.secret"] = "y"
	if hashOf(settings) != was {
		t.Error("a secret counts")
	}
	for _, name := range []string{"a", "cluster.secret-file"} {
		next := maps.Clone(settings)
		next[name] = "other"
		if hashOf(next) == was {
			t.Errorf("%s does not count", name)
		}
	}
	if was >= 1<<48 {
		t.Errorf("%d does not fit a float64", was)
	}
}

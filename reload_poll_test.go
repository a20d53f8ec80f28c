package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/certs"
	"piko/certs/certstest"
)

// watched is a command whose reloader runs in a bubble: an agent's, with a
// certificate.
type watched struct {
	t      *testing.T
	p      *testProcess
	hups   chan<- os.Signal
	config string // its file
	files  clientTLSConfig
	loaded *certs.Client
	end    func()
}

// watch starts the reloader of `piko agent http` with args.
func watch(t *testing.T, args ...string) *watched {
	t.Helper()
	ca := certstest.NewCA(t, "ca")
	w := &watched{t: t, p: newTestProcess(t), config: writeFile(t, "agent.yaml", "")}
	w.files.Cert, w.files.Key = ca.Issue([]string{"one.test"}).Files()
	w.files.RootCAs = ca.File()
	w.hups = withHangups(w.p)
	args = append([]string{"agent", "http", "e", "3000", "--config.path", w.config,
		"--connect.tls.cert", w.files.Cert, "--connect.tls.key", w.files.Key, "--connect.tls.root-cas", w.files.RootCAs}, args...)
	command, err := parse(args, &w.p.process)
	if err != nil {
		t.Fatal(err)
	}
	r := newReloader(&w.p.process, args, command)
	w.p.logger(logConfig{Level: "info"})
	log := w.p.logs.Load()
	if w.loaded, err = w.files.load("--connect.tls."); err != nil {
		t.Fatal(err)
	}
	w.p.takeover.Store(new(connectTakeover(w.loaded, w.files, "connect.tls", func(next *cli) clientTLSConfig { return next.Agent.Connect.TLS })))
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		r.watch(w.p.hangups(), done)
	}()
	w.end = func() {
		close(done)
		<-ended
		_ = log.out.Close()
	}
	return w
}

// after lets time pass and returns what was logged in it.
func (w *watched) after(d time.Duration) string {
	w.t.Helper()
	before := len(w.p.err.String())
	time.Sleep(d)
	synctest.Wait()
	return w.p.err.String()[before:]
}

// mustLog is after for exactly one line that has all of want; none wants none.
func (w *watched) mustLog(d time.Duration, want ...string) {
	w.t.Helper()
	got := w.after(d)
	if lines := strings.Count(got, "\n"); lines != min(len(want), 1) {
		w.t.Fatalf("%d lines were logged, want %d:\n%s", lines, min(len(want), 1), got)
	}
	for _, text := range want {
		if !strings.Contains(got, text) {
			w.t.Errorf("the log does not say %q:\n%s", text, got)
		}
	}
}

// gauge is a metric of the reloader.
func (w *watched) gauge(name string) float64 {
	w.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(w.p.collectors...)
	families, err := registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	w.t.Fatalf("there is no %s", name)
	return 0
}

// The odd milliseconds keep a test's steps off the reloader's, which would make
// them race.
const (
	soon     = pollInterval + 2*settleTime + 1017*time.Millisecond // a second for the log's writer
	longTime = 10*time.Minute + 331*time.Millisecond
	okMetric = "piko_config_last_reload_successful"
	atMetric = "piko_config_last_reload_success_timestamp_seconds"
)

func TestFilesThatChangeAreTakenOverWithoutASignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		defer w.end()
		w.mustLog(longTime) // nothing changes, nothing is said
		started := w.gauge(atMetric)
		ca := certstest.NewCA(t, "next")
		ca.Issue([]string{"two.test"}).Write(w.files.Cert, w.files.Key)
		w.mustLog(soon, "configuration reloaded", `"applied":["connect.tls.cert"],"needs_restart":[]`)
		if got := w.loaded.Config().Certificates[0].Leaf.Subject.CommonName; got != "two.test" {
			t.Errorf("the certificate in force is that of %s", got)
		}
		if at := w.gauge(atMetric); w.gauge(okMetric) != 1 || at-started < longTime.Seconds() {
			t.Errorf("the metrics say %v, %v", w.gauge(okMetric), at-started)
		}
		certstest.Replace(t, w.files.RootCAs, ca.PEM)
		rewrite(t, w.config, "log: {level: debug}\nconnect: {timeout: 1m}\n")
		w.mustLog(soon, "configuration reloaded", `"applied":["connect.tls.root-cas","log.level: was info, now debug"],"needs_restart":["connect.timeout"]`)
		// The same bytes again are no change, whatever the time of the file says.
		certstest.Replace(t, w.files.RootCAs, ca.PEM)
		w.mustLog(longTime)
	})
}

func TestAHalfWrittenFileIsToldOnceAndKeepsTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		defer w.end()
		next := certstest.NewCA(t, "next").Issue([]string{"two.test"})
		rewrite(t, w.files.Cert, string(next.Cert[:100]))
		w.mustLog(soon, "configuration not reloaded, the old one stays", w.files.Cert, "--connect.tls.cert", `"level":"error"`)
		w.mustLog(longTime) // once for each change
		if got := w.loaded.Config().Certificates[0].Leaf.Subject.CommonName; got != "one.test" || w.gauge(okMetric) != 0 {
			t.Errorf("the certificate in force is that of %s, and the metric %v", got, w.gauge(okMetric))
		}
		rewrite(t, w.files.Cert, string(next.Cert[:200]))
		w.mustLog(soon, "configuration not reloaded")
		next.Write(w.files.Cert, w.files.Key)
		w.mustLog(soon, "configuration reloaded", "connect.tls.cert")
		if got := w.gauge(okMetric); got != 1 {
			t.Errorf("the metric says %v", got)
		}
		if err := os.Remove(w.files.Key); err != nil {
			t.Fatal(err)
		}
		w.mustLog(soon, "configuration not reloaded", w.files.Key, "no such file")
	})
}

// A certificate and its key are two files. Between the two they do not fit, and
// that is no mistake of anybody.
func TestFilesAreReadWhenTheyHaveSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		defer w.end()
		next := certstest.NewCA(t, "next").Issue([]string{"two.test"})
		time.Sleep(pollInterval - settleTime/2 + 3*time.Millisecond)
		rewrite(t, w.files.Cert, string(next.Cert[:100]))
		time.Sleep(settleTime)
		rewrite(t, w.files.Cert, string(next.Cert))
		time.Sleep(settleTime / 2)
		rewrite(t, w.files.Key, string(next.Key))
		w.mustLog(soon, "configuration reloaded", "connect.tls.cert")
		if log := w.p.err.String(); strings.Contains(log, "not reloaded") {
			t.Errorf("half of the change was read: %s", log)
		}

		// A file that never settles is read all the same.
		for i := range 100 {
			certstest.Replace(t, w.config, fmt.Appendf(nil, "# %d\n", i))
			time.Sleep(settleTime / 2)
		}
		if strings.Count(w.p.err.String(), "configuration reloaded") < 2 {
			t.Errorf("a file that changes all the time was never read: %s", w.p.err.String())
		}
	})
}

// Nobody may look at the mistake for months; certificates last shorter.
func TestABrokenConfigurationFileDoesNotKeepCertificatesFromBeingRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t)
		defer w.end()
		rewrite(t, w.config, "conect: {timeout: 1m}\n")
		w.mustLog(soon, "configuration not reloaded", "conect")
		w.mustLog(longTime)
		certstest.NewCA(t, "next").Issue([]string{"two.test"}).Write(w.files.Cert, w.files.Key)
		w.mustLog(soon, "configuration reloaded", "connect.tls.cert")
		if got := w.gauge(okMetric); got != 0 {
			t.Errorf("the metric says %v though the file is still broken", got)
		}
		w.hups <- syscall.SIGHUP
		w.mustLog(soon, "configuration not reloaded", "conect")
		rewrite(t, w.config, "")
		w.mustLog(soon, "configuration reloaded", `"applied":[]`)
		if got := w.gauge(okMetric); got != 1 {
			t.Errorf("the metric says %v", got)
		}
	})
}

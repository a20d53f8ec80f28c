package certs

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/certs/certstest"
)

func TestExpiryIsLoggedAtTwoWeeksADayAndTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := certstest.NewCA(t, "ca")
		end := time.Now().Add(30 * 24 * time.Hour)
		opt := ServerOptions{Pairs: []Pair{files(ca.Issue([]string{"a.test"}, certstest.Expiring(end)))}}
		s := newTestServer(t, opt)
		var log lockedBuffer
		e := NewExpiry(slog.New(slog.NewTextHandler(&log, nil)))
		e.AddServer("proxy", s)
		e.AddServer("upstream", nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		for _, tt := range []struct {
			left  time.Duration
			lines int
			last  string
		}{
			{29 * 24 * time.Hour, 0, ""},
			{15 * 24 * time.Hour, 0, ""},
			{13 * 24 * time.Hour, 1, "less than 14 days"},
			{2 * 24 * time.Hour, 1, "less than 14 days"},
			{22 * time.Hour, 2, "less than a day"},
			{time.Hour, 2, "less than a day"},
			{-2 * time.Hour, 3, "has expired"},
			{-48 * time.Hour, 3, "has expired"},
		} {
			time.Sleep(time.Until(end.Add(-tt.left)))
			synctest.Wait()
			if got := log.String(); strings.Count(got, "\n") != tt.lines || !strings.Contains(lastLine(got), tt.last) {
				t.Fatalf("%v before the end the log says:\n%s", tt.left, got)
			}
		}
		if !strings.Contains(log.String(), "used_by=proxy name=a.test") {
			t.Errorf("the log does not say which: %s", log.String())
		}
		log.Reset()
		opt.Pairs = []Pair{files(ca.Issue([]string{"a.test"}, certstest.Expiring(time.Now().Add(time.Hour/2))))}
		mustPrepare(t, s, opt)
		time.Sleep(expiryPoll)
		synctest.Wait()
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "has expired") {
			t.Errorf("of the next certificate the log says %q", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// lockedBuffer is one that several goroutines use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func lastLine(s string) string {
	s = strings.TrimSuffix(s, "\n")
	return s[strings.LastIndexByte(s, '\n')+1:]
}

func TestExpiryAsAMetric(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	first, second := time.Now().Add(time.Hour).Truncate(time.Second), time.Now().Add(2*time.Hour).Truncate(time.Second)
	issue := func(name string, at time.Time) Pair { return files(ca.Issue([]string{name}, certstest.Expiring(at))) }
	e := NewExpiry(nil)
	e.AddServer("proxy", newTestServer(t, ServerOptions{Pairs: []Pair{issue("a.test", second), issue("a.test", first), issue("b.test", second)}}))
	client, err := NewClient(ClientOptions{Pair: issue("agent", first)})
	if err != nil {
		t.Fatal(err)
	}
	e.AddClient("connect", client)
	e.AddClient("none", nil)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(e)
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "piko_tls_certificate_expiry_timestamp_seconds" {
		t.Fatalf("got %v, %v", families, err)
	}
	got := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		got[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
	}
	for name, want := range map[string]time.Time{"proxy a.test": first, "proxy b.test": second, "connect agent": first} {
		if got[name] != float64(want.Unix()) {
			t.Errorf("%s: got %v, want %d", name, got[name], want.Unix())
		}
	}
}

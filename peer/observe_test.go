package peer

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// logBuffer is a log that a test can read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestChangesAreLoggedAndCounted(t *testing.T) {
	var g gossip
	log, reg := new(logBuffer), prometheus.NewRegistry()
	p, err := New(Options{
		Epoch: "a-1", Lookup: g.lookup, Registerer: reg,
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("on purpose") }),
		Logger:  slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	web := httptest.NewServer(p)
	defer func() { cancel(); <-ran; web.Close() }()
	a := &testNode{Peers: p, web: web, node: Node{ID: "a", Epoch: "a-1", Addr: web.Listener.Addr().String(), Key: p.Key()}}
	g.tell(a.node)
	b := g.start(t, "b", false, nil)

	ab, up := connect(t, a, b)
	ba, _ := connect(t, b, a)
	if _, err := ba.RoundTrip(request(t, "GET", "/")); err == nil {
		t.Error("a panic was answered")
	}
	for range 20 {
		c := dialTCP(t, a.node.Addr)
		io.WriteString(c, rawHello(Node{Epoch: "stranger-1"}, a.node, proofMAC, nil))
		io.Copy(io.Discard, c)
		c.Close()
	}
	want := func(name, series string) {
		t.Helper()
		text := fmt.Sprintf("# HELP %[1]s %[2]s\n# TYPE %[1]s %[3]s\n", name, help[name], kinds[name])
		text += strings.TrimSpace(series) + "\n"
		if err := testutil.GatherAndCompare(reg, strings.NewReader(text), name); err != nil {
			t.Error(err)
		}
	}
	want("piko_peer_sessions", `
piko_peer_sessions{direction="in"} 1
piko_peer_sessions{direction="out"} 1`)
	want("piko_peer_handshakes_total", `
piko_peer_handshakes_total{direction="in",result="ok"} 1
piko_peer_handshakes_total{direction="in",result="unknown-caller"} 20
piko_peer_handshakes_total{direction="out",result="ok"} 1`)

	b.Drain(t.Context())
	up.await(t, false)
	ab.Close()
	eventually(t, func() error {
		for _, text := range []string{
			`msg="node reachable" node=b`, `msg="node asks to be left: it drains" node=b`,
			`level=ERROR msg="peer server" text="http: panic serving`,
			`level=INFO msg="peer refused"`, `caller=stranger-1`,
		} {
			if !strings.Contains(log.String(), text) {
				return fmt.Errorf("the log lacks %q", text)
			}
		}
		return nil
	})
	if n := strings.Count(log.String(), "peer refused"); n != 5 {
		t.Errorf("%d lines about strangers, want 5", n)
	}
	for _, secret := range []string{string(p.Key()), hex.EncodeToString(p.Key())} {
		if strings.Contains(log.String(), secret) {
			t.Error("the log has the key")
		}
	}
}

var help = map[string]string{
	"piko_peer_sessions":         "Number of open connections with other nodes, by who called (in: the other node).",
	"piko_peer_handshakes_total": "Number of handshakes with other nodes, by who called (in: the other node) and result.",
}

var kinds = map[string]string{"piko_peer_sessions": "gauge", "piko_peer_handshakes_total": "counter"}

func TestLogOfRefusalsIsLimited(t *testing.T) {
	var l logLimit
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	written := 0
	for range 1000 {
		now = now.Add(10 * time.Millisecond)
		if ok, _ := l.allow(now); ok {
			written++
		}
	}
	if written != 5 {
		t.Errorf("%d lines in 10 s, want 5", written)
	}
	if ok, dropped := l.allow(now.Add(10 * time.Second)); !ok || dropped != 995 {
		t.Errorf("then %v, %d not logged; want true, 995", ok, dropped)
	}
}

func TestPausesGrow(t *testing.T) {
	var p pauses
	var got []time.Duration
	for range 8 {
		got = append(got, p.next(false, 0))
	}
	want := []time.Duration{50, 100, 200, 400, 800, 1600, 2000, 2000}
	for i := range want {
		if got[i] != want[i]*time.Millisecond {
			t.Errorf("pause %d is %v, want %v", i, got[i], want[i]*time.Millisecond)
		}
	}
	if d := p.next(false, 0.999); d < maxPause/2 || d > maxPause {
		t.Errorf("with jitter: %v", d)
	}
	p = pauses{}
	for i := range quickRetries {
		if d := p.next(true, 0.5); d != firstPause {
			t.Errorf("an unknown caller's pause %d is %v", i, d)
		}
	}
	if p.next(true, 0); p.next(true, 0) <= firstPause {
		t.Error("an unknown caller is quick for ever")
	}
}

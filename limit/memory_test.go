package limit

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMemoryStates(t *testing.T) {
	for _, tt := range []struct {
		from  state
		share float64
		want  state
	}{
		{enough, 0, enough}, {enough, 0.849, enough}, {enough, 0.85, short}, {enough, 0.92, critical}, {enough, 5, critical},
		{short, 0.85, short}, {short, 0.80, short}, {short, 0.799, enough}, {short, 0.919, short}, {short, 0.92, critical},
		{critical, 0.92, critical}, {critical, 0.88, critical}, {critical, 0.879, short}, {critical, 0.8, short}, {critical, 0.79, enough},
		{enough, math.NaN(), enough},
	} {
		if got := tt.from.next(tt.share); got != tt.want {
			t.Errorf("%d at %v: %d, want %d", tt.from, tt.share, got, tt.want)
		}
	}
}

// process is one whose memory is what a test says.
type process struct {
	mu            sync.Mutex
	live, garbage int64
	collections   int
	shed          int64
}

func (p *process) used() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live + p.garbage
}

func (p *process) collect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.garbage, p.collections = 0, p.collections+1
}

func (p *process) set(live, garbage int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live, p.garbage = live, garbage
}

func (p *process) giveBack(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shed += n
	p.live -= n
}

// TestMemoryIsWatched: garbage is no reason to refuse anything, a full heap is, and what holds it is asked to let go.
func TestMemoryIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p process
		var out bytes.Buffer
		m, err := NewMemory(MemoryOptions{Limit: 1000, Shed: p.giveBack, Logger: slog.New(slog.NewTextHandler(&out, nil)), Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		m.used, m.collect = p.used, p.collect
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { m.Run(ctx) })
		after := func(d time.Duration, why string, want state) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := state(m.state.Load()); got != want || m.Short() != (want > enough) {
				t.Errorf("%s: state %d, want %d", why, got, want)
			}
		}
		after(time.Second, "at rest", enough)
		if p.collections != 0 {
			t.Errorf("%d collections at rest", p.collections)
		}
		for range 20 {
			p.set(400, 550)
			after(100*time.Millisecond, "with much garbage", enough)
		}
		if p.collections == 0 || p.collections > 5 {
			t.Errorf("%d collections in 2 s", p.collections)
		}
		p.set(860, 0)
		after(2*time.Second, "full", short)
		p.set(820, 0)
		after(2*time.Second, "hardly less", short)
		p.set(400, 500)
		after(2*time.Second, "with garbage alone", enough)
		p.set(1000, 0)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if p.shed != 150 {
			t.Errorf("asked for %d bytes back, want 150", p.shed)
		}
		after(0, "with what was given back", short)
		p.set(100, 0)
		after(2*time.Second, "in the end", enough)
		stop()
		wg.Wait()
		var got []string
		for line := range strings.Lines(out.String()) {
			_, text, _ := strings.Cut(line, "msg=\"")
			text, _, _ = strings.Cut(text, ":")
			text, _, _ = strings.Cut(text, "\"")
			got = append(got, text)
		}
		const want = "memory is short, memory is enough again, memory is critical, memory is short, memory is enough again"
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("the log says\n%s, want\n%s", s, want)
		}
	})
}

// TestMemoryWithoutLimit is never short, and watches nothing.
func TestMemoryWithoutLimit(t *testing.T) {
	for _, limit := range []int64{0, -1, math.MaxInt64} {
		m, err := NewMemory(MemoryOptions{Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		m.Run(t.Context())
		if m.Short() {
			t.Errorf("limit %d: memory is short", limit)
		}
	}
}

// TestMemoryInUse: what the runtime says is what a program has, about.
func TestMemoryInUse(t *testing.T) {
	used := memoryInUse()
	debug.FreeOSMemory() // garbage of other tests must not go meanwhile
	before := used()
	b := make([]byte, 64<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	if grown := used() - before; grown < 48<<20 || grown > 96<<20 || before <= 0 {
		t.Errorf("64 MiB more are %d bytes more, after %d", grown, before)
	}
	b[0]++
}

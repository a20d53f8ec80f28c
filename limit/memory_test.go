package limit

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"runtime/debug"
	"slices"
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
		{enough, 0, enough}, {enough, 0.779, enough}, {enough, 0.78, tight}, {tight, 0.74, tight}, {tight, 0.739, enough}, {enough, 0.849, tight}, {enough, 0.85, short}, {enough, 0.92, critical}, {enough, 5, critical},
		{short, 0.85, short}, {short, 0.80, short}, {short, 0.799, tight}, {short, 0.7, enough}, {tight, 0.85, short}, {short, 0.919, short}, {short, 0.92, critical},
		{critical, 0.92, critical}, {critical, 0.88, critical}, {critical, 0.879, short}, {critical, 0.8, short}, {critical, 0.79, tight}, {critical, 0.1, enough},
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
	shed, stalled int64
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

// giveBack gives back what nobody reads at all.
func (p *process) giveBack(n int64, waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shed += n
	if n = min(n, p.stalled); waited == 0 {
		n = min(n, p.live)
	}
	p.stalled -= min(n, p.stalled)
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
			if got := state(m.state.Load()); got != want || m.Short() != (want >= short) {
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
		p.stalled = 100
		p.set(790, 0)
		after(2*time.Second, "with slow readers", enough)
		if p.live != 720 {
			t.Errorf("%d bytes are in use, 720 are no reason to cut anybody off", p.live)
		}
		p.set(860, 0)
		after(2*time.Second, "full", short)
		p.set(820, 0)
		after(2*time.Second, "hardly less", short)
		p.set(750, 300)
		after(2*time.Second, "with garbage besides", tight)
		p.set(100, 0)
		after(2*time.Second, "at rest again", enough)
		stop()
		wg.Wait()
		var got []string
		for line := range strings.Lines(out.String()) {
			_, text, _ := strings.Cut(line, "msg=\"")
			text, _, _ = strings.Cut(text, ":")
			text, _, _ = strings.Cut(text, "\"")
			got = append(got, text)
		}
		const want = "memory is tight, memory is enough again, memory is short, memory is tight, memory is enough again"
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("the log says\n%s, want\n%s", s, want)
		}
	})
}

// TestCriticalMemorySparesNobody: what waits at all is given up before the process is.
func TestCriticalMemorySparesNobody(t *testing.T) {
	var waits []time.Duration
	m, err := NewMemory(MemoryOptions{Limit: 1000, Shed: func(_ int64, waited time.Duration) { waits = append(waits, waited) }})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i, used := range []int64{700, 800, 900, 950} {
		m.used, m.collect = func() int64 { return used }, func() {}
		m.look(now.Add(time.Duration(i) * time.Second))
	}
	if want := []time.Duration{stalledFor, stalledFor, 0}; !slices.Equal(waits, want) {
		t.Errorf("asked for what has waited for %v, want %v", waits, want)
	}
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

package limit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	runtimemetrics "runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Shares of the memory limit at which the states of Memory begin and end. Between the first of them and the limit is the
// room of what is under way; the kernel ends a process whose limit comes from its cgroup above 111 %.
const (
	tightFrom    = 0.78
	tightUntil   = 0.74
	shrinkTo     = 0.72
	shortFrom    = 0.85
	shortUntil   = 0.80
	criticalFrom = 0.92
	criticalTo   = 0.88
)

const (
	// memoryTick is how often Memory looks.
	memoryTick = 250 * time.Millisecond
	// collectEvery is how often garbage is collected at most so as to know how much of the memory is in use. The runtime
	// lets it grow up to the limit.
	collectEvery = 500 * time.Millisecond
	// stalledFor is how long bytes have waited of a reader who is one of the slowest. Whoever is as fast as his network is
	// not: windows are smaller than what a second carries.
	stalledFor = time.Second
)

// state says how short memory is.
type state int32

const (
	enough state = iota
	tight
	short
	critical
)

// next is the state after s when so much of the limit is in use. It ends later than it begins, so that it does not
// change all the time.
func (s state) next(share float64) state {
	switch {
	case share >= criticalFrom, s == critical && share >= criticalTo:
		return critical
	case share >= shortFrom, s >= short && share >= shortUntil:
		return short
	case share >= tightFrom, s >= tight && share >= tightUntil:
		return tight
	}
	return enough
}

// MemoryOptions are the settings of a Memory.
type MemoryOptions struct {
	// Limit is that of the Go runtime, in bytes (debug.SetMemoryLimit). 0 and math.MaxInt64 are none: then there is
	// always enough.
	Limit int64
	// Shed, if not nil, is asked to give bytes back, unless memory is enough: such as have waited for so long.
	Shed func(bytes int64, waited time.Duration)
	// Logger gets changes; nil discards.
	Logger *slog.Logger
	// Registerer gets the metric; nil is none.
	Registerer prometheus.Registerer
}

// Memory watches how much of the memory limit is in use. The garbage collector keeps to the limit as long as it can, and
// takes half of the CPU for it where it cannot; what else the process is given then makes it larger than its cgroup
// allows. It is better to cut off the slowest readers before, which are the first to go, and then to refuse requests.
type Memory struct {
	// Static after construction.
	opt     MemoryOptions
	used    func() int64 // bytes in use, garbage included
	collect func()       // garbage

	state atomic.Int32

	// Owned by Run.
	collected time.Time
}

// NewMemory returns a Memory whose Run must be called. It fails if the metric is registered already.
func NewMemory(opt MemoryOptions) (*Memory, error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Memory{opt: opt, used: memoryInUse(), collect: runtime.GC}
	if opt.Registerer == nil {
		return m, nil
	}
	if err := opt.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "piko_memory_state", Help: "How short memory is: 0 there is enough, 1 the slowest readers are cut off, 2 new requests are refused, 3 whoever does not read at once is cut off."},
		func() float64 { return float64(m.state.Load()) })); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return m, nil
}

// Short reports whether new requests are to be refused. It costs one load.
func (m *Memory) Short() bool { return state(m.state.Load()) >= short }

// Run watches until ctx ends.
func (m *Memory) Run(ctx context.Context) {
	if m.opt.Limit <= 0 || m.opt.Limit == math.MaxInt64 {
		return
	}
	tick := time.NewTicker(memoryTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			m.look(now)
		}
	}
}

// look takes note of how much is in use.
func (m *Memory) look(now time.Time) {
	old := state(m.state.Load())
	used := m.used()
	if (old > enough || m.share(used) >= tightFrom) && now.Sub(m.collected) >= collectEvery {
		m.collect() // what is garbage cannot be known otherwise
		m.collected = now
		used = m.used()
	} else if m.share(used) >= tightFrom {
		return // perhaps it is garbage: it is looked at when that may be collected again
	}
	next := old.next(m.share(used))
	m.state.Store(int32(next))
	if next != old {
		m.log(next, used)
	}
	if next > enough && m.opt.Shed != nil {
		waited := stalledFor
		if next == critical {
			waited = 0
		}
		m.opt.Shed(used-int64(shrinkTo*float64(m.opt.Limit)), waited)
	}
}

func (m *Memory) share(used int64) float64 { return float64(used) / float64(m.opt.Limit) }

func (m *Memory) log(s state, used int64) {
	level, text := slog.LevelWarn, "memory is tight: the slowest readers are cut off"
	switch s {
	case short:
		text = "memory is short: new requests are refused"
	case critical:
		text = "memory is critical: whoever does not read at once is cut off"
	case enough:
		level, text = slog.LevelInfo, "memory is enough again"
	}
	m.opt.Logger.Log(context.Background(), level, text, "used_bytes", used, "limit_bytes", m.opt.Limit)
}

// memoryInUse returns what reads how much of that which counts for the limit is in use. Memory that is free, or given
// back, or left over between objects is not: the collector finds use for it before the limit is reached. It stops nothing,
// unlike runtime.ReadMemStats.
func memoryInUse() func() int64 {
	samples := []runtimemetrics.Sample{
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
	}
	return func() int64 {
		runtimemetrics.Read(samples)
		var n [4]int64
		for i, s := range samples {
			if s.Value.Kind() != runtimemetrics.KindUint64 {
				return 0 // a runtime that has no such metric
			}
			n[i] = int64(s.Value.Uint64())
		}
		return n[0] - n[1] - n[2] - n[3]
	}
}

// errShort is why requests are refused while memory is short, for the log.
var errShort = errors.New("memory is short")

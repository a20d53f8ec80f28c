package limit

import (
	"context"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

const (
	// giveBackTick is how often it is looked whether memory can be given back. A process that has collected garbage since
	// the last time is busy, or has allocated as if it soon would.
	giveBackTick = 3 * time.Second
	// giveBackLeast is what the process must have taken since it gave back, at least, and giveBackPart the same as a part
	// of what it kept.
	giveBackLeast = 8 << 20
	giveBackPart  = 8
	// giveBackQuiet is how much is allocated in a tick by a process that does next to nothing.
	giveBackQuiet = 2 << 20
)

// GiveBack gives memory back to the system, until ctx ends, once the process does next to nothing after it has grown. The
// runtime by itself keeps what a storm of connections has needed, about twice of what is in use, since it expects the
// heap to grow as far again. A process that is busy is left alone: it would only have to ask for the memory again.
func GiveBack(ctx context.Context) {
	tick := time.NewTicker(giveBackTick)
	defer tick.Stop()
	var g giver
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if g.due(readUse()) {
			debug.FreeOSMemory()
			g.gave(readUse())
		}
	}
}

// use is what the Go runtime says of its memory.
type use struct {
	cycles    uint64 // of the garbage collector, so far
	allocated uint64 // bytes, so far
	bytes     uint64 // that it has of the system
}

// giver decides, and does nothing.
type giver struct {
	last use
	kept uint64 // when it last gave
}

// due says whether to give, at u.
func (g *giver) due(u use) bool {
	quiet := u.cycles == g.last.cycles && u.allocated-g.last.allocated < giveBackQuiet
	g.last = u
	return quiet && u.bytes > g.kept+max(giveBackLeast, g.kept/giveBackPart)
}

// gave notes what was kept.
func (g *giver) gave(u use) { g.last, g.kept = u, u.bytes }

func readUse() use {
	samples := [4]runtimemetrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	runtimemetrics.Read(samples[:])
	return use{
		cycles: samples[0].Value.Uint64(), allocated: samples[1].Value.Uint64(),
		bytes: samples[2].Value.Uint64() - samples[3].Value.Uint64(),
	}
}

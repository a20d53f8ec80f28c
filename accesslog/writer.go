package accesslog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a Writer.
const (
	flushEvery  = 200 * time.Millisecond
	flushAt     = 32 << 10 // bytes that are not left to wait
	maxBuffered = 1 << 20  // bytes in memory while the sink is slow
	keepBuffer  = 128 << 10
	maxWait     = 2 * time.Second // for a sink that is stuck, in Flush and Close
)

// ErrStuck means that the sink took too long to write what was buffered.
var ErrStuck = errors.New("log sink is stuck")

// Writer is a buffered io.Writer that never waits for its sink: a Write copies
// into memory, and a goroutine of the Writer writes to the sink, 200 ms later
// at most, or sooner when 32 KiB are waiting. What does not fit into 1 MiB
// while the sink is slow is dropped and counted.
//
// A Write is a whole record, such as a line: it is kept or dropped as a whole,
// and reaches the sink in the order of the calls. All methods may be called by
// any goroutine. Close ends the goroutine and waits for it.
type Writer struct {
	// Static after construction.
	sink io.Writer
	wake chan struct{} // holds one; there is something to write
	now  chan struct{} // holds one; do not wait for more
	done chan struct{} // closed when the goroutine has ended

	dropped atomic.Uint64

	mu      sync.Mutex
	active  []byte        // guarded by mu
	records uint64        // in active; guarded by mu
	closed  bool          // guarded by mu
	flushed chan struct{} // closed when what is active now was written; nil: nobody waits; guarded by mu

	// Owned by the goroutine.
	spare []byte
}

// NewWriter returns a Writer to the sink, which nobody else needs to lock: only
// the Writer's goroutine writes to it. The sink is not closed by Close.
func NewWriter(sink io.Writer) *Writer {
	w := &Writer{
		sink: sink,
		wake: make(chan struct{}, 1),
		now:  make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	go w.run()
	return w
}

// Write takes p as one record. It never blocks on the sink. A record that was
// dropped is no error, as nobody could do anything about it: see Dropped. After
// Close the error is os.ErrClosed.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		w.dropped.Add(1)
		return 0, os.ErrClosed
	}
	if len(w.active)+len(p) > maxBuffered {
		w.dropped.Add(1)
		return len(p), nil
	}
	w.active = append(w.active, p...)
	w.records++
	if w.records == 1 {
		signal(w.wake)
	}
	if len(w.active) >= flushAt {
		signal(w.now)
	}
	return len(p), nil
}

// Dropped is the number of records that were lost, because too much was
// waiting, the sink failed, or the Writer was closed.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Flush waits until everything that was written before the call has reached
// the sink, 2 s at most; then it returns ErrStuck.
func (w *Writer) Flush() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	if w.flushed == nil {
		w.flushed = make(chan struct{})
	}
	flushed := w.flushed
	signal(w.wake)
	signal(w.now)
	w.mu.Unlock()
	return await(flushed, "flush log")
}

// Close writes what is buffered and ends the goroutine. It waits for both, but
// for no more than 2 s if the sink is stuck: then it returns ErrStuck and the
// goroutine ends when the sink lets go of it. Closing again does nothing.
func (w *Writer) Close() error {
	w.mu.Lock()
	w.closed = true
	signal(w.wake)
	signal(w.now)
	w.mu.Unlock()
	return await(w.done, "close log")
}

func await(done <-chan struct{}, what string) error {
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("%s: %w", what, ErrStuck)
	}
}

// run sleeps while there is nothing to write: an idle log costs no wake-ups.
func (w *Writer) run() {
	defer close(w.done)
	timer := time.NewTimer(flushEvery)
	defer timer.Stop()
	for {
		<-w.wake
		timer.Reset(flushEvery)
		select {
		case <-w.now:
		case <-timer.C:
		}
		if closed := w.writeOut(); closed {
			return
		}
	}
}

// writeOut writes what is buffered to the sink and reports whether the Writer
// was closed before that.
func (w *Writer) writeOut() (closed bool) {
	w.mu.Lock()
	out, records, flushed, closed := w.active, w.records, w.flushed, w.closed
	w.active, w.records, w.flushed = w.spare[:0], 0, nil
	w.mu.Unlock()

	if len(out) > 0 {
		if _, err := w.sink.Write(out); err != nil {
			w.dropped.Add(records)
		}
	}
	if flushed != nil {
		close(flushed)
	}
	w.spare = nil
	if cap(out) <= keepBuffer || len(out) > cap(out)/4 {
		w.spare = out // what a burst needed is let go when it is over
	}
	return closed
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

package accesslog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sink remembers what reached it, and can be made to wait or to fail.
type sink struct {
	mu     sync.Mutex
	got    bytes.Buffer
	writes int
	err    error
	stuck  chan struct{} // nil or closed: not stuck
}

func (s *sink) Write(p []byte) (int, error) {
	if s.stuck != nil {
		<-s.stuck
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.err != nil {
		return 0, s.err
	}
	return s.got.Write(p)
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

func TestWriterFlushesInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := NewWriter(s)
		defer w.Close()
		for range 3 {
			fmt.Fprintln(w, "line")
			time.Sleep(50 * time.Millisecond)
		}
		if got := s.text(); got != "" {
			t.Errorf("150 ms: %q was written and need not yet", got)
		}
		time.Sleep(51 * time.Millisecond)
		if got := s.text(); got != "line\nline\nline\n" || s.writes != 1 {
			t.Errorf("201 ms: got %q in %d writes", got, s.writes)
		}
		time.Sleep(time.Hour)
		if s.writes != 1 {
			t.Errorf("nothing to write, and %d writes", s.writes)
		}
		fmt.Fprintln(w, "later")
		time.Sleep(201 * time.Millisecond)
		if got := s.text(); !strings.HasSuffix(got, "later\n") {
			t.Errorf("after a pause: %q", got)
		}
	})
}

func TestWriterFlushesMuchAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := NewWriter(s)
		defer w.Close()
		w.Write(make([]byte, flushAt))
		synctest.Wait()
		if got := len(s.text()); got != flushAt {
			t.Errorf("%d bytes were written before any time passed", got)
		}
	})
}

func TestWriterFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, start := &sink{}, time.Now()
		w := NewWriter(s)
		defer w.Close()
		fmt.Fprintln(w, "line")
		if err := w.Flush(); err != nil || s.text() != "line\n" || time.Since(start) > 0 {
			t.Errorf("got %q, error %v, after %v", s.text(), err, time.Since(start))
		}
		if err := w.Flush(); err != nil || time.Since(start) > 0 {
			t.Errorf("with nothing to flush: %v", err)
		}
	})
}

// TestWriterNeverBlocks: the sink is a full pipe that nobody reads.
func TestWriterNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{stuck: make(chan struct{})}
		w := NewWriter(s)
		record := make([]byte, 1000)
		w.Write(record)
		time.Sleep(time.Second) // the goroutine is in the sink with that one
		start := time.Now()
		const n = 2000
		for range n {
			w.Write(record)
		}
		if time.Since(start) > 0 {
			t.Error("a write waited")
		}
		const kept = maxBuffered / 1000
		if got := w.Dropped(); got != n-kept {
			t.Errorf("%d were dropped, want %d", got, n-kept)
		}
		if err := w.Flush(); !errors.Is(err, ErrStuck) || time.Since(start) != maxWait {
			t.Errorf("flush: %v after %v", err, time.Since(start))
		}
		close(s.stuck)
		if err := w.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if got := len(s.text()); got != (kept+1)*1000 {
			t.Errorf("%d bytes reached the sink, want %d", got, (kept+1)*1000)
		}
	})
}

func TestWriterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := NewWriter(s)
		fmt.Fprintln(w, "last words")
		if err := w.Close(); err != nil || s.text() != "last words\n" {
			t.Errorf("got %q, error %v", s.text(), err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("again: %v", err)
		}
		if err := w.Flush(); err != nil {
			t.Errorf("flush of a closed one: %v", err)
		}
		if _, err := fmt.Fprintln(w, "too late"); !errors.Is(err, os.ErrClosed) || w.Dropped() != 1 {
			t.Errorf("write after close: %v, dropped %d", err, w.Dropped())
		}
	})
}

func TestWriterCloseOfAStuckSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{stuck: make(chan struct{})}
		w := NewWriter(s)
		fmt.Fprintln(w, "line")
		start := time.Now()
		if err := w.Close(); !errors.Is(err, ErrStuck) || time.Since(start) != maxWait {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		close(s.stuck)
	})
}

func TestWriterCountsWhatTheSinkRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{err: errors.New("disk full")}
		w := NewWriter(s)
		for range 3 {
			fmt.Fprintln(w, "line")
		}
		w.Flush()
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		fmt.Fprintln(w, "room again")
		w.Close()
		if got := w.Dropped(); got != 3 || s.text() != "room again\n" {
			t.Errorf("dropped %d, got %q", got, s.text())
		}
	})
}

// TestWriterKeepsRecordsWhole: many writers, and every line arrives once, whole,
// and in the order of its writer.
func TestWriterKeepsRecordsWhole(t *testing.T) {
	s := &sink{}
	w := NewWriter(s)
	var wg sync.WaitGroup
	const writers, lines = 8, 2000
	for i := range writers {
		wg.Go(func() {
			for n := range lines {
				fmt.Fprintf(w, "%d %d\n", i, n)
				if n%500 == 0 {
					w.Flush()
				}
			}
		})
	}
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var next [writers]int
	for text := range strings.Lines(s.text()) {
		var i, n int
		if _, err := fmt.Sscanf(text, "%d %d\n", &i, &n); err != nil || n != next[i] {
			t.Fatalf("got %q, want line %d of writer %d", text, next[i], i)
		}
		next[i]++
	}
	for i, n := range next {
		if n != lines {
			t.Errorf("writer %d: %d lines", i, n)
		}
	}
}

package client

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// logged counts the lines at or above a level that contain a text; the listener
// of a bubble writes to it only while the test waits.
type logged struct{ bytes.Buffer }

func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *logged) count(level slog.Level, text string) (n int) {
	for line := range strings.Lines(l.String()) {
		_, rest, _ := strings.Cut(line, "level=")
		word, _, _ := strings.Cut(rest, " ")
		var at slog.Level
		if at.UnmarshalText([]byte(word)) == nil && at >= level && strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// What goes on and on while the endpoint is served is said now and then.
func TestLogOfALastingState(t *testing.T) {
	for _, c := range []struct {
		name string
		old  bool
		to   int // which node all but the first attempt is led to; -1 is none
		text string
		most int
	}{
		{"always led to one node", false, 0, "led to no other node", 1},
		{"always led to one node of before", true, 0, "led to no other node", 1},
		{"nothing answers", false, -1, "cannot open tunnel", 12},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log logged
			f := newFakeCluster("a", "b", "c").ofOld(c.old)
			f.route = func(_ string, attempt int) *fakeNode {
				if attempt > 0 && c.to < 0 {
					return nil
				}
				return f.nodes[0]
			}
			f.inBubble(t, Client{Logger: log.logger()}, func(t *testing.T, l *Listener) {
				time.Sleep(time.Hour)
				synctest.Wait()
				if n := log.count(slog.LevelInfo, c.text); n < 1 || n > c.most {
					t.Errorf("%d lines say %q", n, c.text)
				}
				if n := log.count(slog.LevelInfo, ""); n > c.most+1 { // and that the tunnel is open
					t.Errorf("%d lines in an hour:\n%s", n, log.String())
				}
				if n := log.count(slog.LevelWarn, ""); n > 0 {
					t.Errorf("%d warnings, and the endpoint was served", n)
				}
			})
		})
	}
}

func TestWhatTheLogWarnsOf(t *testing.T) {
	for _, c := range []struct {
		name     string
		happens  func(f *fakeCluster)
		warnings int
	}{
		{"a node stops and waits for us", func(f *fakeCluster) { f.nodes[0].ask(true, 0) }, 0},
		{"a node says that it stops, and does", func(f *fakeCluster) {
			f.nodes[0].ask(true, 0)
			time.Sleep(time.Millisecond)
			f.nodes[0].kill()
		}, 0},
		{"a node is killed", func(f *fakeCluster) { f.nodes[0].kill() }, 1},
		{"the last node says that it stops, and does", func(f *fakeCluster) {
			f.nodes[0].ask(true, time.Minute)
			f.nodes[1].ask(true, time.Minute)
			time.Sleep(time.Millisecond)
			f.nodes[0].kill()
			time.Sleep(time.Millisecond)
			f.nodes[1].kill()
			f.do(func() { f.nodes[1].draining = false })
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log logged
			f := newFakeCluster("a", "b")
			f.inBubble(t, Client{Logger: log.logger()}, func(t *testing.T, l *Listener) {
				time.Sleep(time.Minute)
				c.happens(f)
				synctest.Wait()
				if n := log.count(slog.LevelWarn, "tunnel lost"); n != c.warnings || log.count(slog.LevelWarn, "") != n {
					t.Errorf("%d warnings of a loss, want %d:\n%s", n, c.warnings, log.String())
				}
			})
		})
	}
}

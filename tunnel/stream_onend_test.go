package tunnel

import (
	"testing"
	"testing/synctest"
)

func TestOnEnd(t *testing.T) {
	for name, end := range map[string]func(a, b *Stream, m *runningMux){
		"FIN":     func(_, b *Stream, _ *runningMux) { b.CloseWrite() },
		"reset":   func(_, b *Stream, _ *runningMux) { b.Reset() },
		"close":   func(a, _ *Stream, _ *runningMux) { a.Close() },
		"session": func(_, _ *Stream, m *runningMux) { m.fail(ErrClosed) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
				calls := 0
				a.OnEnd(func() { t.Error("replaced, and called") })
				a.OnEnd(func() { calls++ })
				mustWrite(t, b, "unread")
				synctest.Wait()
				if calls != 0 {
					t.Error("called before the end")
				}
				end(a, b, node)
				synctest.Wait()
				if calls != 1 {
					t.Errorf("called %d times", calls)
				}
				a.OnEnd(func() { calls++ })
				if calls != 2 {
					t.Error("not called behind the end")
				}
				a.OnEnd(nil)
			})
		})
	}
}

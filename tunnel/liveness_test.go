package tunnel

import (
	"testing"
	"time"
)

// liveTime is a moment of the tests, in seconds.
func liveTime(s float64) time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(s * float64(time.Second)))
}

func TestLivenessDecides(t *testing.T) {
	never := time.Time{}
	for _, c := range []struct {
		name               string
		pinged             time.Time
		lastRead, due, now float64
		want               verdict
		wantDue            float64
	}{
		{"bytes came a moment ago", never, 99, 100, 100, leaveAlone, 109},
		{"quiet for less than 10 s", never, 91, 100, 100, leaveAlone, 101},
		{"quiet for 10 s", never, 90, 100, 100, sendPing, 105},
		{"quiet for 10 s, and the wheel early", never, 90, 100, 99.5, sendPing, 104.5},
		{"quiet for an hour: asked before it is dead", never, 0.1, 100, 3600, sendPing, 3605},
		{"nothing since the handshake, 4 s", never, 0, 5, 4, leaveAlone, 5},
		{"nothing since the handshake, 5 s", never, 0, 5, 5, sendPing, 10},
		{"asked, and answered", liveTime(100), 100.1, 105, 105, leaveAlone, 110.1},
		{"asked, answered, and quiet since", liveTime(100), 100.1, 105, 110.1, sendPing, 115.1},
		{"asked 3 s ago", liveTime(100), 90, 105, 103, leaveAlone, 105},
		{"asked 5 s ago", liveTime(100), 90, 105, 105, declareDead, 105},
		{"asked 4.6 s ago, and the wheel early", liveTime(100), 90, 105, 104.6, declareDead, 105},
		{"asked, and we slept: asked again", liveTime(100), 90, 105, 107, sendPing, 112},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := liveness{started: liveTime(0), pinged: c.pinged, due: liveTime(c.due)}
			if got := l.check(liveTime(c.now), liveTime(c.lastRead)); got != c.want {
				t.Errorf("verdict %d, want %d", got, c.want)
			}
			if d := l.due.Sub(liveTime(c.wantDue)).Abs(); d > time.Millisecond {
				t.Errorf("next check at %v, want %v", l.due, liveTime(c.wantDue))
			}
		})
	}
}

// Whatever the phase of the checks, a silent peer is dead after 14 to 15 s and
// one that answers never is.
func TestLivenessEndsSilenceWithin15s(t *testing.T) {
	for early := time.Duration(0); early <= earlyCheck; early += 50 * time.Millisecond {
		l := liveness{started: liveTime(-100), due: liveTime(3)}
		now := liveTime(3)
		for l.check(now, liveTime(0)) != declareDead {
			now = l.due.Add(-early)
		}
		if dead := now.Sub(liveTime(0)); dead < 14*time.Second || dead > 15*time.Second {
			t.Errorf("with checks %v early: dead after %v", early, dead)
		}
	}
}

package accesslog

import (
	"strings"
	"testing"
	"time"
)

func TestStampsAreFormattedTimes(t *testing.T) {
	t.Parallel()
	berlin := time.FixedZone("somewhere", 2*3600)
	base := time.Date(2026, 3, 29, 0, 59, 59, 0, time.UTC)
	var s stamps
	for _, at := range []time.Time{
		base, base.Add(7 * time.Millisecond), base.Add(999_999_999), base.Add(time.Second), base, base.In(berlin),
		base.In(berlin).Add(120 * time.Millisecond), base.Add(5 * time.Millisecond), base.Local(), time.Date(12026, 1, 1, 0, 0, 0, 5e6, time.UTC),
		time.Date(-5, 1, 1, 0, 0, 0, 5e6, time.UTC), time.Unix(0, 0), {},
	} {
		want := at.Format(timeFormat)
		for range 2 {
			if got := string(s.append(nil, at)); got != want {
				t.Errorf("%v: %q, want %q", at, got, want)
			}
		}
	}
}

// TestPlainWordAgrees compares it with the table, for every byte at every place beside others.
func TestPlainWordAgrees(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		for _, filler := range []string{"a", " ", "~", "\x7f", "\xff", `"`} {
			for at := range 8 {
				s := strings.Repeat(filler, at) + string([]byte{byte(c)}) + strings.Repeat(filler, 7-at)
				want := verbatim[c] && verbatim[filler[0]]
				if got := plainWord(s); got != want && (got || filler[0] == 'a') {
					t.Fatalf("%q: %v, want %v", s, got, want)
				}
			}
		}
	}
}

package tunnel

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually calls check until it returns nil, and fails with its last error
// after 5 s. Not for synctest bubbles, where waiting is exact.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	timeout := time.After(5 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("after 5 s: %v", err)
		}
	}
}

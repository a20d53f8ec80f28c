package proxy

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"piko/router"
)

// An upstream whose agent cannot reach its service is avoided, here and behind another node, for requests that cannot be
// sent again, too; it is the last resort, and not out.
func TestUpstreamWithoutServiceIsAvoided(t *testing.T) {
	theseWays(t, testUpstreamWithoutServiceIsAvoided, noHop, manyNodes)
}

func testUpstreamWithoutServiceIsAvoided(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Piko-Error", "upstream-unreachable")
		w.WriteHeader(502)
	})
	before := time.Now()
	if status, _, _ := w.do("POST", "/", nil); status != 502 {
		t.Fatalf("without a service: %d", status)
	}
	failed := w.entry.Lookup("e").Pick(before, 0, nil)
	if !failed.OK() {
		t.Fatal("the only upstream is not chosen any more")
	}
	w.serve("e", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "fine") })
	for i := range uint64(50) {
		got := w.entry.Lookup("e").Pick(before, i<<56, nil)
		if got.Local == failed.Local && got.Node == failed.Node {
			t.Fatal("an upstream that has just failed is chosen")
		}
	}
}

// What fails again and again is in the log once, and so is that it works again; two failures are nothing to speak of.
func TestEjectionIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := newMetrics(nil)
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		x := &exchange{endpoint: "e", f: &forwarder{opt: Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, metrics: m}}
		target := router.Target{Local: router.NewLocal(nil)}
		fail := func(times int) {
			for range times {
				x.blame(target, errors.New("the reason"))
				x.blame(target, errors.New("of the same incident"))
				time.Sleep(20 * time.Second)
			}
		}
		fail(2)
		x.praise(target)
		if log.Len() > 0 {
			t.Errorf("two failures are logged:\n%s", &log)
		}
		fail(5)
		x.praise(target)
		x.praise(target)
		for _, want := range []string{"fails again and again", "the reason", "works again"} {
			if n := strings.Count(log.String(), want); n != 1 {
				t.Errorf("the log says %q %d times:\n%s", want, n, &log)
			}
		}
		if n := testutil.ToFloat64(m.ejections); n != 7 {
			t.Errorf("%v ejections, want 7", n)
		}
		x.blame(target, &missError{reason: missNoUpstream})
		if target.Local.Ejected(time.Now()) {
			t.Error("a miss ejects")
		}
	})
}

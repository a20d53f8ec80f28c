package peer

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

// both runs a test without and with a cluster secret.
func both(t *testing.T, test func(t *testing.T, secure bool)) {
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "secure"}[secure], func(t *testing.T) { test(t, secure) })
	}
}

func TestRequestCrossesALink(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		a := g.start(t, "a", secure, nil)
		b := g.start(t, "b", secure, func(w http.ResponseWriter, r *http.Request) {
			caller, ok := CallerOf(r.Context())
			fmt.Fprintf(w, "%s %s for %s %v", r.Method, r.URL.Path, caller.ID, ok)
		})
		l, _ := connect(t, a, b)
		for range 3 {
			res, err := l.RoundTrip(request(t, "GET", "/x"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if want := "GET /x for a true"; err != nil || string(body) != want {
				t.Errorf("answer %q, %v; want %q", body, err, want)
			}
		}
		if sessions, streams := l.Stats(); sessions != 1 || streams != 1 {
			t.Errorf("%d sessions and %d streams, want one of each", sessions, streams)
		}
	})
}

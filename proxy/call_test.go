package proxy

import (
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"piko/relay"
)

// nobody is an exchange that can be aborted.
type nobody struct{}

func (nobody) Abort(error) {}

// The upstream's time begins when the request is out: the attempt that is under way, and not one before it, whose
// sender notices late that it is over.
func TestTimeoutBeginsWithTheLastAttempt(t *testing.T) {
	runtime.GC() // alarms are pooled, and may not cross into a bubble
	runtime.GC()
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://e.x/", nil)
			if err != nil {
				t.Fatal(err)
			}
			var c call
			c.begin(&exchange{r: r, body: new(relay.Body)}, time.Second, -1)
			defer c.end()
			c.Watch(nobody{})
			if !late {
				c.WroteRequest(nil)
			}
			c.Watch(nobody{}) // another attempt
			if late {
				c.WroteRequest(nil) // of the first one
			}
			time.Sleep(time.Hour) // the client's upload is long
			if c.timedOut() {
				t.Errorf("late %v: timed out while the request was being sent", late)
			}
			c.WroteRequest(nil)
			time.Sleep(time.Second)
			synctest.Wait()
			if !c.timedOut() {
				t.Errorf("late %v: no time-out", late)
			}
		})
	}
	runtime.GC()
	runtime.GC()
}

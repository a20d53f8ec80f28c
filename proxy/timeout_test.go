package proxy

import (
	"io"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// Over HTTP/2 a body that stays away is given up, and one that we do not read since the service takes its time is not.
func TestHTTP2BodyProgress(t *testing.T) {
	theseWays(t, testHTTP2BodyProgress, noHop, oneOwner)
}

// shortLimit is for those who are cut off, and longLimit for those who are not: a busy machine passes on within it what is
// there.
const shortLimit, longLimit = 200 * time.Millisecond, 3 * time.Second

func testHTTP2BodyProgress(t *testing.T, newWorld worldMaker) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.ReadTimeout = shortLimit })
	l := w.serve("e", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	c := w.dialHTTP2()
	c.request(1, false, post("content-length", "10")...)
	c.fr.WriteData(1, false, []byte("abc"))
	if a := c.read(1); a.status != "408" || a.header.Get("X-Piko-Error") != "request-timeout" {
		t.Errorf("half a body got %+v", a)
	}
	eventually(t, idle(l))

	w = newWorld(t, func(o *Options) { o.ReadTimeout = longLimit })
	gate := make(chan struct{})
	l = w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		<-gate
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil && n != r.ContentLength {
			t.Errorf("the service read %d bytes of %d", n, r.ContentLength)
		}
	})
	// More than the service's connection holds, in a window of net/http's own: we read some of it, and wait.
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+w.addr+"/", io.LimitReader(zeros{}, 32<<20))
	req.Header, req.ContentLength = http.Header{"X-Piko-Endpoint": {"e"}}, 32<<20
	time.AfterFunc(longLimit*4/3, func() { close(gate) })
	res, err := newHTTP2Client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("a slow service got its client %s", res.Status)
	}
	eventually(t, idle(l))
}

// A client that reads nothing of its response is cut off, however small that is; one whose service pauses is not.
func TestHTTP2ResponseProgress(t *testing.T) {
	theseWays(t, testHTTP2ResponseProgress, noHop, oneOwner)
}

func testHTTP2ResponseProgress(t *testing.T, newWorld worldMaker) {
	t.Parallel()
	service := func(w http.ResponseWriter, r *http.Request) {
		size := 3
		if r.Header.Get("X-At") == "long" {
			size = 8 << 20
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		if r.Header.Get("X-At") == "pause" {
			w.Header().Set("Content-Length", "6")
			io.WriteString(w, "abc")
			http.NewResponseController(w).Flush()
			<-time.After(longLimit * 4 / 3)
		}
		w.Write(make([]byte, size))
	}
	w := newWorld(t, func(o *Options) { o.WriteTimeout = shortLimit })
	l := w.serve("e", service)
	for _, at := range []string{"short", "long"} {
		c := w.dialHTTP2(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		c.request(1, true, get("x-at", at)...)
		if a := c.read(1); a.reset != "INTERNAL_ERROR" || a.body != "" {
			t.Errorf("%s: got %+v", at, a)
		}
	}
	c := w.dialHTTP2(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	c.request(1, true, get("x-piko-endpoint", "nobody")...)
	if a := c.read(1); a.reset != "INTERNAL_ERROR" || a.status != "502" {
		t.Errorf("an error that nobody reads: got %+v", a)
	}
	eventually(t, idle(l))

	w = newWorld(t, func(o *Options) { o.WriteTimeout = longLimit })
	l = w.serve("e", service)
	c = w.dialHTTP2()
	c.request(1, true, get("x-at", "pause")...)
	if a := c.read(1); a.body != "abc\x00\x00\x00" || !a.ended {
		t.Errorf("a service that pauses got its client %+v", a)
	}
	eventually(t, idle(l))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cuts := 0
		s := &stall{limit: time.Minute, cut: func() { cuts++ }}
		step := func(during, between time.Duration, want int) {
			t.Helper()
			s.begin()
			time.Sleep(during)
			synctest.Wait()
			s.over()
			time.Sleep(between)
			synctest.Wait()
			if cuts != want {
				t.Errorf("%d cuts, want %d", cuts, want)
			}
		}
		step(59*time.Second, time.Hour, 0) // what is between does not count
		step(59*time.Second, 0, 0)
		step(59*time.Second, 0, 0)
		step(61*time.Second, 0, 1)
		step(time.Second, time.Hour, 1)
	})
}

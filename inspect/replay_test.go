package inspect

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// replayed waits for the exchange with an id to end.
func (i *inspected) replayed(target string) (d detail) {
	i.t.Helper()
	eventually(i.t, func() error {
		if i.call("GET", target, "").Code != http.StatusOK {
			return errNotYet
		}
		if d = i.one(target); !d.Done {
			return errNotYet
		}
		return nil
	})
	return d
}

func TestReplayIsTheSameRequest(t *testing.T) {
	var failing atomic.Bool
	failing.Store(true)
	i := start(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if failing.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("X-Seen", r.Method+" "+r.RequestURI+" "+r.Host+" "+r.Header.Get("Authorization")+" "+r.Header.Get("X-Twice")+" "+string(body))
	})
	i.send("POST", "/hook?token=t0p", `{"secret":"s3cret"}`, "Authorization", "Bearer abc", "X-Twice", "1", "Content-Type", "application/json")
	if s := i.list()[0]; s.Status != http.StatusInternalServerError || s.Path != "/hook?token=[redacted]" {
		t.Fatalf("%+v", s)
	}
	failing.Store(false)
	if w := i.call("POST", "/api/exchanges/1/replay", "{}"); w.Code != http.StatusAccepted || w.Body.String() != "{\"id\":2}\n" {
		t.Fatalf("replay: %d %s", w.Code, w.Body)
	}
	d := i.replayed("/api/exchanges/2")
	if d.ReplayOf != 1 || d.Edited || d.Status != http.StatusOK {
		t.Errorf("%+v", d.summary)
	}
	x := i.store.find(2)
	if got := x.answer.Get("X-Seen"); got != `POST /hook?token=t0p example.com Bearer abc 1 {"secret":"s3cret"}` {
		t.Errorf("the service saw %q", got)
	}
}

func TestEditedReplay(t *testing.T) {
	seen := make(chan string, 1)
	i := start(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("X-Edited") != "" {
			seen <- r.Method + " " + r.RequestURI + " " + r.Header.Get("Authorization") + " " + r.Header.Get("Content-Length") + " " + string(body)
		}
	})
	i.send("POST", "/hook?token=t0p", `{"secret":"s3cret","n":1}`, "Authorization", "Bearer abc", "Content-Type", "application/json")
	edit := `{"method":"PUT","path":"/other?token=[redacted]&more","headers":[["Authorization","Bearer [redacted]"],["x-edited","1"]],"body":"{\"secret\":\"[redacted]\",\"n\":2}"}`
	if w := i.call("POST", "/api/exchanges/1/replay", edit); w.Code != http.StatusAccepted {
		t.Fatalf("replay: %d %s", w.Code, w.Body)
	}
	if got := <-seen; got != `PUT /other?token=t0p&more Bearer abc 25 {"secret":"s3cret","n":2}` {
		t.Errorf("the service saw %q", got)
	}
	if d := i.replayed("/api/exchanges/2"); !d.Edited || d.Method != "PUT" || d.Path != "/other?token=[redacted]&more" {
		t.Errorf("%+v", d.summary)
	}
}

func TestReplaysThatCannotBe(t *testing.T) {
	i := start(t, Config{MaxBody: 100}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/unread" {
			io.Copy(io.Discard, r.Body)
		}
	})
	i.send("POST", "/", "token=abc", "Content-Type", "application/x-www-form-urlencoded")
	i.send("POST", "/long", strings.Repeat("x", 101))
	i.send("GET", "/socket", "", "Upgrade", "websocket", "Connection", "Upgrade")
	i.send("POST", "/unread", "never read")
	for _, c := range []struct {
		id, edit string
		status   int
		want     string
	}{
		{"2", `{}`, http.StatusConflict, "--inspect.max-body"},
		{"3", `{}`, http.StatusConflict, "WebSocket"},
		{"4", `{}`, http.StatusConflict, "never ended"},
		{"1", `{"method":"NO SPACE"}`, http.StatusBadRequest, "method"},
		{"1", `{"path":"no-slash"}`, http.StatusBadRequest, "slash"},
		{"1", `{"path":"/a b"}`, http.StatusBadRequest, "spaces"},
		{"1", `{"path":"/a\r\nX: y"}`, http.StatusBadRequest, "spaces"},
		{"1", `{"headers":[["A b","c"]]}`, http.StatusBadRequest, "header"},
		{"1", `{"headers":[["A","b\r\nc: d"]]}`, http.StatusBadRequest, "header"},
		{"1", `{"body":"token=[redacted]&token=[redacted]"}`, http.StatusBadRequest, "[redacted]"},
		{"1", `{"host":"elsewhere"}`, http.StatusBadRequest, "host"},
		{"1", `no JSON`, http.StatusBadRequest, "edited"},
		{"9", `{}`, http.StatusNotFound, "no such"},
	} {
		w := i.call("POST", "/api/exchanges/"+c.id+"/replay", c.edit)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("replay of %s with %s: %d %s; want %d, %q", c.id, c.edit, w.Code, w.Body, c.status, c.want)
		}
	}
	if w := i.call("POST", "/api/exchanges/2/replay", `{"body":"short"}`); w.Code != http.StatusAccepted {
		t.Errorf("an edited body in place of one that is too long: %d %s", w.Code, w.Body)
	}
}

func TestReplaysAreBoundedAndEndWithTheInspector(t *testing.T) {
	release := make(chan struct{})
	var ended atomic.Int32
	i := start(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			return
		}
		select {
		case <-r.Context().Done():
			ended.Add(1)
			panic(http.ErrAbortHandler)
		case <-release:
		}
	})
	defer close(release)
	i.send("GET", "/first", "")
	for range maxReplays {
		if w := i.call("POST", "/api/exchanges/1/replay", `{"path":"/waits"}`); w.Code != http.StatusAccepted {
			t.Fatalf("replay: %d %s", w.Code, w.Body)
		}
	}
	if w := i.call("POST", "/api/exchanges/1/replay", `{}`); w.Code != http.StatusServiceUnavailable {
		t.Errorf("one too many: %d %s", w.Code, w.Body)
	}
	i.Close()
	if ended.Load() != maxReplays {
		t.Errorf("%d have ended", ended.Load())
	}
	if w := i.call("POST", "/api/exchanges/1/replay", `{}`); w.Code != http.StatusServiceUnavailable {
		t.Errorf("after the end: %d %s", w.Code, w.Body)
	}
}

package inspect

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestOnlyThisMachineIsAnswered(t *testing.T) {
	i := start(t, Config{Hosts: []string{"inspect.example.com"}}, echo)
	anywhere := start(t, Config{AnyAddress: true}, echo)
	for _, c := range []struct {
		host                string
		allowed, atAnywhere bool
	}{
		{"localhost:4040", true, true},
		{"LOCALHOST", true, true},
		{"piko.localhost:4040", true, true},
		{"127.0.0.1:4040", true, true},
		{"127.1.2.3", true, true},
		{"[::1]:4040", true, true},
		{"[::ffff:127.0.0.1]:4040", true, true},
		{"inspect.example.com:4040", true, false},
		{"evil.example.com:4040", false, false},
		{"localhost.evil.example.com", false, false},
		{"127.0.0.1.evil.example.com", false, false},
		{"192.168.1.5:4040", false, true},
		{"", false, false},
	} {
		for _, target := range []string{"/", "/api/exchanges", "/app.js"} {
			if got := i.call("GET", target, "", "Host", c.host).Code != http.StatusForbidden; got != c.allowed {
				t.Errorf("GET %s at %q: allowed %v", target, c.host, got)
			}
			if got := anywhere.call("GET", target, "", "Host", c.host).Code != http.StatusForbidden; got != c.atAnywhere {
				t.Errorf("GET %s at %q, on all addresses: allowed %v", target, c.host, got)
			}
		}
	}
}

func TestOtherSitesCannotReplay(t *testing.T) {
	i := start(t, Config{}, echo)
	i.send("GET", "/", "")
	for _, c := range []struct {
		name   string
		header []string
		status int
	}{
		{"another site", []string{"Origin", "https://evil.example.com", "Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{"another port of this machine", []string{"Origin", "http://localhost:3000", "Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		{"an old browser on another site", []string{"Origin", "http://evil.example.com"}, http.StatusForbidden},
		{"a form", []string{"Content-Type", "text/plain"}, http.StatusUnsupportedMediaType},
		{"the page", []string{"Origin", "http://localhost:4040", "Sec-Fetch-Site", "same-origin"}, http.StatusAccepted},
		{"curl", nil, http.StatusAccepted},
	} {
		if w := i.call("POST", "/api/exchanges/1/replay", "{}", c.header...); w.Code != c.status {
			t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, c.status)
		}
		if c.status == http.StatusForbidden && i.call("DELETE", "/api/exchanges", "", c.header...).Code != c.status {
			t.Errorf("%s can clear", c.name)
		}
	}
}

func TestPageIsWholeAndLoadsNothingFromElsewhere(t *testing.T) {
	i := start(t, Config{}, echo)
	for _, name := range []string{"/", "/app.js", "/dom.js", "/detail.js", "/body.js", "/edit.js", "/style.css", "/icon.svg"} {
		w := i.call("GET", name, "")
		csp := w.Header().Get("Content-Security-Policy")
		if w.Code != http.StatusOK || w.Header().Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("GET %s: %d %v", name, w.Code, w.Header())
		}
		text := strings.ReplaceAll(w.Body.String(), "http://www.w3.org/2000/svg", "")
		text = strings.ReplaceAll(text, "http://localhost:8000/", "")
		for _, bad := range []string{"http:", "https:", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", "onclick=\""} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %s", name, bad)
			}
		}
	}
}

func TestBodiesAreNeverAPage(t *testing.T) {
	i := start(t, Config{}, echo)
	i.send("POST", "/", "<script>alert(1)</script>", "Content-Type", "text/html")
	for _, side := range []string{"request", "response"} {
		w := i.call("GET", "/api/exchanges/1/"+side+"/body", "")
		if w.Body.String() != "<script>alert(1)</script>" || w.Header().Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(w.Header().Get("Content-Disposition"), "attachment") {
			t.Errorf("%s: %v %s", side, w.Header(), w.Body)
		}
	}
	if w := i.call("GET", "/api/exchanges/1/elsewhere/body", ""); w.Code != http.StatusNotFound {
		t.Errorf("another side: %d", w.Code)
	}
}

func TestCurl(t *testing.T) {
	i := start(t, Config{}, echo)
	i.send("POST", "/it's?a=b&token=t", "x='y'", "Content-Type", "text/plain", "Authorization", "Basic abc", "X-Forwarded-Proto", "https", "X-Forwarded-For", "192.0.2.1")
	want := `curl -i -X 'POST' 'https://example.com/it'\''s?a=b&token=[redacted]' \
  -H 'Authorization: Basic [redacted]' \
  -H 'Content-Type: text/plain' \
  --data-raw 'x='\''y'\'''
`
	if got := i.call("GET", "/api/exchanges/1/curl", "").Body.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	i.send("POST", "/", "\x00\xff")
	if got := i.call("GET", "/api/exchanges/2/curl", "").Body.String(); !strings.HasPrefix(got, "echo 'AP8=' | base64 -d | curl") || !strings.Contains(got, "--data-binary @-") {
		t.Errorf("bytes: %s", got)
	}
}

// TestHAR reads a file back as strictly as its specification is.
func TestHAR(t *testing.T) {
	i := start(t, Config{}, echo)
	i.send("POST", "/form?a=b%20c&key=k", "name=v&password=p", "Content-Type", "application/x-www-form-urlencoded", "Cookie", "a=b")
	i.send("POST", "/bytes", "\x00\xff", "Content-Type", "application/octet-stream")
	w := i.call("GET", "/api/har", "")
	if !strings.Contains(w.Header().Get("Content-Disposition"), "piko.har") || strings.Contains(w.Body.String(), "=p\"") {
		t.Errorf("%v\n%s", w.Header(), w.Body)
	}
	var f struct {
		Log struct {
			Version string
			Creator struct{ Name, Version string }
			Entries []map[string]json.RawMessage
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
		t.Fatal(err)
	}
	if f.Log.Version != "1.2" || f.Log.Creator.Name == "" || f.Log.Creator.Version == "" || len(f.Log.Entries) != 2 {
		t.Fatalf("%+v", f.Log)
	}
	required := map[string][]string{
		"":         {"startedDateTime", "time", "request", "response", "cache", "timings"},
		"request":  {"method", "url", "httpVersion", "cookies", "headers", "queryString", "headersSize", "bodySize"},
		"response": {"status", "statusText", "httpVersion", "cookies", "headers", "content", "redirectURL", "headersSize", "bodySize"},
		"timings":  {"send", "wait", "receive"},
	}
	for _, e := range f.Log.Entries {
		for part, names := range required {
			object := e
			if part != "" {
				object = nil
				if err := json.Unmarshal(e[part], &object); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range names {
				if v, ok := object[name]; !ok || string(v) == "null" {
					t.Errorf("%s.%s is missing", part, name)
				}
			}
		}
	}
	var h harFile
	if err := json.Unmarshal(w.Body.Bytes(), &h); err != nil {
		t.Fatal(err)
	}
	first, second := h.Log.Entries[0], h.Log.Entries[1]
	if q := first.Request.Query; len(q) != 2 || q[0] != (harPair{"a", "b c"}) || q[1] != (harPair{"key", redacted}) {
		t.Errorf("query %v", q)
	}
	if first.Request.PostData.Text != "name=v&password=[redacted]" || second.Response.Content.Encoding != "base64" || second.Response.Content.Text != "AP8=" {
		t.Errorf("%+v %+v", first.Request.PostData, second.Response.Content)
	}
	if w := i.call("GET", "/api/exchanges/2/har", ""); strings.Count(w.Body.String(), "startedDateTime") != 1 {
		t.Errorf("the file of one: %s", w.Body)
	}
}

func TestLiveViewSaysWhatChanges(t *testing.T) {
	i := start(t, Config{}, echo)
	srv := httptest.NewServer(i.Handler())
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL + "/api/live")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	read := func() (u update) {
		t.Helper()
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if text, ok := strings.CutPrefix(line, "data: "); ok {
				if err := json.Unmarshal([]byte(text), &u); err != nil {
					t.Fatal(err)
				}
				return u
			}
		}
	}
	if u := read(); len(u.Changed) != 0 || len(u.Listeners) != 1 || u.Listeners[0].Endpoint != "my-endpoint" {
		t.Errorf("at first: %+v", u)
	}
	i.send("GET", "/a", "")
	for done := false; !done; {
		u := read()
		done = len(u.Changed) == 1 && u.Changed[0].Path == "/a" && u.Changed[0].Done
	}
	i.store.clear()
	for u := read(); u.First != 2; u = read() {
	}
	i.Close()
	if _, err := r.ReadString('\n'); err == nil {
		if _, err := r.ReadString('\n'); err == nil {
			t.Error("the view goes on after the end")
		}
	}
}

func TestLiveViewsAreBounded(t *testing.T) {
	i := start(t, Config{}, echo)
	for range maxViewers {
		i.viewers <- struct{}{}
	}
	if w := i.call("GET", "/api/live", ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("one too many: %d", w.Code)
	}
}

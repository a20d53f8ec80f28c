//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// artifactsEnv names a directory that keeps the screenshots; without it they are where
// go test -artifacts puts them.
const artifactsEnv = "PIKO_E2E_ARTIFACTS"

// browser is a running Chromium, driven by its DevTools protocol.
type browser struct {
	// Static after construction.
	ws     *websocket.Conn
	closed chan struct{} // by read, when the connection is gone

	mu      sync.Mutex // guards all below, and writing
	last    int
	waiting map[int]chan<- devtoolsMessage
	tabs    map[string]*tab // by session
}

// devtoolsMessage is an answer or an event.
type devtoolsMessage struct {
	ID        int             `json:"id"`
	Method    string          `json:"method"`
	SessionID string          `json:"sessionId"`
	Params    json.RawMessage `json:"params"`
	Result    json.RawMessage `json:"result"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// tab is one page of a browser, with storage of its own.
type tab struct {
	*browser
	session string

	// Guarded by browser.mu.
	problems []string // what went to the console as an error, and what was thrown
	requests []string // URLs
}

// startBrowser starts a browser that ends with the test.
func startBrowser(t testing.TB, args ...string) *browser {
	t.Helper()
	p := start(t, "chromium", nil, tool(t, "chromium"), append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-prefers-reduced-motion",
		"--lang=en-GB", "--user-data-dir=" + t.TempDir(), "--remote-debugging-port=0", "about:blank",
	}, args...)...)
	var address string
	listening := regexp.MustCompile(`DevTools listening on (ws://\S+)`)
	eventually(t, 60*time.Second, "the browser listens", func() error {
		if m := listening.FindStringSubmatch(string(readFile(t, p.stderr))); m != nil {
			address = m[1]
			return nil
		}
		return errNotYet
	})
	ws, _, err := websocket.DefaultDialer.Dial(address, nil)
	if err != nil {
		t.Fatalf("connect to the browser: %v", err)
	}
	b := &browser{ws: ws, closed: make(chan struct{}), waiting: map[int]chan<- devtoolsMessage{}, tabs: map[string]*tab{}}
	go b.read()
	t.Cleanup(func() {
		ws.Close()
		<-b.closed
	})
	return b
}

// read hands answers to who waits for them, and notes what tabs say, until the connection ends.
func (b *browser) read() {
	defer close(b.closed)
	for {
		var m devtoolsMessage
		if err := b.ws.ReadJSON(&m); err != nil {
			return
		}
		b.mu.Lock()
		if answer, ok := b.waiting[m.ID]; ok {
			delete(b.waiting, m.ID)
			answer <- m
		} else if tab := b.tabs[m.SessionID]; tab != nil {
			tab.note(m)
		}
		b.mu.Unlock()
	}
}

// note is called with mu held.
func (p *tab) note(m devtoolsMessage) {
	var event struct {
		Type    string
		Request struct{ URL string }
		Entry   struct{ Level, Text, URL string }
		Args    []struct{ Value, Description any }
		Details struct {
			Text      string
			Exception struct{ Description string }
		} `json:"exceptionDetails"`
	}
	json.Unmarshal(m.Params, &event)
	switch {
	case m.Method == "Network.requestWillBeSent":
		p.requests = append(p.requests, event.Request.URL)
	case m.Method == "Runtime.consoleAPICalled" && (event.Type == "error" || event.Type == "warning" || event.Type == "assert"):
		p.problems = append(p.problems, fmt.Sprint("console: ", event.Args))
	case m.Method == "Runtime.exceptionThrown":
		p.problems = append(p.problems, "thrown: "+event.Details.Text+" "+event.Details.Exception.Description)
	case m.Method == "Log.entryAdded" && (event.Entry.Level == "error" || event.Entry.Level == "warning"):
		p.problems = append(p.problems, fmt.Sprintf("log: %s (%s)", event.Entry.Text, event.Entry.URL))
	}
}

type object = map[string]any

// call asks the browser, or one of its tabs, to do something.
func (b *browser) call(session, method string, params object, result any) error {
	answer := make(chan devtoolsMessage, 1)
	b.mu.Lock()
	b.last++
	b.waiting[b.last] = answer
	message := object{"id": b.last, "method": method, "params": cmp.Or(&params, &object{})}
	if session != "" {
		message["sessionId"] = session
	}
	err := b.ws.WriteJSON(message)
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		}
		if result != nil {
			return json.Unmarshal(m.Result, result)
		}
		return nil
	case <-b.closed:
		return fmt.Errorf("%s: the browser has gone", method)
	case <-ctx.Done():
		return fmt.Errorf("%s: no answer", method)
	}
}

// open shows a page in a tab that shares nothing with others.
func (b *browser) open(t testing.TB, address string, width, height int) *tab {
	t.Helper()
	p := b.blank(t, width, height)
	p.do(t, "Page.navigate", object{"url": address})
	return p
}

// blank is a tab that shows nothing yet.
func (b *browser) blank(t testing.TB, width, height int) *tab {
	t.Helper()
	var place struct{ BrowserContextID, TargetID, SessionID string }
	if err := b.call("", "Target.createBrowserContext", object{}, &place); err != nil {
		t.Fatal(err)
	}
	if err := b.call("", "Target.createTarget", object{"url": "about:blank", "browserContextId": place.BrowserContextID}, &place); err != nil {
		t.Fatal(err)
	}
	if err := b.call("", "Target.attachToTarget", object{"targetId": place.TargetID, "flatten": true}, &place); err != nil {
		t.Fatal(err)
	}
	p := &tab{browser: b, session: place.SessionID}
	b.mu.Lock()
	b.tabs[p.session] = p
	b.mu.Unlock()
	t.Cleanup(func() {
		b.call("", "Target.disposeBrowserContext", object{"browserContextId": place.BrowserContextID}, nil)
	})
	for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
		p.do(t, domain+".enable", nil)
	}
	p.size(t, width, height)
	return p
}

func (p *tab) do(t testing.TB, method string, params object) {
	t.Helper()
	if err := p.call(p.session, method, params, nil); err != nil {
		t.Fatal(err)
	}
}

func (p *tab) size(t testing.TB, width, height int) {
	t.Helper()
	p.do(t, "Emulation.setDeviceMetricsOverride", object{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
}

// dark sets what the viewer prefers.
func (p *tab) dark(t testing.TB, dark bool) {
	t.Helper()
	value := "light"
	if dark {
		value = "dark"
	}
	p.do(t, "Emulation.setEmulatedMedia", object{"features": []object{{"name": "prefers-color-scheme", "value": value}}})
}

// try evaluates an expression, and waits if its value is a promise.
func (p *tab) try(expression string, out any) error {
	var answer struct {
		Result    struct{ Value json.RawMessage }
		Exception *struct {
			Text      string
			Exception struct{ Description string }
		} `json:"exceptionDetails"`
	}
	err := p.call(p.session, "Runtime.evaluate", object{"expression": expression, "returnByValue": true, "awaitPromise": true}, &answer)
	switch {
	case err != nil:
		return err
	case answer.Exception != nil:
		return errors.New(answer.Exception.Text + " " + answer.Exception.Exception.Description)
	case out != nil && len(answer.Result.Value) > 0:
		return json.Unmarshal(answer.Result.Value, out)
	}
	return nil
}

func (p *tab) eval(t testing.TB, expression string, out any) {
	t.Helper()
	if err := p.try(expression, out); err != nil {
		t.Fatalf("evaluate %s: %v", expression, err)
	}
}

// text is that of the first element that a selector finds.
func (p *tab) text(t testing.TB, selector string) (text string) {
	t.Helper()
	p.eval(t, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector), &text)
	return text
}

// wait waits until an expression is true.
func (p *tab) wait(t testing.TB, what, expression string) {
	t.Helper()
	eventually(t, 30*time.Second, what, func() error {
		var yes bool
		if err := p.try("!!("+expression+")", &yes); err != nil || yes {
			return err
		}
		return fmt.Errorf("not so: %s", expression)
	})
}

// key presses a key: one character, or a name such as Enter.
func (p *tab) key(t testing.TB, key string) {
	t.Helper()
	params := object{"type": "keyDown", "key": key}
	if code := map[string]int{"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36, "PageDown": 34}[key]; code != 0 {
		params["windowsVirtualKeyCode"], params["code"] = code, key
	}
	if text := map[string]string{"Enter": "\r"}[key]; text != "" || len(key) == 1 {
		params["text"] = cmp.Or(text, key)
	}
	p.do(t, "Input.dispatchKeyEvent", params)
	params = object{"type": "keyUp", "key": key, "windowsVirtualKeyCode": params["windowsVirtualKeyCode"]}
	if params["windowsVirtualKeyCode"] == nil {
		delete(params, "windowsVirtualKeyCode")
	}
	p.do(t, "Input.dispatchKeyEvent", params)
}

// write types a text.
func (p *tab) write(t testing.TB, text string) {
	t.Helper()
	p.do(t, "Input.insertText", object{"text": text})
}

// click clicks in the middle of what a selector finds.
func (p *tab) click(t testing.TB, selector string) {
	t.Helper()
	var at struct{ X, Y float64 }
	p.eval(t, fmt.Sprintf(`(() => { const e = document.querySelector(%q); e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2} })()`, selector), &at)
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		p.do(t, "Input.dispatchMouseEvent", object{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1})
	}
}

// screenshot keeps what is shown as a PNG.
func (p *tab) screenshot(t testing.TB, name string) {
	t.Helper()
	var shot struct{ Data string }
	if err := p.call(p.session, "Page.captureScreenshot", object{"format": "png"}, &shot); err != nil {
		t.Fatal(err)
	}
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		t.Fatalf("read screenshot: %v", err)
	}
	dir := cmp.Or(os.Getenv(artifactsEnv), t.ArtifactDir())
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		t.Fatalf("keep screenshot: %v", err)
	}
}

// clean wants no errors in the console but those that have one of the texts, and no request to
// another host than the page's.
func (p *tab) clean(t testing.TB, host string, but ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, problem := range p.problems {
		if !slices.ContainsFunc(but, func(text string) bool { return strings.Contains(problem, text) }) {
			t.Errorf("the browser says: %s", problem)
		}
	}
	for _, r := range p.requests {
		if u, err := url.Parse(r); err != nil || u.Host != host && u.Scheme != "about" && u.Scheme != "data" && u.Scheme != "blob" {
			t.Errorf("the page asked for %s", r)
		}
	}
	if len(p.requests) == 0 {
		t.Error("no request was seen, so nothing was checked")
	}
}

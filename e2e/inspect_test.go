//go:build e2e

package e2e

import (
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// webhookService is a service that somebody develops: its webhook fails until it is mended.
type webhookService struct {
	*httptest.Server
	mended atomic.Bool
	last   atomic.Pointer[string] // what the webhook was sent last
}

func startWebhookService(t testing.TB) *webhookService {
	s := &webhookService{}
	mux := http.NewServeMux()
	mux.HandleFunc("/webhook", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.last.Store(new(r.Method + " " + r.URL.RequestURI() + " " + r.Header.Get("X-Api-Key") + " " + string(body)))
		w.Header().Set("Content-Type", "application/json")
		if !s.mended.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, `{"error":"the orders table is gone"}`)
			return
		}
		io.WriteString(w, `{"accepted":true}`)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for n := range 3 {
			fmt.Fprintf(w, "event: tick\ndata: {\"n\":%d}\n\n", n)
		}
	})
	mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, message, err := c.ReadMessage()
			if err != nil {
				return
			}
			c.WriteMessage(kind, append([]byte("echo "), message...))
		}
	})
	mux.HandleFunc("/picture", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "image/png")
		picture := image.NewRGBA(image.Rect(0, 0, 96, 64))
		for n := range 96 * 64 {
			picture.Set(n%96, n/96, color.RGBA{uint8(n % 96 * 2), uint8(n / 96 * 4), 180, 255})
		}
		png.Encode(w, picture)
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "very-secret-cookie"})
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// inspectedAgent starts an agent with an inspector, and returns the address of its page.
func inspectedAgent(t testing.TB, s *server, addr string, args ...string) string {
	page := freeAddr(t)
	s.agent(t, "hooks", addr, append([]string{"--inspect", "--inspect.addr", page}, args...)...)
	return page
}

// call sends a request to the endpoint and returns the status.
func (s *server) call(t testing.TB, method, path, body string, header ...string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url(path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Piko-Endpoint", "hooks")
	for n := 0; n < len(header); n += 2 {
		req.Header.Set(header[n], header[n+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode
}

// TestInspectorReplaysAWebhook is what a developer does: sees a webhook fail, mends the
// service, sends it again, and again with another body.
func TestInspectorReplaysAWebhook(t *testing.T) {
	service := startWebhookService(t)
	s := startServer(t)
	page := inspectedAgent(t, s, service.Listener.Addr().String())
	tab := startBrowser(t).open(t, "http://"+page+"/", 1360, 860)
	tab.wait(t, "the page says that there is nothing yet", `document.querySelector('#live').dataset.state === 'live' && !document.querySelector('#empty').hidden`)
	tab.screenshot(t, "inspector-empty")

	someOfEach(t, s)
	if status := s.call(t, "POST", "/webhook?attempt=1&token=abc", `{"event":"order.paid","id":4711,"customer":{"name":"Zoë","password":"hunter2"},"lines":[{"sku":"A-1","qty":2}]}`,
		"Content-Type", "application/json", "X-Api-Key", "key-of-the-hook"); status != http.StatusInternalServerError {
		t.Fatalf("status %d", status)
	}
	tab.wait(t, "the webhook is in the list", `document.querySelector('.row .path')?.textContent.includes('/webhook')`)
	tab.click(t, ".row")
	tab.wait(t, "its detail is shown", `document.querySelector('.title')?.innerText.includes('500')`)
	for _, want := range []string{"the orders table is gone", "Zoë", "[redacted]", "order.paid"} {
		if text := tab.text(t, "#detail-pane"); !strings.Contains(text, want) {
			t.Errorf("the detail does not show %q:\n%s", want, text)
		}
	}
	if text := tab.text(t, "body"); strings.Contains(text, "hunter2") || strings.Contains(text, "key-of-the-hook") || strings.Contains(text, "abc") || strings.Contains(text, "very-secret-cookie") {
		t.Errorf("a secret is shown:\n%s", text)
	}
	tab.screenshot(t, "inspector-failed")

	service.mended.Store(true)
	tab.key(t, "r")
	tab.wait(t, "the replay is shown with its answer", `document.querySelector('.title')?.innerText.includes('200') && document.querySelector('.facts .badge')?.textContent === 'replay'`)
	if got := *service.last.Load(); got != `POST /webhook?attempt=1&token=abc key-of-the-hook {"event":"order.paid","id":4711,"customer":{"name":"Zoë","password":"hunter2"},"lines":[{"sku":"A-1","qty":2}]}` {
		t.Errorf("the service was sent again %s", got)
	}
	tab.screenshot(t, "inspector-replayed")

	tab.key(t, "e")
	tab.wait(t, "the form is there", `document.activeElement?.name === 'method'`)
	tab.screenshot(t, "inspector-edit")
	tab.eval(t, `(() => { const b = document.querySelector('textarea[name=body]'); b.focus(); b.value = b.value.replace('4711', '4712') })()`, nil)
	tab.click(t, "form.edit button.primary")
	tab.wait(t, "the edited replay is shown", `document.querySelector('.facts .badge')?.textContent === 'edited replay' && document.querySelector('.title')?.innerText.includes('200')`)
	if got := *service.last.Load(); !strings.Contains(got, `"id":4712`) || !strings.Contains(got, "hunter2") || !strings.Contains(got, "key-of-the-hook") {
		t.Errorf("the service was sent the edited %s", got)
	}
	// The first answer, 500, is what the browser would log for a page that fetched it; ours fetches none.
	tab.clean(t, page)
}

// someOfEach has something of each kind pass.
func someOfEach(t testing.TB, s *server) {
	t.Helper()
	s.call(t, "GET", "/search?q=tunnel", "")
	s.call(t, "POST", "/login", "user=joe&password=hunter2", "Content-Type", "application/x-www-form-urlencoded", "Authorization", "Bearer abc")
	s.call(t, "GET", "/picture", "")
	s.call(t, "GET", "/events", "")
	_, port, _ := net.SplitHostPort(s.proxy)
	c, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://127.0.0.1:"+port+"/socket", http.Header{"X-Piko-Endpoint": {"hooks"}})
	if err != nil {
		t.Fatalf("open WebSocket: %v", err)
	}
	defer c.Close()
	for n := range 3 {
		c.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"hello":%d}`, n))
		if _, _, err := c.ReadMessage(); err != nil {
			t.Fatalf("read message: %v", err)
		}
	}
	c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "done"), time.Now().Add(5*time.Second))
	c.ReadMessage()
}

// TestInspectorByKeyboardAndOnAPhone filters, moves by keys, and looks at each kind of body.
func TestInspectorByKeyboardAndOnAPhone(t *testing.T) {
	service := startWebhookService(t)
	s := startServer(t)
	page := inspectedAgent(t, s, service.Listener.Addr().String())
	someOfEach(t, s)
	tab := startBrowser(t).open(t, "http://"+page+"/", 1360, 860)
	tab.wait(t, "five requests are listed", `document.querySelectorAll('.row').length === 5`)
	tab.key(t, "/")
	tab.wait(t, "the filter has the focus", `document.activeElement?.id === 'filter'`)
	tab.write(t, "websocket")
	tab.wait(t, "one is left", `document.querySelectorAll('.row:not([hidden])').length === 1 && document.querySelector('#count').textContent.startsWith('1 of 5')`)
	tab.key(t, "Enter")
	tab.wait(t, "the messages are shown", `document.querySelectorAll('.frames details').length === 8 || document.querySelectorAll('.frames details').length === 7`)
	tab.eval(t, `document.querySelector('.frames summary').click()`, nil)
	tab.wait(t, "a message is shown", `document.querySelector('.frames details pre')?.innerText.includes('"hello": 0')`)
	tab.screenshot(t, "inspector-websocket")
	tab.key(t, "/")
	tab.key(t, "Escape")
	tab.wait(t, "the filter is empty, and the list has the focus", `document.querySelectorAll('.row:not([hidden])').length === 5 && document.activeElement?.id === 'list'`)
	tab.key(t, "j")
	tab.wait(t, "the events are shown", `document.querySelector('.title')?.innerText.includes('/events') && document.querySelectorAll('.frames details').length === 3`)
	tab.key(t, "ArrowDown")
	tab.wait(t, "the picture is shown", `document.querySelector('.body img')?.naturalWidth === 96`)
	tab.screenshot(t, "inspector-picture")
	tab.key(t, "j")
	tab.wait(t, "the form is shown", `document.querySelector('#request .body table')?.innerText.includes('joe')`)
	tab.dark(t, true)
	tab.screenshot(t, "inspector-dark")
	tab.size(t, 390, 844)
	tab.key(t, "Escape")
	tab.wait(t, "the list alone is shown on a phone", `getComputedStyle(document.querySelector('#detail-pane')).display === 'none'`)
	tab.screenshot(t, "inspector-phone-list")
	tab.click(t, ".row")
	tab.wait(t, "the detail alone is shown on a phone", `getComputedStyle(document.querySelector('#list-pane')).display === 'none'`)
	tab.screenshot(t, "inspector-phone-detail")
	tab.click(t, "#back")
	tab.click(t, "#clear")
	tab.wait(t, "all is forgotten", `document.querySelectorAll('.row').length === 0`)
	tab.clean(t, page)
}

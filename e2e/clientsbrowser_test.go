//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// page is what a browser shows: it tries what browsers do, and reports what came of it.
const page = `<!doctype html><meta charset=utf-8><title>page</title><script src="script.js"></script>
<script>
const seen = {script: window.loaded === true, errors: []};
const attempt = (name, f) => f().then(v => { seen[name] = v }, e => { seen.errors.push(name + ': ' + e) });
const big = crypto.getRandomValues(new Uint8Array(65536)), many = 32;
const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);

// events: five of them, then the service ends the response, and the browser comes back with
// the number of the last one.
const events = () => new Promise((resolve, reject) => {
	const source = new EventSource('events'), got = [];
	source.onmessage = e => {
		got.push(e.lastEventId + ' ' + e.data);
		if (got.length === 8) { source.close(); resolve(got) }
	};
	setTimeout(() => reject('only ' + got), 30000);
});
const socket = () => new Promise((resolve, reject) => {
	const ws = new WebSocket(location.href.replace(/^http/, 'ws') + 'socket'), got = [];
	ws.binaryType = 'arraybuffer';
	ws.onopen = () => { ws.send('text'); ws.send(big); };
	ws.onmessage = e => {
		got.push(typeof e.data === 'string' ? e.data : same(new Uint8Array(e.data), big));
		if (got.length === 2) ws.close(4321, 'done');
	};
	ws.onclose = e => resolve([...got, e.code, e.reason, e.wasClean]);
	ws.onerror = () => reject('error after ' + got);
});
// stream: the first part of a response is there while the service waits for a word to go on.
const stream = async () => {
	const r = (await fetch('stream')).body.getReader(), text = b => new TextDecoder().decode(b);
	const first = text((await r.read()).value);
	await fetch('go-on', {method: 'POST'});
	const second = text((await r.read()).value);
	return [first, second, (await r.read()).done];
};
const abort = async () => {
	const c = new AbortController(), response = await fetch('endless', {signal: c.signal});
	await response.body.getReader().read();
	c.abort();
	for (let i = 0; i < 100; i++) {
		if (await (await fetch('aborted')).text() === 'yes') return true;
		await new Promise(r => setTimeout(r, 100));
	}
	return false;
};
const echo = async () => same(new Uint8Array(await (await fetch('echo', {method: 'POST', body: big})).arrayBuffer()), big);
const parallel = async () => (await Promise.all([...Array(many)].map((_, i) => fetch('number?' + i).then(r => r.text())))).join();
const protocol = async () => performance.getEntriesByType('navigation')[0].nextHopProtocol;

onload = async () => {
	await Promise.all(Object.entries({events, socket, stream, abort, echo, parallel, protocol}).map(([n, f]) => attempt(n, f)));
	await fetch('report', {method: 'POST', body: JSON.stringify(seen)});
};
</script>`

// pageReport is what the page saw.
type pageReport struct {
	Script   bool
	Events   []string
	Socket   []any
	Stream   []any
	Abort    bool
	Echo     bool
	Parallel string
	Protocol string
	Errors   []string
}

// TestBrowser has Chromium show a page, which reports what it saw.
func TestBrowser(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		s := startPage(t)
		w.agent(t, "page", s.addr)
		_, port, _ := net.SplitHostPort(w.entry.proxy)
		s.browse(t, "http://page.localhost:"+port+"/", "http/1.1")
	})
}

// TestBrowserTLS is the same with TLS, over which browsers speak HTTP/2.
func TestBrowserTLS(t *testing.T) {
	cert := newCertificate(t)
	overEach(t, func(t *testing.T, w *way) {
		s := startPage(t)
		w.agent(t, "page", s.addr)
		_, port, _ := net.SplitHostPort(w.entry.proxy)
		s.browse(t, "https://page.localhost:"+port+"/", "h2", "--ignore-certificate-errors")
	}, cert.flags()...)
}

// browse starts a browser with a page of this service, and wants it to have seen what it
// sees without a tunnel.
func (s *pageService) browse(t *testing.T, url, protocol string, args ...string) {
	t.Helper()
	start(t, "chromium", nil, tool(t, "chromium"), append(append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir=" + t.TempDir(),
	}, args...), "--remote-debugging-port=0", url)...)
	var body []byte
	select {
	case body = <-s.reports:
	case <-time.After(90 * time.Second):
		t.Fatal("the browser has reported nothing within 90 s")
	}
	var got pageReport
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("read report: %v: %s", err, body)
	}
	wantJSON(t, "events", got.Events, []string{"0 event", "1 event", "2 event", "3 event", "4 event", "5 event", "6 event", "7 event"})
	wantJSON(t, "socket", got.Socket, []any{"text", true, 4321, "", true}) // gorilla sends the code back, but no reason
	wantJSON(t, "stream", got.Stream, []any{"first", "second", true})
	var numbers strings.Builder
	numbers.WriteString("0")
	for i := range 31 {
		numbers.WriteString(fmt.Sprint(",", i+1))
	}
	if !got.Script || !got.Abort || !got.Echo || got.Parallel != numbers.String() || got.Protocol != protocol || len(got.Errors) > 0 {
		t.Errorf("the browser saw %+v", got)
	}
}

func wantJSON(t *testing.T, what string, got, want any) {
	t.Helper()
	g, _ := json.Marshal(got)
	if w, _ := json.Marshal(want); string(g) != string(w) {
		t.Errorf("%s: the browser saw %s, want %s", what, g, w)
	}
}

// pageService serves the page and what it asks for.
type pageService struct {
	addr    string
	reports chan []byte
	goOn    chan struct{}
	aborted chan struct{} // closed when the browser has left a response
}

func startPage(t testing.TB) *pageService {
	s := &pageService{reports: make(chan []byte, 1), goOn: make(chan struct{}, 1), aborted: make(chan struct{})}
	mux := http.NewServeMux()
	answer := func(path, kind, text string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			io.WriteString(w, text)
		})
	}
	answer("/{$}", "text/html", page)
	answer("/script.js", "text/javascript", "window.loaded = true")
	mux.HandleFunc("/events", s.events)
	mux.HandleFunc("/socket", s.socket)
	mux.HandleFunc("/stream", s.stream)
	mux.HandleFunc("/go-on", func(w http.ResponseWriter, r *http.Request) { s.goOn <- struct{}{} })
	mux.HandleFunc("/endless", s.endless)
	mux.HandleFunc("/aborted", s.wasAborted)
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.Copy(w, r.Body)
	})
	mux.HandleFunc("/number", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.RawQuery) })
	mux.HandleFunc("/report", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.reports <- body
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	s.addr = srv.Listener.Addr().String()
	return s
}

// events sends five events from the one that the browser has not seen yet.
func (s *pageService) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	first := 0
	if last := r.Header.Get("Last-Event-Id"); last != "" {
		fmt.Sscan(last, &first)
		first++
	}
	fmt.Fprint(w, "retry: 100\n\n")
	for i := range 5 {
		fmt.Fprintf(w, "id: %d\ndata: event\n\n", first+i)
		http.NewResponseController(w).Flush()
		<-time.After(50 * time.Millisecond)
	}
}

func (s *pageService) socket(w http.ResponseWriter, r *http.Request) {
	c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil) // which wants Origin and Host to agree
	if err != nil {
		return
	}
	defer c.Close()
	for {
		kind, message, err := c.ReadMessage() // the close handler sends the close frame back
		if err != nil {
			return
		}
		c.WriteMessage(kind, message)
	}
}

func (s *pageService) stream(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, "first")
	http.NewResponseController(w).Flush()
	select {
	case <-s.goOn:
		io.WriteString(w, "second")
	case <-r.Context().Done():
	}
}

func (s *pageService) endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		io.WriteString(w, "more")
		http.NewResponseController(w).Flush()
		<-time.After(10 * time.Millisecond)
	}
	close(s.aborted)
}

func (s *pageService) wasAborted(w http.ResponseWriter, r *http.Request) {
	select {
	case <-s.aborted:
		io.WriteString(w, "yes")
	default:
		io.WriteString(w, "no")
	}
}

package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"piko/fault"
	"piko/relay"
	"piko/router"
)

// laneWorld is an owner that is asked over one stream.
type laneWorld struct {
	t      *testing.T
	server *relay.LaneServer
	table  *router.Table
	reg    *prometheus.Registry
	last   *router.Local // that was added
	conn   net.Conn
	r      *bufio.Reader

	mu      sync.Mutex
	parsed  int // requests that the handler had
	account []string
}

// newLaneWorld starts an owner that takes lanes, or has net/http for all.
func newLaneWorld(t *testing.T, lanes bool) *laneWorld {
	w := &laneWorld{t: t, table: router.NewTable(), reg: prometheus.NewRegistry()}
	p, err := NewPeer(PeerOptions{Lookup: w.table.Lookup, Registerer: w.reg})
	if err != nil {
		t.Fatal(err)
	}
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.parsed++
		w.mu.Unlock()
		p.ServeHTTP(rw, r)
	})
	newLane := p.NewLane
	if !lanes {
		newLane = func() *relay.Lane { l := p.NewLane(); l.Keeper = refusesAll{l.Keeper}; return l }
	}
	var open func(context.Context) (net.Conn, error)
	w.server, open = serveLanes(t, handler, newLane)
	if w.conn, err = open(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.r = bufio.NewReader(w.conn)
	return w
}

// refusesAll is a keeper whose lane carries nothing.
type refusesAll struct{ relay.LaneKeeper }

func (refusesAll) Begin(*relay.Lane) bool { return false }

// serve adds an upstream whose service does what serve does with each connection.
func (w *laneWorld) serve(endpoint string, serve func(net.Conn, *bufio.Reader)) {
	w.add(endpoint, func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			defer b.Close()
			serve(b, bufio.NewReader(b))
		}()
		return a, nil
	})
}

func (w *laneWorld) add(endpoint string, dial func(context.Context) (net.Conn, error)) {
	pool := &relay.Pool{Dial: dial}
	w.last = router.NewLocal(&noted{upstream{pool}, w})
	w.t.Cleanup(pool.Close)
	w.t.Cleanup(w.table.Add(endpoint, w.last))
}

// noted is an upstream that says what it was told of its failures.
type noted struct {
	upstream
	w *laneWorld
}

func (u *noted) NoteFailure(code fault.Code, detail string) {
	u.w.mu.Lock()
	defer u.w.mu.Unlock()
	u.w.account = append(u.w.account, string(code)+": "+detail)
}

// ask sends bytes and returns the answer's status and header and body.
func (w *laneWorld) ask(request string) string {
	w.t.Helper()
	io.WriteString(w.conn, request)
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(w.r, &http.Request{Method: method})
	if err != nil {
		return "no response"
	}
	body, err := io.ReadAll(res.Body)
	var fields []string
	for name, values := range res.Header {
		if name != "Date" {
			fields = append(fields, fmt.Sprint(name, values))
		}
	}
	slices.Sort(fields)
	return fmt.Sprintf("%d %v %q %v", res.StatusCode, fields, body, err != nil)
}

func (w *laneWorld) inHandler() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.parsed
}

const hopTo = "Host: a.b\r\nX-Piko-Route: e\r\nX-Piko-Attempts: 2\r\n"

// echoHead answers each request with what it got of its head.
func echoHead(c net.Conn, r *bufio.Reader) {
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		var piko []string
		for name, values := range req.Header {
			if strings.HasPrefix(name, "X-") {
				piko = append(piko, fmt.Sprint(name, values))
			}
		}
		slices.Sort(piko)
		text := fmt.Sprintf("%s%v%d", req.RequestURI, piko, len(body))
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Piko-Foo: 1\r\nx-piko-error: upstream-timeout\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	}
}

// TestWhatALaneTakes: plain hops take the lane, and only those.
func TestWhatALaneTakes(t *testing.T) {
	t.Parallel()
	w := newLaneWorld(t, true)
	w.serve("e", echoHead)
	w.serve("t/e", echoHead)
	for _, tt := range []struct {
		request, want string
		parsed        bool
	}{
		{"GET /1 HTTP/1.1\r\n" + hopTo + "\r\n", "/1[]0", false},
		{"GET /2 HTTP/1.1\r\n" + hopTo + "X-Piko-Endpoint: E\r\nX-A: 1\r\nx-b: 2\r\n\r\n", "/2[X-A[1] X-B[2] X-Piko-Endpoint[E]]0", false},
		{"GET /3 HTTP/1.1\r\nHost: a\r\nx-piko-ROUTE: T/E\r\n\r\n", "/3[]0", false},
		{"POST /4 HTTP/1.1\r\n" + hopTo + "Content-Length: 3\r\n\r\nabc", "/4[]3", false},
		{"PUT /5 HTTP/1.1\r\n" + hopTo + "Content-Length: 65536\r\n\r\n" + strings.Repeat("x", 64<<10), "/5[]65536", false},
		{"PUT /6 HTTP/1.1\r\n" + hopTo + "Content-Length: 65537\r\n\r\n" + strings.Repeat("x", 64<<10+1), "/6[]65537", true},
		{"PUT /7 HTTP/1.1\r\n" + hopTo + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "/7[]3", true},
		{"GET /8 HTTP/1.1\r\n" + hopTo + "X-Piko-New: 1\r\n\r\n", "/8[]0", true},
		{"GET /9 HTTP/1.1\r\n" + hopTo + "X-Piko-Attempts: 2\r\n\r\n", "/9[]0", true},
		{"GET /10 HTTP/1.1\r\n" + hopTo + "X-Piko-Route: e\r\n\r\n", "421", true},
		{"GET /11 HTTP/1.1\r\nHost: a\r\n\r\n", "421", true},
		{"GET /12 HTTP/1.1\r\nHost: a\r\nX-Piko-Route: f\r\n\r\n", "421", true},
		{"GET /13 HTTP/1.1\r\nHost: a\r\nX-Piko-Route: ../e\r\n\r\n", "421", true},
		{"GET /_piko/v1/x HTTP/1.1\r\n" + hopTo + "\r\n", "404", true},
		{"GET /%5fpik%6F/v1/x HTTP/1.1\r\n" + hopTo + "\r\n", "404", true},
		{"GET /_pikox HTTP/1.1\r\n" + hopTo + "\r\n", "/_pikox[]0", true},
		{"GET /_pik?_piko/v1 HTTP/1.1\r\n" + hopTo + "\r\n", "/_pik?_piko/v1[]0", false},
		{"GET /14 HTTP/1.1\r\n" + hopTo + "TE: trailers\r\n\r\n", "/14[]0", false},
	} {
		before := w.inHandler()
		got := w.ask(tt.request)
		if !strings.Contains(got, tt.want) || strings.Contains(got, "X-Piko-Foo") || strings.Contains(got, "X-Piko-Error[upstream") {
			t.Errorf("%.40q: got %s, want %s", tt.request, got, tt.want)
		}
		// The handler may have what follows a request of its own.
		if parsed := w.inHandler() > before; parsed != tt.parsed && tt.parsed {
			t.Errorf("%.40q took the lane", tt.request)
		}
	}
}

// TestLanesDoWhatTheHandlerDoes: whatever becomes of an exchange, the entry node is told the same, and counters and accounts
// say the same.
func TestLanesDoWhatTheHandlerDoes(t *testing.T) {
	t.Parallel()
	refuse := func(err error) func(*laneWorld) {
		return func(w *laneWorld) { w.add("e", func(context.Context) (net.Conn, error) { return nil, err }) }
	}
	answer := func(answer string, ends bool) func(*laneWorld) {
		return func(w *laneWorld) {
			w.serve("e", func(c net.Conn, r *bufio.Reader) {
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, req.Body)
					if io.WriteString(c, answer); ends {
						return
					}
				}
			})
		}
	}
	serve := func(text string) func(*laneWorld) { return answer(text, false) }
	breaks := func(text string) func(*laneWorld) { return answer(text, true) }
	for name, upstreams := range map[string][]func(*laneWorld){
		"an answer":             {serve("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")},
		"hints":                 {serve("HTTP/1.1 103 Early\r\nX-Piko-Error: upstream-timeout\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")},
		"the service's 503":     {serve("HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno")},
		"a 503 without reason":  {serve("HTTP/1.1 503\r\nContent-Length: 2\r\n\r\nno")},
		"the agent's 502":       {serve("HTTP/1.1 502 Bad Gateway\r\nX-Piko-Error: upstream-unreachable\r\nContent-Length: 2\r\n\r\nno")},
		"the agent's 504":       {serve("HTTP/1.1 504 Gateway Timeout\r\nx-piko-error: upstream-timeout\r\nContent-Length: 2\r\n\r\nno")},
		"a claim of the agent":  {serve("HTTP/1.1 502 Bad Gateway\r\nX-Piko-Error: overloaded\r\nContent-Length: 2\r\n\r\nno")},
		"two claims":            {serve("HTTP/1.1 502 Bad Gateway\r\nX-Piko-Error: upstream-unreachable\r\nX-Piko-Error: x\r\nContent-Length: 2\r\n\r\nno")},
		"a claim to be a node":  {serve("HTTP/1.1 421 Misdirected\r\nX-Piko-Miss: no-upstream\r\nX-Piko-Failed: no-response\r\nContent-Length: 2\r\n\r\nno")},
		"the same, odd":         {serve("HTTP/1.1 502 x\nX-PIKO-FAILED: no-response\nX-Piko-Error: upstream-unreachable\nContent-Length: 2\n\nno")},
		"nothing":               {breaks("")},
		"half a head":           {breaks("HTTP/1.1 200 OK\r\nConte")},
		"half a body":           {breaks("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")},
		"garbage":               {breaks("SSH-2.0-x\r\n\r\n")},
		"no body":               {serve("HTTP/1.1 204 No Content\r\n\r\n")},
		"until the end":         {breaks("HTTP/1.1 200 OK\r\nX-Piko-A: b\r\n\r\nall")},
		"an upgrade":            {breaks("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")},
		"refused":               {refuse(errDial)},
		"refused, then served":  {refuse(errDial), serve("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")},
		"refused thrice":        {refuse(errDial), refuse(errDial), refuse(errDial)},
		"refused, more left":    {refuse(errDial), refuse(errDial), refuse(errDial), refuse(errDial)},
		"draining":              {refuse(fault.New(fault.Draining, nil))},
		"draining, then served": {refuse(fault.New(fault.Draining, nil)), serve("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")},
		"overloaded":            {refuse(fault.New(fault.Overloaded, nil))},
		"both":                  {refuse(fault.New(fault.Overloaded, nil)), refuse(fault.New(fault.Draining, nil))},
		"a closed pool":         {refuse(relay.ErrPoolClosed)},
		"nobody":                nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, request := range []string{"GET / HTTP/1.1\r\n" + hopTo + "\r\n", "POST / HTTP/1.1\r\n" + hopTo + "Content-Length: 3\r\n\r\nabc"} {
				var saw [2]string
				for i := range saw {
					w := newLaneWorld(t, i == 0)
					for n, add := range upstreams {
						if add(w); n > 0 { // the first one is asked first
							w.last.SetDraining(true)
						}
					}
					saw[i] = w.ask(request) + "\n"
					w.conn.Close()
					saw[i] += w.end()
					if len(upstreams) > 0 && (w.inHandler() == 0) != (i == 0) {
						t.Errorf("%d requests were the handler's", w.inHandler())
					}
				}
				if name == "a closed pool" && strings.Contains(saw[0], "X-Piko-Miss[draining]") {
					return // a tunnel makes the same of it
				}
				if saw[0] != saw[1] {
					t.Errorf("by the lane:\n%s\nby the handler:\n%s", saw[0], saw[1])
				}
			}
		})
	}
}

var counted = regexp.MustCompile(`piko_peer_requests_total\{result="\w+"\} [1-9]`)

// end waits until the one request is over, and returns what was counted and accounted for.
func (w *laneWorld) end() string {
	var got string
	eventually(w.t, func() error {
		if got = text(w.t, w.reg); !strings.Contains(got, "piko_peer_requests_in_flight 0") || !counted.MatchString(got) {
			return errors.New("the request is in flight")
		}
		return nil
	})
	got = regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(got, "")
	w.mu.Lock()
	defer w.mu.Unlock()
	return got + strings.Join(w.account, "\n")
}

// TestLaneOfAnEntryNodeThatLeaves: it ends the exchange, and the service's connection with it.
func TestLaneOfAnEntryNodeThatLeaves(t *testing.T) {
	t.Parallel()
	for _, begun := range []bool{false, true} {
		w := newLaneWorld(t, true)
		asked, over := make(chan struct{}), make(chan error, 1)
		w.serve("e", func(c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			if begun {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun")
			}
			close(asked)
			_, err := r.ReadByte()
			over <- err
		})
		io.WriteString(w.conn, "GET / HTTP/1.1\r\n"+hopTo+"\r\n")
		<-asked
		if begun {
			w.r.ReadString('n')
		}
		w.conn.(interface{ Reset() }).Reset()
		if err := <-over; err == nil {
			t.Error("the service's connection goes on")
		}
		want := map[bool]string{false: `piko_peer_requests_total{result="aborted"} 1`, true: `piko_peer_requests_total{result="served"} 1`}[begun]
		if got := w.end(); !strings.Contains(got, want) || strings.Contains(got, "upstream-") {
			t.Errorf("begun %v: got %s", begun, got)
		}
		eventually(t, func() error {
			if n := w.server.Lanes(); n != 0 {
				return fmt.Errorf("%d lanes are left", n)
			}
			return nil
		})
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"piko/agent"
	"piko/client"
)

// diffCase is one exchange.
type diffCase struct {
	script   diffScript
	method   string
	target   string
	header   http.Header
	body     int
	chunked  bool
	trailers bool
	abort    string // "", body: of the request half-way, read: while the response is read
}

func randomDiffCase(r *rand.Rand) *diffCase {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	chance := func(percent int) bool { return r.IntN(100) < percent }
	size := func() int {
		return []int{0, 1, 13, 100, 4 << 10, 5000, 32 << 10, 33000, 100_000}[r.IntN(9)]
	}
	c := &diffCase{
		method: pick("GET", "GET", "GET", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND"),
		target: pick("/", "/a/b?q=1&q=2", "/%2e%2F%41?x=%zz", "/a;b=c//d?", "/~x:@!$&'()*+,=?/?"),
		header: http.Header{"Script": nil, "X-Piko-Endpoint": {"diff"}, "User-Agent": {"x"}, "X-Two": {"1", "2"}},
	}
	if chance(10) {
		c.header["Te"] = []string{"trailers"}
	}
	if chance(10) {
		c.header["X-Long"] = []string{strings.Repeat("y", 6000)}
	}
	if chance(20) {
		c.header["Content-Type"] = []string{pick("text/plain", "application/json", "application/octet-stream")}
	}
	if slices.Contains([]string{"POST", "PUT", "PATCH", "PROPFIND"}, c.method) {
		c.body, c.chunked = size(), chance(40)
		c.trailers = c.chunked && c.body > 0 && chance(40)
	}
	s := &c.script
	s.Read = c.body < 4<<10 || chance(80)
	s.Status = []int{200, 200, 200, 201, 204, 304, 404, 500, 503}[r.IntN(9)]
	s.Framing = pick("length", "length", "chunks", "chunks", "close")
	for range 1 + r.IntN(4) {
		s.Pieces = append(s.Pieces, size())
	}
	if s.Framing == "chunks" && chance(50) {
		s.Trailers = 1 + r.IntN(3)
	}
	s.Close, s.Lowercase = chance(10), chance(20)
	if chance(10) {
		s.Early = 1 + r.IntN(2)
	}
	if chance(10) {
		s.Break, s.Reset, s.Read = pick("head", "body"), chance(50), true
		s.Pieces = []int{size(), 1 + size()}
		if s.Reset {
			s.Pieces[0] = 13 // a reset destroys what is still on its way
		}
	}
	if chance(5) {
		c.abort = pick("body", "read")
	}
	script, _ := json.Marshal(s)
	c.header["Script"] = []string{string(script)}
	return c
}

// breaks reports whether the service breaks the response's body so that the client can tell.
func (c *diffCase) breaks() bool {
	s := &c.script
	if c.method == "HEAD" || s.Status == 204 || s.Status == 304 {
		return false
	}
	return s.Break == "body" && (s.Framing != "close" || s.Reset)
}

var errDiffAbort = errors.New("the client gives up")

// failingReader gives a part of a body.
type failingReader struct{ io.Reader }

func (r failingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		err = errDiffAbort
	}
	return n, err
}

// request builds what a client sends.
func (c *diffCase) request(ctx context.Context, url string) *http.Request {
	var body io.Reader
	if c.body > 0 {
		body = bytes.NewReader(diffFill(c.body))
	}
	if c.abort == "body" && c.body > 1 {
		body = failingReader{bytes.NewReader(diffFill(c.body / 2))}
	} else if c.chunked && c.body > 0 {
		body = struct{ io.Reader }{body}
	}
	req, err := http.NewRequestWithContext(ctx, c.method, url, body)
	if err != nil {
		panic(err)
	}
	req.URL.Opaque = c.target
	req.Host = "diff.example.com"
	req.Header = c.header.Clone()
	req.ContentLength = int64(c.body)
	if c.chunked && c.body > 0 {
		req.ContentLength = -1
	}
	if c.trailers {
		req.Trailer = http.Header{"X-Sent": {"1"}, "X-Other": {"2"}}
	}
	return req
}

// do makes the exchange and says what came of it. What may differ from run to run is left out.
func (c *diffCase) do(t *testing.T, transport http.RoundTripper, url string) string {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	early := 0
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error { early++; return nil },
	})
	res, err := transport.RoundTrip(c.request(ctx, url))
	if ctx.Err() != nil {
		return "TIMEOUT"
	}
	if c.abort == "body" && c.body > 1 {
		if err == nil {
			res.Body.Close()
		}
		return "aborted" // an answer may have come before
	}
	if err != nil || res.Header.Get("X-Piko-Error") != "" && res.StatusCode == 502 {
		if err == nil {
			res.Body.Close()
		}
		return "no response"
	}
	defer res.Body.Close()
	var w strings.Builder
	fmt.Fprintf(&w, "%d early %d", res.StatusCode, early)
	for _, name := range []string{"X-Saw", "Set-Cookie", "Keep-Alive", "X-Piko-Error"} {
		if name == "X-Saw" || name == "Set-Cookie" {
			fmt.Fprintf(&w, " %s", res.Header[name])
		}
	}
	if c.script.Framing == "length" && res.StatusCode != 304 { // RFC 9110 lets proxies leave it out there
		fmt.Fprintf(&w, " length %s", res.Header["Content-Length"])
	}
	if c.abort == "read" {
		io.CopyN(io.Discard, res.Body, 10)
		return w.String()
	}
	body, err := io.ReadAll(res.Body)
	if ctx.Err() != nil {
		return "TIMEOUT in the body"
	}
	if want := diffFill(c.script.body()); !bytes.HasPrefix(want, body) {
		fmt.Fprintf(&w, " OTHER BYTES")
	}
	if err != nil {
		return w.String() + " broken"
	}
	return fmt.Sprintf("%s %d bytes trailers %v", w.String(), len(body), res.Trailer)
}

// startDiffAgent runs an agent whose requests all take the same way.
func startDiffAgent(t *testing.T, n *testNode, service string, wrap func(string, string, http.Handler) http.Handler) {
	a, err := agent.New(agent.Config{GracePeriod: 5 * time.Second, Wrap: wrap, Listeners: []agent.Listener{
		{Endpoint: "diff", Addr: service, UpstreamProtocol: agent.UpstreamHTTP1},
	}}, &client.Client{URL: "http://" + n.UpstreamAddr().String()}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	eventually(t, func() error {
		if n.table.Lookup("diff") == nil {
			return errors.New("the agent is not connected")
		}
		return nil
	})
}

// diffWay is a way to the service, which is asked for every so many exchanges.
type diffWay struct {
	name, url string
	every     int
	entry     *testNode // where a hop begins; nil without one
}

// broken is how often the connection to the owner was lost, as happens where a machine is so busy that a node gives no sign
// of life for two seconds.
func (w *diffWay) broken() int {
	if w.entry == nil {
		return 0
	}
	return strings.Count(w.entry.log.String(), "node unreachable")
}

// ask makes the exchange, and again if it may have suffered from what is no fault of anybody's.
func (w *diffWay) ask(t *testing.T, c *diffCase, transport http.RoundTripper, want string) string {
	for range 5 {
		before := w.broken()
		got := c.do(t, transport, w.url)
		if got == want || w.entry == nil || w.broken() == before {
			return got
		}
		reach(t, newClient(t), w.entry, "diff")
	}
	return "connection lost"
}

// compare makes exchange number i every way, and reports whether all had the same result, with what there was to see.
func (c *diffCase) compare(t *testing.T, transport http.RoundTripper, ways []diffWay, i int) (same bool, report string) {
	want := c.do(t, transport, ways[0].url)
	same, report = true, "\n"+ways[0].name+": "+want
	for _, way := range ways[1:] {
		if i%way.every == 0 {
			got := way.ask(t, c, transport, want)
			same = same && got == want
			report += "\n" + way.name + ": " + got
		}
	}
	if c.breaks() && c.abort == "" && !strings.Contains(want, "broken") || strings.Contains(want, "TIMEOUT") {
		return false, report
	}
	return same, report
}

// TestDifferential: random exchanges have the same result through a node and an agent that follow the bounds of messages,
// through such that parse them with net/http's server, with and without a hop, and without piko.
// PIKO_DIFFERENTIAL_CASES and _SEED are for longer runs.
func TestDifferential(t *testing.T) {
	cases, seed := 1600, rand.Uint64()
	if testing.Short() || raceDetector() {
		cases = 400
	}
	if v, err := strconv.Atoi(os.Getenv("PIKO_DIFFERENTIAL_CASES")); err == nil {
		cases = v
	}
	if v, err := strconv.ParseUint(os.Getenv("PIKO_DIFFERENTIAL_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("seed %d, %d exchanges", seed, cases)
	ways := diffWays(t)
	const workers = 16
	var running sync.WaitGroup
	for i := range workers {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		running.Go(func() {
			transport := &http.Transport{DisableCompression: true, DialContext: (&net.Dialer{}).DialContext}
			defer transport.CloseIdleConnections()
			for j := range cases / workers {
				c := randomDiffCase(r)
				if same, report := c.compare(t, transport, ways, j); !same {
					t.Errorf("worker %d, exchange %d: %+v%s", i, j, *c, report)
					return
				}
			}
		})
	}
	running.Wait()
}

// diffWays starts two clusters of an owner and an entry node: of the one owner and its agent all requests take the lanes,
// those of the other are net/http's.
func diffWays(t *testing.T) []diffWay {
	service := startDiffService(t)
	url := func(n *testNode) string { return "http://" + n.ProxyAddr().String() }
	fast := startMember(t, "fast", diffNode)
	slow := startMember(t, "slow", func(cfg *serverConfig) {
		diffNode(cfg)
		cfg.ParseHops = true
	})
	startDiffAgent(t, fast, service, nil)
	startDiffAgent(t, slow, service, func(_, _ string, next http.Handler) http.Handler {
		return http.HandlerFunc(next.ServeHTTP)
	})
	ways := []diffWay{{"direct", "http://" + service, 1, nil}, {"lanes", url(fast), 1, nil}, {"net/http", url(slow), 1, nil}}
	for _, owner := range []*testNode{fast, slow} {
		entry := startMember(t, "to-"+owner.id, diffNode, owner)
		reach(t, newClient(t), entry, "diff")
		ways = append(ways, diffWay{"hop to " + owner.id, url(entry), 4, entry})
	}
	return ways
}

// raceDetector reports whether the test runs under it, which makes all a good deal slower.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func diffNode(cfg *serverConfig) { cfg.Proxy.AccessLog.Disable = true }

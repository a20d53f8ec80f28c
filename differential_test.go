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

// TestDifferential: random exchanges have the same result through an agent that follows the bounds of messages, through one
// that parses them with net/http's server, and without piko. PIKO_DIFFERENTIAL_CASES and _SEED are for longer runs.
func TestDifferential(t *testing.T) {
	cases, seed := 2000, rand.Uint64()
	if testing.Short() || raceDetector() {
		cases = 500
	}
	if v, err := strconv.Atoi(os.Getenv("PIKO_DIFFERENTIAL_CASES")); err == nil {
		cases = v
	}
	if v, err := strconv.ParseUint(os.Getenv("PIKO_DIFFERENTIAL_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("seed %d, %d exchanges", seed, cases)
	service := startDiffService(t)
	fast, slow := startNode(t, diffNode), startNode(t, diffNode)
	startDiffAgent(t, fast, service, nil)
	startDiffAgent(t, slow, service, func(_, _ string, next http.Handler) http.Handler {
		return http.HandlerFunc(next.ServeHTTP)
	})
	ways := []struct{ name, url string }{
		{"lanes", "http://" + fast.ProxyAddr().String()},
		{"net/http", "http://" + slow.ProxyAddr().String()},
		{"direct", "http://" + service},
	}
	const workers = 16
	var running sync.WaitGroup
	for i := range workers {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		running.Go(func() {
			transport := &http.Transport{DisableCompression: true, DialContext: (&net.Dialer{}).DialContext}
			defer transport.CloseIdleConnections()
			for j := range cases / workers {
				c := randomDiffCase(r)
				var got []string
				for _, way := range ways {
					got = append(got, c.do(t, transport, way.url))
				}
				if got[0] != got[1] || got[0] != got[2] || strings.Contains(got[0], "TIMEOUT") || c.breaks() && c.abort == "" && !strings.Contains(got[0], "broken") {
					t.Errorf("worker %d, exchange %d: %+v\n%s: %s\n%s: %s\n%s: %s", i, j, *c,
						ways[0].name, got[0], ways[1].name, got[1], ways[2].name, got[2])
					return
				}
			}
		})
	}
	running.Wait()
}

// raceDetector reports whether the test runs under it, which makes all a good deal slower.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func diffNode(cfg *serverConfig) { cfg.Proxy.AccessLog.Disable = true }

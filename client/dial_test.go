package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
	"piko/tunnel"
)

// tcpNode is what a node is to Dial: it hands connections to serve.
type tcpNode struct {
	url string

	// Guarded by mu.
	mu       sync.Mutex
	requests []*http.Request
	refuse   []http.HandlerFunc // the next attempts
}

func startTCPNode(t *testing.T, serve func(*tunnel.Conn), refuse ...http.HandlerFunc) *tcpNode {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &tcpNode{url: "http://" + ln.Addr().String(), refuse: refuse}
	mux := http.NewServeMux()
	mux.HandleFunc(tunnel.TCPPath+"{endpoint}", func(w http.ResponseWriter, r *http.Request) {
		if h := n.next(r); h != nil {
			h(w, r)
			return
		}
		conn, err := tunnel.AcceptTCP(w, r)
		if err != nil {
			t.Error(err)
			return
		}
		serve(conn)
		conn.Close()
	})
	srv := &http.Server{Handler: mux}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() {
		srv.Close()
		wg.Wait()
	})
	return n
}

// next notes the request and says how to refuse it.
func (n *tcpNode) next(r *http.Request) (h http.HandlerFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests = append(n.requests, r)
	if len(n.refuse) > 0 {
		h, n.refuse = n.refuse[0], n.refuse[1:]
	}
	return h
}

// echoTCP sends back what comes, and ends its side when the other has ended.
func echoTCP(c *tunnel.Conn) {
	io.Copy(c, c)
	c.CloseWrite()
}

func dialCtx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDialRetriesAndHalfCloses(t *testing.T) {
	n := startTCPNode(t, echoTCP, refusal(fault.NoUpstream), refusal(fault.Draining), refusal(fault.UpstreamTimeout),
		page(404, "no such page"), page(502, "<html><title>502 Bad Gateway</title></html>"))
	tokens := 0
	m := &Metrics{}
	c := &Client{URL: n.url, TenantID: "tenant", Metrics: m, Token: func(context.Context) (string, error) {
		tokens++
		return "token", nil
	}}
	conn, err := c.Dial(dialCtx(t), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello")
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	conn.Close()
	if tokens != 6 {
		t.Errorf("the token was asked for %d times, want one for each of 6 attempts", tokens)
	}
	for _, r := range n.requests {
		if r.Header.Get("Authorization") != "Bearer token" || r.Header.Get(tunnel.HeaderTenantID) != "tenant" {
			t.Errorf("an attempt had the headers %v", r.Header)
		}
	}
	got := []int64{m.Dials.Load(), m.DialFailures.Load(), m.Dialled.Load(), m.Open.Load(), m.BytesIn.Load(), m.BytesOut.Load()}
	if want := []int64{6, 5, 1, 0, 5, 5}; !slices.Equal(got, want) {
		t.Errorf("metrics %v, want %v", got, want)
	}
}

func TestDialResetIsNoEnd(t *testing.T) {
	n := startTCPNode(t, func(c *tunnel.Conn) {
		io.ReadFull(c, make([]byte, 5))
		c.Reset()
	})
	conn, err := (&Client{URL: n.url}).Dial(dialCtx(t), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello")
	if got, err := io.ReadAll(conn); err == nil {
		t.Errorf("a connection that was reset reads %q and an end in order", got)
	}
}

func TestDialHonoursDeadlines(t *testing.T) {
	n := startTCPNode(t, echoTCP)
	conn, err := (&Client{URL: n.url, Metrics: &Metrics{}}).Dial(dialCtx(t), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("read after the deadline: %v", err)
	}
	conn.SetReadDeadline(time.Time{})
	io.WriteString(conn, "x")
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Errorf("read without a deadline any more: %v", err)
	}
}

func TestWhatDialGivesUpOn(t *testing.T) {
	for _, c := range []struct {
		name      string
		refuse    http.HandlerFunc
		mayChange bool
		final     bool
		code      fault.Code
	}{
		{"400 of ours", refusal(fault.InvalidEndpoint), false, true, fault.InvalidEndpoint},
		{"401 of ours", refusal(fault.ExpiredToken), false, true, fault.ExpiredToken},
		{"401 of ours, the token may change", refusal(fault.ExpiredToken), true, false, fault.ExpiredToken},
		{"401 of a load balancer", page(401, "log in"), false, false, ""},
		{"403 of ours", refusal(fault.Forbidden), false, true, fault.Forbidden},
		{"404 of ours", refusal(fault.ReservedPath), false, true, fault.ReservedPath},
		{"404 of a load balancer", page(404, "no such page"), false, false, ""},
		{"502 of ours", refusal(fault.NoUpstream), false, false, fault.NoUpstream},
		{"503 of ours", refusal(fault.Overloaded), false, false, fault.Overloaded},
		{"504 of ours", refusal(fault.UpstreamTimeout), false, false, fault.UpstreamTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, giveUp := context.WithTimeout(t.Context(), 10*time.Second)
			defer giveUp()
			tried := 0 // the server's, which Dial waits for
			url := answers(t, func(w http.ResponseWriter, r *http.Request) {
				if tried++; tried == 3 {
					giveUp()
				}
				c.refuse(w, r)
			})
			conn, err := (&Client{URL: url, TokenMayChange: c.mayChange}).Dial(ctx, "endpoint")
			if err == nil {
				conn.Close()
				t.Fatal("connected")
			}
			refused, ok := errors.AsType[*fault.Refused](err)
			if !ok || refused.Code != c.code {
				t.Errorf("the error %v does not say %q", err, c.code)
			}
			if ended := errors.Is(err, context.Canceled); ended == c.final {
				t.Errorf("final %v, want %v: %v", !ended, c.final, err)
			}
		})
	}
}

func TestDialRefusesWhatCannotWork(t *testing.T) {
	for name, c := range map[string]struct {
		client   Client
		endpoint string
	}{
		"no endpoint":  {Client{}, ""},
		"bad endpoint": {Client{}, "my endpoint"},
		"scheme":       {Client{URL: "ftp://localhost"}, "endpoint"},
		"second URL":   {Client{URL: "http://localhost:1", URLs: []string{"localhost"}}, "endpoint"},
	} {
		conn, err := c.client.Dial(t.Context(), c.endpoint)
		if err == nil {
			conn.Close()
			t.Errorf("%s: connected", name)
		}
	}
}

func TestZeroClientDialsTheProxyPort(t *testing.T) {
	if got := (&Client{}).urls(defaultDialURL); !slices.Equal(got, []string{"http://localhost:8000"}) {
		t.Errorf("dials %v", got)
	}
	if got := (&Client{}).urls(defaultURL); !slices.Equal(got, []string{"http://localhost:8001"}) {
		t.Errorf("listens at %v", got)
	}
}

// dialInBubble runs a dialling in virtual time; connect answers for each
// attempt, which takes rtt.
func dialInBubble(t *testing.T, urls []string, limit time.Duration, connect func(attempt int, url string) error) (attempts []string, took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		d := dialling{urls: urls, log: slog.New(slog.DiscardHandler)}
		d.connect = func(ctx context.Context, dialer *tunnel.Dialer) (stream, error) {
			attempts = append(attempts, dialer.URL)
			select {
			case <-time.After(rtt):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if err := connect(len(attempts), dialer.URL); err != nil {
				return nil, err
			}
			return &tunnel.Stream{}, nil
		}
		begun := time.Now()
		_, err = d.run(ctx)
		took = time.Since(begun)
	})
	return attempts, took, err
}

var errRefused = errors.New("connection refused")

func TestDialBacksOff(t *testing.T) {
	attempts, took, err := dialInBubble(t, []string{"http://a"}, 10*time.Minute, func(int, string) error { return errRefused })
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errRefused) {
		t.Errorf("the error %v does not say both that time was up and why", err)
	}
	if took != 10*time.Minute {
		t.Errorf("gave up after %v", took)
	}
	// One in 1 s on average in the first minute, one in 5 s then.
	if n := len(attempts); n < 90 || n > 350 {
		t.Errorf("%d attempts in 10 minutes", n)
	}
}

func TestDialTriesAllURLsBeforeItPauses(t *testing.T) {
	attempts, took, err := dialInBubble(t, []string{"http://a", "http://b", "http://c"}, time.Minute, func(_ int, url string) error {
		if url == "http://c" {
			return nil
		}
		return errRefused
	})
	if want := []string{"http://a", "http://b", "http://c"}; !slices.Equal(attempts, want) || err != nil || took != 3*rtt {
		t.Errorf("attempts %v in %v, %v", attempts, took, err)
	}
}

// As during a move from one cluster to another, of which one does not know us.
func TestDialGivesUpWhenAllURLsRefuse(t *testing.T) {
	unknown := &fault.Refused{Status: 401, Code: fault.UnknownTenant}
	attempts, _, err := dialInBubble(t, []string{"http://a", "http://b"}, time.Minute, func(attempt int, url string) error {
		if url == "http://a" || attempt > 6 {
			return unknown
		}
		return errRefused
	})
	if len(attempts) != 8 || !errors.Is(err, fault.UnknownTenant) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%d attempts, %v", len(attempts), err)
	}
}

func TestDialHonoursRetryAfter(t *testing.T) {
	attempts, took, _ := dialInBubble(t, []string{"http://a"}, time.Hour, func(attempt int, url string) error {
		if attempt == 1 {
			return &fault.Refused{Status: 503, Code: fault.Overloaded, RetryAfter: 7 * time.Second}
		}
		return nil
	})
	if len(attempts) != 2 || took < 7*time.Second || took > 8*time.Second {
		t.Errorf("%d attempts in %v", len(attempts), took)
	}
}

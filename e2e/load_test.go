//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// errFresh is a request that failed on a connection which had carried none before.
var errFresh = errors.New("on a new connection")

// load is a number of clients that send one request after another until they are told to
// stop. They use their own connections and no http.Transport, because that one quietly sends
// a request again when a connection breaks, and so hides what is to be counted.
type load struct {
	stop chan struct{} // closed by end
	wg   sync.WaitGroup

	// Guarded by mu.
	mu       sync.Mutex
	done     int
	failed   int
	failures []string // the first few
	by       map[string]int
}

// exchange is one request of a load, and what must come back. Everything else than this
// status and body is a failure.
type exchange struct {
	method, target string
	body           []byte
	echo           bool // the response has the request's body
	limit          time.Duration
}

// startLoad starts clients that send what next returns; next is called by several goroutines
// with the number of the client's request.
func startLoad(s *server, endpoint string, clients int, next func(i int) exchange) *load {
	return startLoadUntil(s, endpoint, clients, next, func(error) bool { return false })
}

// startLoadUntil is startLoad with clients that end by themselves, without a failure, at an
// error for which gone is true.
func startLoadUntil(s *server, endpoint string, clients int, next func(i int) exchange, gone func(error) bool) *load {
	l := &load{stop: make(chan struct{}), by: map[string]int{}}
	for range clients {
		l.wg.Go(func() {
			c := &client{addr: s.proxy}
			defer c.close()
			for i := 0; !l.stopped(); i++ {
				origin, err := c.do(endpoint, next(i))
				if gone(err) {
					return
				}
				l.count(origin, err)
			}
		})
	}
	return l
}

func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// count records how an exchange went; origin is the X-Origin of the response or its body.
func (l *load) count(origin string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
	if err == nil {
		l.by[origin]++
		return
	}
	l.failed++
	if len(l.failures) < 5 {
		l.failures = append(l.failures, fmt.Sprintf("%s: %v", time.Now().Format("15:04:05.000"), err))
	}
}

// progress returns how many requests are done so far.
func (l *load) progress() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

// waitMore waits until n more requests are done.
func (l *load) waitMore(t testing.TB, n int) {
	t.Helper()
	before := l.progress()
	for part := 1; part <= 10; part++ { // a minute for each: how fast a busy machine goes is not the question
		eventually(t, time.Minute, fmt.Sprintf("%d more requests", n), func() error {
			if now := l.progress(); now-before < n*part/10 {
				return fmt.Errorf("%d so far", now-before)
			}
			return nil
		})
	}
}

// end stops the clients and wants that no request failed.
func (l *load) end(t testing.TB) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	t.Logf("%d requests, %d failed, by origin %v", l.done, l.failed, l.by)
	if l.failed > 0 {
		t.Errorf("%d of %d requests failed, want none; the first: %q", l.failed, l.done, l.failures)
	}
	if l.done == 0 {
		t.Error("no request was done")
	}
}

// client is one HTTP/1.1 client with at most one connection, which it keeps.
type client struct {
	addr string
	conn net.Conn
	r    *bufio.Reader
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// do makes one exchange and returns which origin answered. After an error, and when the
// server asks for it, the connection is closed.
func (c *client) do(endpoint string, x exchange) (origin string, err error) {
	fresh := c.conn == nil
	if fresh {
		conn, err := net.DialTimeout("tcp", c.addr, 5*time.Second)
		if err != nil {
			return "", fmt.Errorf("%w: %w", errFresh, err)
		}
		c.conn, c.r = conn, bufio.NewReader(conn)
	}
	origin, keep, err := c.exchange(endpoint, x)
	if err != nil && fresh {
		err = fmt.Errorf("%w: %w", errFresh, err)
	}
	if err != nil {
		err = fmt.Errorf("%s %s from %v: %w", x.method, x.target, c.conn.LocalAddr(), err)
	}
	if err != nil || !keep {
		c.close()
	}
	return origin, err
}

func (c *client) exchange(endpoint string, x exchange) (origin string, keep bool, err error) {
	limit := x.limit
	if limit == 0 {
		limit = 20 * time.Second
	}
	c.conn.SetDeadline(time.Now().Add(limit))
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nx-piko-endpoint: %s\r\n", x.method, x.target, endpoint)
	if x.body != nil {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(x.body))
	}
	if _, err := c.conn.Write(append([]byte(head+"\r\n"), x.body...)); err != nil {
		return "", false, err
	}
	res, err := http.ReadResponse(c.r, &http.Request{Method: x.method})
	if err != nil {
		return "", false, fmt.Errorf("read response: %w", err)
	}
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("read body after %d bytes: %w", len(body), err)
	case res.StatusCode != http.StatusOK:
		return "", false, fmt.Errorf("status %s: %.200q", res.Status, body)
	case x.echo && !bytes.Equal(body, x.body):
		return "", false, fmt.Errorf("%d bytes came back of %d, or others", len(body), len(x.body))
	case x.echo:
		return res.Header.Get("X-Origin"), !res.Close, nil
	case len(body) == 0 && x.method != http.MethodHead:
		return "", false, errors.New("the body is empty")
	}
	return string(body), !res.Close, nil
}

// gets is a load of GETs.
func gets(int) exchange { return exchange{method: http.MethodGet, target: "/"} }

// mixed is a load of GETs and of POSTs and PUTs whose bodies come back; they are below and
// above the size that is kept for another attempt.
func mixed(i int) exchange {
	sizes := []int{0, 13, 4 << 10, 60 << 10, 100 << 10}
	switch i % 3 {
	case 0:
		return gets(i)
	case 1:
		return exchange{method: http.MethodPost, target: "/echo", body: randomBytes(sizes[rand.IntN(len(sizes))]), echo: true}
	default:
		return exchange{method: http.MethodPut, target: "/echo", body: randomBytes(sizes[rand.IntN(len(sizes))]), echo: true}
	}
}

// randomBytes returns n bytes that no other call returned.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	io.ReadFull(&generator{at: rand.Uint64() &^ 7}, b)
	return b
}

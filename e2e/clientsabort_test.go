//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// leaver makes calls over one way, and leaves them.
type leaver struct {
	w       *way
	service *leftService
	h2      *http.Client
	forward string // where TCP is forwarded
	wg      sync.WaitGroup
}

// leaving is one kind of call and of leaving it. It begins a call, which the service knows by
// a name, and returns what leaves it.
type leaving struct {
	name  string
	begin func(l *leaver, id string) (leave func(), err error)
}

const endlessBody = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"

var leavings = []leaving{
	{"an HTTP/1.1 request that waits", leaveRaw("GET /wait", "\r\n")},
	{"an HTTP/1.1 upload", leaveRaw("POST /upload", endlessBody)},
	{"an HTTP/1.1 download", leaveRaw("GET /download", "\r\n")},
	{"an HTTP/2 request that waits", leaveStream("GET", "/wait", "")},
	{"an HTTP/2 upload", leaveStream("PUT", "/upload", "application/octet-stream")},
	{"an HTTP/2 download", leaveStream("GET", "/download", "")},
	{"a gRPC call", leaveStream("POST", "/call", "application/grpc")},
	{"an HTTP/2 connection", leaveConnection},
	{"a WebSocket", leaveWebSocket},
}

// leaveRaw sends a request by HTTP/1.1 on a connection of its own, and closes that, every
// other time with a reset.
func leaveRaw(request, rest string) func(*leaver, string) (func(), error) {
	return func(l *leaver, id string) (func(), error) {
		conn, err := net.DialTimeout("tcp", l.w.entry.proxy, 5*time.Second)
		if err != nil {
			return nil, err
		}
		_, err = fmt.Fprintf(conn, "%s?id=%s HTTP/1.1\r\nHost: h\r\n%s\r\n%s", request, id, to("http"), rest)
		return closeOrReset(conn, id), err
	}
}

func closeOrReset(conn net.Conn, id string) func() {
	return func() {
		if strings.HasSuffix(id, "1") || strings.HasSuffix(id, "3") || strings.HasSuffix(id, "5") {
			conn.(*net.TCPConn).SetLinger(0)
		}
		conn.Close()
	}
}

// leaveStream sends a request as one of many on an HTTP/2 connection, and cancels it.
func leaveStream(method, path, kind string) func(*leaver, string) (func(), error) {
	return func(l *leaver, id string) (func(), error) { return l.stream(l.h2, method, path, kind, id) }
}

// leaveConnection makes a call on an HTTP/2 connection of its own, and closes that.
func leaveConnection(l *leaver, id string) (func(), error) {
	conn, err := net.DialTimeout("tcp", l.w.entry.proxy, 5*time.Second)
	if err != nil {
		return nil, err
	}
	only := &http.Client{Transport: &http.Transport{
		Protocols:   l.h2.Transport.(*http.Transport).Protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	cancel, err := l.stream(only, "POST", "/call", "application/grpc", id)
	return func() {
		closeOrReset(conn, id)()
		cancel()
	}, err
}

// stream sends a request by HTTP/2 and returns what cancels it.
func (l *leaver) stream(client *http.Client, method, path, kind, id string) (context.CancelFunc, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var body io.Reader
	var out *io.PipeWriter
	if kind != "" {
		body, out = io.Pipe()
	}
	req, err := http.NewRequestWithContext(ctx, method, l.w.entry.url(path+"?id="+id), body)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header = http.Header{"X-Piko-Endpoint": {"http"}}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
		l.wg.Go(func() {
			io.WriteString(out, "hello\n")
			<-ctx.Done()
			out.CloseWithError(ctx.Err())
		})
	}
	l.wg.Go(func() {
		if res, err := client.Do(req); err == nil {
			res.Body.Read(make([]byte, 1))
			<-ctx.Done()
			res.Body.Close()
		}
	})
	return cancel, nil
}

func leaveWebSocket(l *leaver, id string) (func(), error) {
	ws, res, err := websocket.DefaultDialer.Dial("ws://"+l.w.entry.proxy+"/socket?id="+id, http.Header{"X-Piko-Endpoint": {"http"}})
	if err != nil {
		return nil, fmt.Errorf("%w: %v", err, res)
	}
	return closeOrReset(ws.NetConn(), id), nil
}

func leaveTCP(l *leaver, id string) (func(), error) {
	conn, err := net.DialTimeout("tcp", l.forward, 5*time.Second)
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(conn, id+"\n")
	return closeOrReset(conn, id), err
}

// leave makes one call and leaves it; it returns when the service was told, after the client
// had left.
func (l *leaver) leave(k leaving) (time.Duration, error) {
	c, id := l.service.expect()
	leave, err := k.begin(l, id)
	if err != nil {
		return 0, err
	}
	select {
	case <-c.arrived:
	case <-time.After(10 * time.Second):
		leave()
		return 0, fmt.Errorf("call %s has not arrived", id)
	}
	left := time.Now()
	leave()
	select {
	case noticed := <-c.noticed:
		return noticed.Sub(left), nil
	case <-time.After(10 * time.Second):
		return 0, fmt.Errorf("the service has not been told that call %s was left", id)
	}
}

// leaveMany leaves many calls, some at a time.
func (l *leaver) leaveMany(k leaving, n int) (took []time.Duration, errs []error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range n / 8 {
				d, err := l.leave(k)
				mu.Lock()
				if took = append(took, d); err != nil {
					errs = append(errs, err)
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	l.wg.Wait()
	slices.Sort(took)
	return took, errs
}

// TestClientLeaves leaves a thousand calls of each kind. The service is told of each at once,
// and nothing is left of them in any process.
func TestClientLeaves(t *testing.T) {
	for i, name := range []string{"one node", "two nodes"} {
		t.Run(name, func(t *testing.T) {
			s := &leftService{}
			w := startWay(t, i+1, "--proxy.access-log.disable")
			l := &leaver{w: w, service: s, h2: h2cClient(t)}
			agent := w.agent(t, "http", s.listenHTTP(t), "--access-log.disable")
			for _, k := range leavings {
				t.Run(k.name, func(t *testing.T) { l.check(t, k, agent.files) })
			}
			tcp := w.agentTCP(t, "tcp", s.listenTCP(t), "--access-log.disable")
			forward := w.forward(t, "tcp")
			l.forward = forward.addr
			t.Run("TCP", func(t *testing.T) { l.check(t, leaving{"TCP", leaveTCP}, tcp.files, forward.files) })
			for _, p := range []*process{agent, tcp, forward.process} {
				wantFewGoroutines(t, p)
			}
		})
	}
}

// check leaves a thousand calls of a kind, and compares what there is afterwards with what
// there was before. more counts what the nodes do not know of.
func (l *leaver) check(t *testing.T, k leaving, more ...func() (int, error)) {
	if _, errs := l.leaveMany(k, 64); len(errs) > 0 {
		t.Fatalf("leave 64 calls: %v", errs[:min(5, len(errs))])
	}
	counts := map[string]func() (int, error){
		"goroutines of the entry node": l.w.entry.goroutines, "goroutines of the owner": l.w.owner.goroutines,
		"calls at the service": func() (int, error) { return int(l.service.open.Load()), nil },
	}
	for i, count := range more {
		counts[fmt.Sprint("what process ", i, " has")] = count
	}
	base := steady(t, counts)
	took, errs := l.leaveMany(k, 1000)
	if len(errs) > 0 {
		t.Errorf("of %d calls %d went wrong: %v", len(took), len(errs), errs[:min(5, len(errs))])
	}
	median, late, worst := took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
	t.Logf("the service is told after %v (median), %v (99 %%), %v (worst)", round(median), round(late), round(worst))
	if median > 100*time.Millisecond {
		t.Errorf("half of %d times the service was told after more than %v, want at most 100 ms", len(took), median)
	}
	if late > 800*time.Millisecond { // which a busy machine does not need, but time-outs of a second do
		t.Errorf("one of a hundred times the service was told after more than %v", late)
	}
	eventually(t, 10*time.Second, "what there is, is what there was", func() error {
		for name, count := range counts {
			if n, err := count(); err != nil || n > base[name]+5 {
				return fmt.Errorf("%s: %d, were %d, %v", name, n, base[name], err)
			}
		}
		return nil
	})
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// steady is what is counted when it stays the same for a while, or after five seconds.
func steady(t testing.TB, counts map[string]func() (int, error)) (last map[string]int) {
	t.Helper()
	for i, same := 0, 0; i < 100 && same < 6; i++ {
		now := map[string]int{}
		for name, count := range counts {
			n, err := count()
			if err != nil {
				t.Fatalf("count %s: %v", name, err)
			}
			now[name] = n
		}
		if same++; !maps.Equal(now, last) {
			last, same = now, 0
		}
		<-time.After(50 * time.Millisecond)
	}
	return last
}

// files is how many files and connections the process has open.
func (p *process) files() (int, error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return len(list), err
}

// wantFewGoroutines ends a process that has nothing to do, and wants it to have been at rest.
func wantFewGoroutines(t *testing.T, p *process) {
	t.Helper()
	p.signal(t, syscall.SIGQUIT)
	p.wait(t, 10*time.Second)
	dump := string(readFile(t, p.stderr))
	n := strings.Count(dump, "\ngoroutine ")
	if t.Logf("%s has %d goroutines at rest", p.name, n); n == 0 || n > 40 {
		t.Errorf("%s has %d goroutines at rest, want a few\n%s", p.name, n, dump[:min(len(dump), 20000)])
	}
}

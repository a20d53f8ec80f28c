//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// bothVersions is HTTP/1.1 and HTTP/2 with prior knowledge on one cleartext port.
func bothVersions() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

// startCalls starts a service that sends each line of a call back as it comes, and ends the
// call as gRPC does.
func startCalls(t testing.TB) string {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			http.Error(w, "this wants HTTP/2", http.StatusHTTPVersionNotSupported)
			return
		}
		flush := http.NewResponseController(w).Flush
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		flush()
		for lines := bufio.NewReader(r.Body); ; flush() {
			line, err := lines.ReadString('\n')
			if err == io.EOF {
				break
			}
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, line)
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}))
	srv.Config.Protocols = bothVersions()
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.Listener.Addr().String()
}

// h2cClient speaks HTTP/2 with prior knowledge, and nothing else.
func h2cClient(t testing.TB) *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// call is an HTTP/2 call that goes both ways at the same time.
type call struct {
	t    testing.TB
	out  *io.PipeWriter
	res  *http.Response
	in   *bufio.Reader
	over context.CancelFunc
}

// startCall begins a call through a proxy port, with the content type of gRPC.
func startCall(t testing.TB, proxy, endpoint string) *call {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	body, out := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+proxy+"/service/Call", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"X-Piko-Endpoint": {endpoint}, "Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	res, err := h2cClient(t).Do(req)
	if err != nil {
		t.Fatalf("begin a call: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		res.Body.Close()
		out.Close()
	})
	if status := res.Header.Get("Grpc-Status"); res.StatusCode != http.StatusOK || status != "" {
		t.Fatalf("begin a call: %s, gRPC status %q %s", res.Status, status, res.Header.Get("Grpc-Message"))
	}
	return &call{t, out, res, bufio.NewReader(res.Body), cancel}
}

// wantEcho sends a line and wants it back.
func (c *call) wantEcho(line string) {
	c.t.Helper()
	limit := time.AfterFunc(10*time.Second, c.over)
	defer limit.Stop()
	if _, err := fmt.Fprintln(c.out, line); err != nil {
		c.t.Errorf("send %q: %v", line, err)
	}
	if got, err := c.in.ReadString('\n'); got != line+"\n" {
		c.t.Errorf("the echo of %q is %q, %v", line, got, err)
	}
}

// end ends the call in order.
func (c *call) end() {
	c.t.Helper()
	limit := time.AfterFunc(10*time.Second, c.over)
	defer limit.Stop()
	c.out.Close()
	rest, err := io.ReadAll(c.in)
	if err != nil || len(rest) > 0 || c.res.Trailer.Get("Grpc-Status") != "0" {
		c.t.Errorf("a call ended with %q, %v, trailer %v", rest, err, c.res.Trailer)
	}
}

// TestCall makes calls that go both ways to services named in each way that agents know.
func TestCall(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		service := startCalls(t)
		for endpoint, args := range map[string][]string{
			"auto": {service}, "scheme": {"http://" + service}, "h2c": {"h2c://" + service}, "grpc": {"grpc://" + service},
			"flag": {service, "--upstream-protocol", "h2"},
		} {
			w.agent(t, endpoint, args[0], args[1:]...)
			c := startCall(t, w.entry.proxy, endpoint)
			for i := range 3 {
				c.wantEcho(strings.Repeat(fmt.Sprint(i), 1<<(10*i)))
			}
			c.end()
		}
	})
}

// agentTCP starts an agent of one TCP service, and returns when clients reach it.
func (w *way) agentTCP(t testing.TB, endpoint, addr string, args ...string) *process {
	t.Helper()
	return w.started(t, endpoint, start(t, "agent", nil, pikoBinary, append([]string{
		"agent", "tcp", endpoint, addr, "--connect.url", "http://" + w.owner.upstream, "--connections", "1"}, args...)...))
}

// forward is a running `piko forward`.
type forward struct {
	*process
	addr string // where it listens
}

// forward starts the client's side of a TCP endpoint.
func (w *way) forward(t testing.TB, endpoint string, args ...string) forward {
	t.Helper()
	addr := freeAddr(t)
	p := start(t, "forward", nil, pikoBinary, append([]string{
		"forward", "tcp", addr, endpoint, "--connect.url", "http://" + w.entry.proxy}, args...)...)
	waitListening(t, p, addr)
	return forward{p, addr}
}

// echoBytes sends back what comes, and ends its side when the other has ended.
func echoBytes(c *rawConn) {
	c.SetDeadline(time.Time{})
	if _, err := io.Copy(c.Conn, c.r); err == nil {
		c.Conn.(*net.TCPConn).CloseWrite()
	}
}

// wantEcho sends a line and wants it back.
func (c *rawConn) wantEcho(line string) {
	c.t.Helper()
	c.send(line + "\n")
	if got, err := c.r.ReadString('\n'); got != line+"\n" {
		c.t.Errorf("the echo of %q is %q, %v", line, got, err)
	}
}

// closeWrite ends our side.
func (c *rawConn) closeWrite() { c.Conn.(*net.TCPConn).CloseWrite() }

//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
)

// requestLimit is when a client of a chaos run gives up on a GET or POST.
const requestLimit = 40 * time.Second

// plainClient is an HTTP/1.1 client with one connection, which it keeps. It sends nothing
// twice, so that what is lost is seen.
type plainClient struct {
	addr string
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	conn net.Conn
	r    *bufio.Reader
	used int // how many requests the connection has carried
}

func (c *plainClient) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// do makes one request and notes in r what came of it.
func (c *plainClient) do(p plan, r *record) {
	res := c.send(p, r, time.Now().Add(requestLimit))
	if res == nil {
		return
	}
	h := sha256.New()
	n, err := io.Copy(h, res.Body)
	c.used++
	if c.end(res, h, n, err, r); res.Close {
		c.close()
	}
}

// send sends one request and returns its response when the header is there and says 200.
func (c *plainClient) send(p plan, r *record, deadline time.Time) *http.Response {
	if c.conn == nil {
		conn, err := c.dial(context.Background(), "tcp", c.addr)
		if err != nil {
			r.failed(failRefused, "%v", err)
			return nil
		}
		c.conn, c.r, c.used = conn, bufio.NewReader(conn), 0
	}
	c.conn.SetDeadline(deadline)
	_, err := c.conn.Write(p.bytes(r))
	if err != nil {
		r.failed(broken(err, failReset), "request %d of its connection: %v", c.used+1, err)
		return nil
	}
	res, err := http.ReadResponse(c.r, &http.Request{Method: p.method()})
	if err != nil {
		r.failed(broken(err, failReset), "request %d of its connection: %v", c.used+1, err)
		return nil
	}
	r.Service, r.Answered = res.Header.Get(headerService), res.Header.Get(headerEndpoint)
	return res
}

// end notes how a response ended.
func (c *plainClient) end(res *http.Response, sum hash.Hash, n int64, err error, r *record) {
	r.Got = hex.EncodeToString(sum.Sum(nil))
	switch {
	case err != nil:
		r.failed(broken(err, failTruncated), "status %d and %d bytes from %s: %v", res.StatusCode, n, r.Service, err)
	case res.StatusCode != http.StatusOK:
		r.failed(failure(fmt.Sprint(res.StatusCode)), "%s", whoAnswered(res.Header))
	}
}

// whoAnswered tells piko's own answers from those of the load balancer.
func whoAnswered(h http.Header) string {
	return cmp.Or(h.Get("X-Piko-Error"), h.Get(headerService), "of the load balancer")
}

// broken is the failure that an error of a connection is: a time-out, or what ended is.
func broken(err error, ended failure) failure {
	if isTimeout(unwrapNet(err)) {
		return failTimeout
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return ended
	}
	return failWrong
}

func unwrapNet(err error) error {
	if n, ok := errors.AsType[net.Error](err); ok {
		return n
	}
	return err
}

func (p plan) method() string {
	if p.kind == kindPost {
		return http.MethodPost
	}
	return http.MethodGet
}

func (p plan) header() http.Header {
	return http.Header{
		"X-Piko-Endpoint": {p.endpoint}, "X-Request-Id": {p.id}, headerID: {p.id},
		headerSize: {fmt.Sprint(p.size)}, headerTime: {p.takes.String()},
	}
}

// bytes is the request as it is sent; the checksum of the body goes into r.
func (p plan) bytes(r *record) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s /%s HTTP/1.1\r\nHost: localhost\r\n", p.method(), p.kind)
	p.header().Write(&b)
	if p.kind != kindPost {
		b.WriteString("\r\n")
		return b.Bytes()
	}
	body := randomBytes(p.body)
	sum := sha256.Sum256(body)
	r.Sent = hex.EncodeToString(sum[:])
	if !p.chunked {
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", len(body))
		b.Write(body)
		return b.Bytes()
	}
	b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	w := httputil.NewChunkedWriter(&b)
	for len(body) > 0 {
		n := min(len(body), 16<<10)
		w.Write(body[:n])
		body = body[n:]
	}
	w.Close()
	b.WriteString("\r\n")
	return b.Bytes()
}

// stream makes one request whose answer takes long, on a connection of its own.
func (l *traffic) stream(p plan) {
	r := l.begin(p)
	defer func() { l.done(r) }()
	if p.kind == kindWebSocket {
		l.webSocket(p, &r)
		return
	}
	c := &plainClient{addr: r.Entry, dial: l.dial}
	defer c.close()
	if res := c.send(p, &r, time.Now().Add(p.takes+requestLimit)); res != nil {
		h := sha256.New()
		n, err := io.Copy(h, res.Body)
		c.end(res, h, n, err, &r)
	}
	if r.Failure != "" {
		<-time.After(interval) // what fails at once shall not fill the log
	}
}

// webSocket sends messages for as long as the plan says, wants each of them back before the
// next, and closes.
func (l *traffic) webSocket(p plan, r *record) {
	d := websocket.Dialer{NetDialContext: l.dial, HandshakeTimeout: requestLimit}
	ws, res, err := d.Dial("ws://"+r.Entry+"/"+string(p.kind), p.header())
	if err != nil {
		defer func() { <-time.After(interval) }()
	}
	switch {
	case res != nil && res.StatusCode != http.StatusSwitchingProtocols:
		r.failed(failure(fmt.Sprint(res.StatusCode)), "%s", whoAnswered(res.Header))
		return
	case errors.Is(err, syscall.ECONNREFUSED):
		r.failed(failRefused, "%v", err)
		return
	case err != nil:
		r.failed(broken(err, failReset), "%v", err)
		return
	}
	defer ws.Close()
	r.Service, r.Answered = res.Header.Get(headerService), res.Header.Get(headerEndpoint)
	h := sha256.New()
	if err := talk(ws, p, r, h); err != nil && r.Failure == "" {
		r.failed(broken(err, failTruncated), "%v", err)
	}
	r.Got = hex.EncodeToString(h.Sum(nil))
}

// talk is what goes over a WebSocket.
func talk(ws *websocket.Conn, p plan, r *record, h hash.Hash) error {
	stamp := r.Service + " " + r.Answered + " " + p.id
	for i := range max(1, int(p.takes/interval)) {
		ws.SetWriteDeadline(time.Now().Add(requestLimit))
		ws.SetReadDeadline(time.Now().Add(requestLimit))
		message := fmt.Appendf(nil, "%d %x ", i, randomBytes(i*100%4000))
		if err := ws.WriteMessage(websocket.TextMessage, message); err != nil {
			return fmt.Errorf("send message %d: %w", i, err)
		}
		_, got, err := ws.ReadMessage()
		if err != nil {
			return closedEarly(err, i)
		}
		if want := append(message, stamp...); !bytes.Equal(got, want) {
			r.failed(failWrong, "message %d came back as %.100q, want %.100q", i, got, want)
			return nil
		}
		h.Write(got)
		<-time.After(interval)
	}
	if err := ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(requestLimit)); err != nil {
		return fmt.Errorf("send close: %w", err)
	}
	_, _, err := ws.ReadMessage()
	if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		return nil
	}
	return closedEarly(err, -1)
}

// closedEarly is the error of a WebSocket that somebody else than its client ended.
func closedEarly(err error, i int) error {
	if _, ok := errors.AsType[*websocket.CloseError](err); ok {
		return fmt.Errorf("wait for message %d: %w: %v", i, io.ErrUnexpectedEOF, err)
	}
	return fmt.Errorf("wait for message %d: %w", i, err)
}

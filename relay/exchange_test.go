package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A service may answer before it has the whole request, and both go on.
func TestEarlyResponseWhileTheBodyGoesOn(t *testing.T) {
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.WriteHeader(200)
		rc.Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	in, out := io.Pipe()
	res, err := p.RoundTrip(post(t, "/", in))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 100)
	for i := range 10 {
		msg := fmt.Sprint("message ", i)
		io.WriteString(out, msg)
		n, err := res.Body.Read(buf)
		if string(buf[:n]) != msg || err != nil {
			t.Fatalf("got %q and %v, want %q", buf[:n], err, msg)
		}
	}
	out.Close()
	if n, err := res.Body.Read(buf); err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	wantIdle(t, p, 1)
}

// The answer counts, not that the rest of the request could not be sent; but the connection is not used again.
func TestRefusedUpload(t *testing.T) {
	p := rawService(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
			c.(*net.TCPConn).CloseWrite()
			io.CopyN(io.Discard, r, 1<<20)
		}
	})
	for range 10 {
		res, body := mustDo(t, p, post(t, "/", io.LimitReader(zeros{}, 50<<20)))
		if res.StatusCode != 413 || body != "no" {
			t.Errorf("got %d %q", res.StatusCode, body)
		}
	}
	wantIdle(t, p, 0)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The caller's context ends every stage of an exchange, with its cause.
func TestContextEndsTheExchange(t *testing.T) {
	stop := errors.New("stop")
	head := "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
	for _, tt := range []struct{ name, answer string }{
		{"before the response", ""},
		{"within a head", head[:20]},
		{"within a body", head},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ended := make(chan struct{})
			p := rawService(t, func(c net.Conn, r *bufio.Reader) {
				defer close(ended)
				http.ReadRequest(r)
				io.WriteString(c, tt.answer)
				r.ReadByte()
			})
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(10*time.Millisecond, func() { cancel(stop) })
			res, err := p.RoundTrip(get(t, "/").WithContext(ctx))
			if err == nil {
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			if !errors.Is(err, stop) || NeverExecuted(err) {
				t.Errorf("got %v", err)
			}
			<-ended // the service was told
			wantIdle(t, p, 0)
		})
	}
}

// A body that waits for 100 Continue is not read any more when the exchange has ended.
func TestContextEndsTheWaitFor100(t *testing.T) {
	p := rawService(t, func(c net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
	ctx, cancel := context.WithCancel(t.Context())
	req := post(t, "/", unreadable{t}).WithContext(ctx)
	req.Header.Set("Expect", "100-continue")
	time.AfterFunc(10*time.Millisecond, cancel)
	start := time.Now()
	if _, err := p.RoundTrip(req); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	wantIdle(t, p, 0)
	if d := time.Since(start); d > continueWait/2 {
		t.Errorf("the connection was held for %v", d)
	}
}

// unreadable is a body that must not be read.
type unreadable struct{ t *testing.T }

func (r unreadable) Read([]byte) (int, error) {
	r.t.Error("the body was read")
	return 0, io.EOF
}

func TestContextThatHasEnded(t *testing.T) {
	p := &Pool{Dial: func(context.Context) (net.Conn, error) { t.Error("dialled"); return nil, io.EOF }}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	body := &closeCounter{Reader: strings.NewReader("x")}
	req := post(t, "/", body).WithContext(ctx)
	if _, err := p.RoundTrip(req); !errors.Is(err, context.Canceled) || !NeverExecuted(err) {
		t.Errorf("got %v", err)
	}
	if body.closed != 1 {
		t.Errorf("the body was closed %d times", body.closed)
	}
}

type closeCounter struct {
	io.Reader
	closed int
}

func (c *closeCounter) Close() error { c.closed++; return nil }

// A body that fails is the client's fault, also if the service has begun to answer, and the service sees the request break.
func TestClientsBodyFails(t *testing.T) {
	bad := errors.New("malformed chunk")
	for _, length := range []int64{-1, 100, 100_000} {
		for _, early := range []bool{false, true} {
			t.Run(fmt.Sprintf("length %d, early response %v", length, early), func(t *testing.T) {
				saw := make(chan error, 1)
				p := service(t, func(w http.ResponseWriter, r *http.Request) {
					if early {
						http.NewResponseController(w).EnableFullDuplex()
						http.NewResponseController(w).Flush()
					}
					_, err := io.ReadAll(r.Body)
					saw <- err
				})
				in, out := io.Pipe()
				req := post(t, "/", in)
				req.ContentLength = length
				go func() {
					io.WriteString(out, "hello")
					if early {
						time.AfterFunc(20*time.Millisecond, func() { out.CloseWithError(bad) })
					} else {
						time.AfterFunc(2*joinWait, func() { out.CloseWithError(bad) })
					}
				}()
				res, err := p.RoundTrip(req)
				if err == nil {
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				if ce, ok := errors.AsType[*ClientError](err); !ok || !errors.Is(ce, bad) {
					t.Errorf("got %v", err)
				}
				if err := <-saw; err == nil {
					t.Error("the service took the body for whole")
				}
				wantIdle(t, p, 0)
			})
		}
	}
}

// Closing a response early waits for nobody, in particular not for a client that sends nothing.
func TestCloseNeverWaits(t *testing.T) {
	gone := make(chan struct{})
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		io.Copy(io.Discard, r.Body)
		close(gone)
	})
	in, out := io.Pipe()
	res, err := p.RoundTrip(post(t, "/", in))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if _, err := res.Body.Read(make([]byte, 1)); !errors.Is(err, ErrBodyClosed) {
		t.Errorf("read after close: %v", err)
	}
	<-gone
	out.Close()
	wantIdle(t, p, 0)
}

// The last bytes of a request have a second to leave when the whole response has come: a service that does not read
// them does not hold the connection for ever.
func TestLastBytesThatNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		p := &Pool{Dial: func(context.Context) (net.Conn, error) { return near, nil }}
		go func() {
			http.ReadRequest(bufio.NewReader(far))
			io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}()
		start := time.Now()
		req := post(t, "/", io.MultiReader(strings.NewReader(strings.Repeat("x", 20_000))))
		req.ContentLength = 20_000
		if _, body := mustDo(t, p, req); body != "ok" {
			t.Errorf("got %q", body)
		}
		for p.busyConns() > 0 && time.Since(start) < time.Hour {
			time.Sleep(time.Second / 2)
		}
		if d := time.Since(start); d > 2*finishing || p.idleConns() > 0 {
			t.Errorf("the connection was held for %v", d)
		}
	})
}

// A Close wakes a Read that waits in another goroutine.
func TestCloseDuringRead(t *testing.T) {
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	res, err := p.RoundTrip(get(t, "/"))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, func() { res.Body.Close() })
	if _, err := res.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read says %v", err)
	}
	wantIdle(t, p, 0)
}

// An idle connection that has ended, or on which something came that nobody asked for, is not used: nobody gets what was
// meant for another.
func TestIdleConnectionsAreChecked(t *testing.T) {
	for name, after := range map[string]string{"closed": "", "poisoned": "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"} {
		t.Run(name, func(t *testing.T) {
			next := make(chan struct{})
			p := rawService(t, func(c net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
				<-next
				io.WriteString(c, after)
				next <- struct{}{}
			})
			mustDo(t, p, get(t, "/"))
			wantIdle(t, p, 1)
			next <- struct{}{}
			<-next
			eventually(t, func() error { // the bytes have to arrive first
				if p.idle[0].fit() {
					return errors.New("connection still looks fit")
				}
				return nil
			})
			done := make(chan struct{})
			go func() { next <- struct{}{}; <-next; close(done) }()
			if _, body := mustDo(t, p, post(t, "/", nil)); body != "good" {
				t.Errorf("got %q", body)
			}
			<-done
		})
	}
}

func TestNeverExecuted(t *testing.T) {
	refused := errors.New("connection refused")
	p := &Pool{Dial: func(context.Context) (net.Conn, error) { return nil, refused }}
	_, err := p.RoundTrip(get(t, "/"))
	if !errors.Is(err, refused) || !NeverExecuted(err) || Responded(err) {
		t.Errorf("no connection: %v, %v, %v", err, NeverExecuted(err), Responded(err))
	}
	for _, tt := range []struct {
		name  string
		conn  brokenConn
		never bool
	}{
		{"nothing written", brokenConn{writeErr: io.ErrClosedPipe, readErr: io.ErrClosedPipe}, true},
		{"something written", brokenConn{written: 5, writeErr: io.ErrClosedPipe, readErr: io.ErrClosedPipe}, false},
		{"all written, no answer", brokenConn{written: 1000, readErr: io.EOF}, false},
		{"all written, stream refused", brokenConn{written: 1000, readErr: refusedError{}}, true},
		{"stream refused while writing", brokenConn{written: 5, writeErr: refusedError{}, readErr: refusedError{}}, true},
	} {
		p := &Pool{Dial: func(context.Context) (net.Conn, error) { c := tt.conn; return &c, nil }}
		for _, body := range []io.Reader{nil, strings.NewReader("hello"), io.MultiReader(strings.NewReader("hello"))} {
			_, err := p.RoundTrip(post(t, "/", body))
			if NeverExecuted(err) != tt.never || err == nil {
				t.Errorf("%s: got %v, never executed: %v", tt.name, err, NeverExecuted(err))
			}
		}
	}
}

type brokenConn struct {
	net.Conn
	written  int
	writeErr error
	readErr  error
}

func (c *brokenConn) Write(b []byte) (int, error) { return min(len(b), c.written), c.writeErr }
func (c *brokenConn) Read([]byte) (int, error)    { return 0, c.readErr }
func (c *brokenConn) Close() error                { return nil }

type refusedError struct{}

func (refusedError) Error() string { return "stream refused" }
func (refusedError) Refused() bool { return true }

// A service that closes idle connections when it likes: an idempotent request goes over a new one, a POST fails.
func TestRetryStale(t *testing.T) {
	p := rawService(t, func(c net.Conn, r *bufio.Reader) {
		for i := 0; ; i++ {
			if _, err := http.ReadRequest(r); err != nil || i == 1 {
				return // at the second request, before a byte of an answer
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	p.RetryStale = true
	for range 5 {
		mustDo(t, p, get(t, "/"))
	}
	if _, err := p.RoundTrip(post(t, "/", nil)); err == nil || NeverExecuted(err) {
		t.Errorf("a POST over a stale connection: %v", err)
	}
	mustDo(t, p, get(t, "/"))
	p.RetryStale = false
	if _, err := p.RoundTrip(get(t, "/")); err == nil {
		t.Error("a stale connection was replaced although RetryStale is off")
	}
}

func TestFresh(t *testing.T) {
	p := service(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })
	p.Fresh = func(method string) bool { return method == "POST" }
	_, a := mustDo(t, p, get(t, "/"))
	_, b := mustDo(t, p, get(t, "/"))
	_, c := mustDo(t, p, post(t, "/", nil))
	if a != b || b == c {
		t.Errorf("GET over %s, GET over %s, POST over %s", a, b, c)
	}
}

func TestIdleConnectionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open sync.WaitGroup
		p := &Pool{Dial: func(context.Context) (net.Conn, error) {
			a, b := net.Pipe()
			open.Go(func() {
				r := bufio.NewReader(b)
				for {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(b, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
			return a, nil
		}}
		start := time.Now()
		for range 3 {
			mustDo(t, p, get(t, "/"))
			time.Sleep(time.Minute)
		}
		if n := p.idleConns(); n != 1 {
			t.Errorf("%d connections are idle, want the one in use", n)
		}
		open.Wait()
		if d := time.Since(start); d != 2*time.Minute+defaultIdleTimeout {
			t.Errorf("the last connection was closed after %v", d)
		}
	})
}

// The pool keeps as many connections as were in use at once, but forgets peaks.
func TestMaxIdle(t *testing.T) {
	p := &Pool{}
	for _, tt := range []struct{ peak, lastPeak, set, want int }{
		{0, 0, 0, 64}, {10, 0, 0, 64}, {100, 0, 0, 100}, {5, 200, 0, 200}, {9000, 0, 0, 4096}, {9000, 0, 2, 2},
	} {
		p.peak, p.lastPeak, p.MaxIdle = tt.peak, tt.lastPeak, tt.set
		if got := p.maxIdle(); got != tt.want {
			t.Errorf("%+v: got %d", tt, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		p := &Pool{}
		use := func(n int) {
			for range n {
				p.begin()
			}
			for range n {
				a, _ := net.Pipe()
				p.put(newConn(p, a))
			}
			p.CloseIdle()
		}
		use(1)
		use(100)
		time.Sleep(peakWindow)
		use(1)
		if n := p.maxIdle(); n != 100 {
			t.Errorf("one window after the peak: %d", n)
		}
		time.Sleep(peakWindow)
		use(1)
		if n := p.maxIdle(); n != minAutoIdle {
			t.Errorf("two windows after the peak: %d", n)
		}
	})
}

func TestClosedPool(t *testing.T) {
	p := service(t, func(http.ResponseWriter, *http.Request) {})
	res, err := p.RoundTrip(get(t, "/"))
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	res.Body.Close()
	wantIdle(t, p, 0)
	if _, err := p.RoundTrip(get(t, "/")); !errors.Is(err, ErrPoolClosed) || !NeverExecuted(err) {
		t.Errorf("got %v", err)
	}
}

func TestTLSService(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	defer s.Close()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	p := &Pool{Dial: func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
	}}
	defer p.Close()
	for range 3 {
		if _, body := mustDo(t, p, post(t, "/", strings.NewReader("hello"))); body != "hello" {
			t.Errorf("got %q", body)
		}
		wantIdle(t, p, 1)
	}
	s.CloseClientConnections()
	eventually(t, func() error {
		if p.idle[0].fit() {
			return errors.New("closed TLS connection still looks fit")
		}
		return nil
	})
}

// The head leaves together with what there is of a body whose length is known, and alone when the client thinks first.
func TestHeadJoinsTheBody(t *testing.T) {
	for _, tt := range []struct {
		name   string
		body   func() io.Reader
		length int64
		writes int
	}{
		{"in memory", func() io.Reader { return strings.NewReader("hello") }, 5, 1},
		{"there at once", func() io.Reader { return io.MultiReader(strings.NewReader("hello")) }, 5, 1},
		{"half there", func() io.Reader { return io.MultiReader(strings.NewReader("he"), strings.NewReader("llo")) }, 5, 2},
		{"late", func() io.Reader { return &slow{wait: 20 * joinWait, r: strings.NewReader("hello")} }, 5, 2},
		{"chunked", func() io.Reader { return io.MultiReader(strings.NewReader("hello")) }, -1, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got *countWrites
			p := service(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
			dial := p.Dial
			p.Dial = func(ctx context.Context) (net.Conn, error) {
				c, err := dial(ctx)
				got = &countWrites{Conn: c}
				return got, err
			}
			req := post(t, "/", tt.body())
			req.ContentLength = tt.length
			if _, body := mustDo(t, p, req); body != "hello" {
				t.Errorf("got %q", body)
			}
			wantIdle(t, p, 1)
			if got.n != tt.writes {
				t.Errorf("took %d writes, want %d", got.n, tt.writes)
			}
		})
	}
}

type slow struct {
	wait time.Duration
	r    io.Reader
}

func (s *slow) Read(p []byte) (int, error) {
	<-time.After(s.wait)
	s.wait = 0
	return s.r.Read(p)
}

type countWrites struct {
	net.Conn
	n int
}

func (c *countWrites) Write(b []byte) (int, error) {
	c.n++
	return c.Conn.Write(b)
}

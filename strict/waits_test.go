package strict

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// told is a connection that counts what it is asked.
type told struct {
	net.Conn
	reads, readDeadlines, writeDeadlines int
}

func (c *told) Read(p []byte) (int, error) {
	c.reads++
	return c.Conn.Read(p)
}

func (c *told) SetReadDeadline(t time.Time) error {
	c.readDeadlines++
	return c.Conn.SetReadDeadline(t)
}

func (c *told) SetWriteDeadline(t time.Time) error {
	c.writeDeadlines++
	return c.Conn.SetWriteDeadline(t)
}

// toldPipe is a Conn over a pipe, and the other end of that.
func toldPipe(t *testing.T) (c *Conn, below *told, client net.Conn) {
	client, nc := net.Pipe()
	below = &told{Conn: nc}
	c = NewConn(below).(*Conn)
	t.Cleanup(func() {
		c.Close()
		client.Close()
	})
	return c, below, client
}

// begin has c read the head of a request, and does for its deadlines what net/http does.
func begin(t *testing.T, c *Conn, client net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Minute))
	go io.WriteString(client, next)
	if n, err := c.Read(make([]byte, 4096)); n != len(next) || err != nil {
		t.Fatalf("read %d bytes of a request, %v", n, err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	c.SetReadDeadline(time.Time{})
}

// byteAlone reads a byte, as net/http does while a handler is at work.
func byteAlone(c net.Conn) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		done <- err
	}()
	return done
}

func TestShortRequestsCostOneRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, below, client := toldPipe(t)
		const requests = 1000
		for range requests {
			begin(t, c, client)
			gone := byteAlone(c)
			synctest.Wait()
			time.Sleep(time.Millisecond) // virtual, as all times here
			c.SetReadDeadline(time.Unix(1, 0))
			if err := <-gone; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the byte alone ended with %v", err)
			}
			c.SetReadDeadline(time.Time{})
			c.SetWriteDeadline(time.Now().Add(time.Minute))
			c.SetWriteDeadline(time.Time{})
		}
		if below.reads != requests || below.readDeadlines > 2 || below.writeDeadlines > 1 {
			t.Errorf("%d requests cost %d reads, %d read deadlines and %d write deadlines, want 1 read each and 3 deadlines in all",
				requests, below.reads, below.readDeadlines, below.writeDeadlines)
		}
	})
}

func TestTheClientsEndIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, client := toldPipe(t)
		for range 3 { // so that the timer was set by another request
			begin(t, c, client)
			gone := byteAlone(c)
			time.Sleep(holdTime * 2 / 5)
			c.SetReadDeadline(time.Unix(1, 0))
			<-gone
		}
		begin(t, c, client)
		began := time.Now()
		gone := byteAlone(c)
		client.Close()
		if err, took := <-gone, time.Since(began); err != io.EOF || took > 2*holdTime {
			t.Errorf("got %v after %v, want EOF within %v", err, took, 2*holdTime)
		}
	})
}

func TestTheNextRequestsFirstByteIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, client := toldPipe(t)
		begin(t, c, client)
		gone := byteAlone(c)
		go io.WriteString(client, next)
		if err := <-gone; err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 4096)); n != len(next)-1 || err != nil {
			t.Errorf("behind the first byte came %d, %v", n, err)
		}
	})
}

func TestDeadlinesHold(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  []time.Duration // one after the other; 0 is none, less is over
		want time.Duration   // 0 is never
	}{
		{"one", []time.Duration{time.Second}, time.Second},
		{"a later one", []time.Duration{10 * time.Second, 5 * time.Minute}, 5 * time.Minute},
		{"an earlier one", []time.Duration{5 * time.Minute, 10 * time.Second}, 10 * time.Second},
		{"none after one", []time.Duration{10 * time.Second, 0}, 0},
		{"one after none", []time.Duration{10 * time.Second, 0, time.Minute}, time.Minute},
		{"one that is over", []time.Duration{10 * time.Second, -1}, -1},
		{"none after one that is over", []time.Duration{-1, 0}, 0},
		{"one after one that is over", []time.Duration{-1, 0, time.Second}, time.Second},
	} {
		for name, do := range map[string]func(c net.Conn) error{
			"Read":  func(c net.Conn) error { _, err := c.Read(make([]byte, 100)); return err },
			"Write": func(c net.Conn) error { _, err := c.Write(make([]byte, 100)); return err },
		} {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, _, client := toldPipe(t)
					began := time.Now()
					for _, d := range tt.set {
						at := began.Add(d)
						if d == 0 {
							at = time.Time{}
						}
						c.SetDeadline(at)
					}
					if tt.want == 0 {
						time.AfterFunc(time.Hour, func() { client.Close() })
					}
					err, took := do(c), time.Since(began)
					switch {
					case tt.want == 0:
						if took != time.Hour || errors.Is(err, os.ErrDeadlineExceeded) {
							t.Errorf("ended with %v after %v, want no time-out", err, took)
						}
					case took != max(tt.want, 0) || !errors.Is(err, os.ErrDeadlineExceeded):
						t.Errorf("ended with %v after %v, want a time-out after %v", err, took, max(tt.want, 0))
					}
				})
			})
		}
	}
}

// What is set while somebody waits is for who waits.
func TestDeadlineEndsWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, _ := toldPipe(t)
		c.SetDeadline(time.Now().Add(time.Minute))
		c.SetDeadline(time.Time{})
		ended := make(chan error, 2)
		go func() { _, err := c.Read(make([]byte, 100)); ended <- err }()
		go func() { _, err := c.Write(make([]byte, 100)); ended <- err }()
		time.Sleep(2 * time.Minute) // past what was told
		synctest.Wait()
		c.SetDeadline(time.Unix(1, 0))
		for range 2 {
			if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("ended with %v", err)
			}
		}
	})
}

func TestWhoTakesOverGetsTheDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, below, _ := toldPipe(t)
		c.SetDeadline(time.Now().Add(time.Second))
		c.SetDeadline(time.Time{})
		c.Hijacked()
		time.Sleep(time.Minute)
		reads, writes := below.readDeadlines, below.writeDeadlines
		if reads != 2 || writes != 2 {
			t.Errorf("%d read and %d write deadlines were told, want 2 and 2", reads, writes)
		}
		c.SetDeadline(time.Now().Add(time.Second))
		c.SetDeadline(time.Now().Add(time.Minute))
		if below.readDeadlines != reads+2 || below.writeDeadlines != writes+2 {
			t.Error("deadlines of who has taken the connection over were kept back")
		}
	})
}

func TestCloseEndsWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, client := toldPipe(t)
		begin(t, c, client)
		gone := byteAlone(c)
		synctest.Wait()
		began := time.Now()
		c.Close()
		if err := <-gone; err == nil || time.Since(began) > 0 {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("read from what is closed")
		}
	})
}

// The whole of it, with net/http: short requests, and one whose client goes.
func TestHandlersLearnThatTheClientIsGone(t *testing.T) {
	ended := make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-r.Context().Done()
			close(ended)
		}
	}))
	srv.Listener = listener{srv.Listener}
	srv.Start()
	defer srv.Close()
	nc, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	const want = "HTTP/1.1 200 OK\r\n"
	for range 100 {
		io.WriteString(nc, next)
		got := make([]byte, 4096)
		if n, err := nc.Read(got); err != nil || string(got[:min(n, len(want))]) != want {
			t.Fatalf("got %q, %v", got[:n], err)
		}
	}
	io.WriteString(nc, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
	nc.Close()
	<-ended
}

// TestDeadlineThatHasPassedIsNotWaitedFor: the handler may be done before net/http's goroutine comes to read.
func TestDeadlineThatHasPassedIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, client := toldPipe(t)
		begin(t, c, client)
		c.SetReadDeadline(time.Unix(1, 0))
		began := time.Now()
		if err := <-byteAlone(c); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > 0 {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}

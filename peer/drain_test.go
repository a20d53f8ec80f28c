package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/fault"
	"piko/relay"
)

// post sends a body and wants it back.
func post(l *Link, ctx context.Context, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://e.example.com/", strings.NewReader(body))
	if err != nil {
		return err
	}
	res, err := l.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err == nil && string(got) != body {
		err = fmt.Errorf("got %d bytes back, want %d", len(got), len(body))
	}
	return err
}

func echo(w http.ResponseWriter, r *http.Request) {
	// Without it net/http ends the request's body when the answer begins.
	http.NewResponseController(w).EnableFullDuplex()
	io.Copy(w, r.Body)
}

func TestDrainUnderLoadLosesNothing(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		for range 3 {
			var g gossip
			a := g.start(t, "a", secure, nil)
			b := g.start(t, "b", secure, echo)
			l, up := connect(t, a, b)
			var done, never atomic.Int64
			drained := make(chan struct{})
			var callers sync.WaitGroup
			for i := range 64 {
				callers.Go(func() {
					body := strings.Repeat("x", 1+i*100)
					for over := false; !over; {
						select {
						case <-drained:
							over = true // once more, to see that it is refused
						default:
						}
						switch err := post(l, t.Context(), body); {
						case err == nil:
							done.Add(1)
						case relay.NeverExecuted(err):
							never.Add(1)
							runtime.Gosched() // a caller would go elsewhere
						default:
							t.Errorf("request lost: %v", err)
						}
					}
				})
			}
			eventually(t, func() error {
				if done.Load() < 500 {
					return errors.New("500 requests are not done")
				}
				return nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			b.Drain(ctx)
			if ctx.Err() != nil {
				t.Error("the drain did not come to an end")
			}
			b.Close(ctx)
			cancel()
			close(drained)
			callers.Wait()
			up.await(t, false)
			if n := b.inSessions(); n != 0 {
				t.Errorf("%d sessions are left at the end", n)
			}
			t.Logf("%d done, %d never executed", done.Load(), never.Load())
		}
	})
}

func TestDrainWaitsForWhatIsUnderWay(t *testing.T) {
	var g gossip
	arrived, release := make(chan struct{}), make(chan struct{})
	a := g.start(t, "a", false, nil)
	b := g.start(t, "b", false, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		io.WriteString(w, "late")
	})
	l, up := connect(t, a, b)
	answer := make(chan error, 1)
	go func() {
		res, err := l.RoundTrip(request(t, "GET", "/"))
		if err == nil {
			var body []byte
			if body, err = io.ReadAll(res.Body); err == nil && string(body) != "late" {
				err = fmt.Errorf("answer %q", body)
			}
		}
		answer <- err
	}()
	<-arrived
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	b.Drain(short)
	if short.Err() == nil {
		t.Error("Drain returned while a request was under way")
	}
	select {
	case <-b.Draining():
	default:
		t.Error("Draining does not say so")
	}
	up.await(t, false)
	if _, err := l.RoundTrip(request(t, "GET", "/")); !relay.NeverExecuted(err) || !errors.Is(err, fault.UpstreamUnreachable) {
		t.Errorf("a request after the drain began: %v", err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		b.Drain(t.Context())
	}()
	close(release)
	if err := <-answer; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	<-drained
}

// The last bytes of an upgraded connection, whose caller has ended its side, are
// not lost to the end of the session that follows them.
func TestDrainDeliversTheLastBytes(t *testing.T) {
	var g gossip
	a := g.start(t, "a", false, nil)
	release := make(chan struct{})
	b := g.start(t, "b", false, func(w http.ResponseWriter, r *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n")
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
			t.Errorf("the far side read %q, %v", got, err)
		}
		<-release
		c.Write(make([]byte, 100<<10))
		c.(interface{ CloseWrite() error }).CloseWrite()
	})
	l, _ := connect(t, a, b)
	req := request(t, "GET", "/")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "test")
	res, err := l.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	c := res.Body.(interface {
		io.ReadWriteCloser
		CloseWrite() error
	})
	defer c.Close()
	io.WriteString(c, "hello")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		b.Drain(t.Context())
	}()
	close(release)
	if n, err := io.Copy(io.Discard, c); n != 100<<10 || err != nil {
		t.Errorf("%d bytes arrived, %v", n, err)
	}
	c.Close()
	<-drained
}

var _ net.Conn = (*stream)(nil)

package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// A burst goes over as many connections as the service's limit asks for; nothing is refused, and no dial is wasted.
func TestHTTP2RespectsTheLimit(t *testing.T) {
	release := make(chan struct{})
	var mu sync.Mutex
	most, now := 0, 0
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		<-release
		mu.Lock()
		now--
		mu.Unlock()
	}, func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 10} })
	p.MaxConns = 3
	dials := 0
	dial := p.Dial
	p.Dial = func(ctx context.Context) (net.Conn, error) { dials++; return dial(ctx) }
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			res, err := p.RoundTrip(get(t, "/"))
			if err != nil {
				t.Error(err)
				return
			}
			res.Body.Close()
		})
	}
	eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		if now < 30 {
			return fmt.Errorf("%d requests are with the service", now)
		}
		return nil
	})
	close(release)
	wg.Wait()
	if most != 30 || dials != 3 {
		t.Errorf("%d at once with %d dials, want 30 with 3", most, dials)
	}
}

// A service that goes away answers what it has; the next request takes another connection, and none fails.
func TestHTTP2GoAway(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			began <- struct{}{}
			<-release
		}
		if r.URL.Path == "/close" {
			w.Header().Set("Connection", "close") // makes net/http send a GOAWAY
		}
		io.WriteString(w, "ok")
	})
	var wg sync.WaitGroup
	wg.Go(func() { read(t, p, get(t, "/slow")) })
	<-began
	first := p.list()[0]
	read(t, p, get(t, "/close"))
	for range 10 {
		read(t, p, get(t, "/"))
	}
	eventually(t, func() error {
		if list := p.list(); len(list) == 1 && list[0] == first {
			return errors.New("the connection was not replaced")
		}
		return nil
	})
	close(release)
	wg.Wait()
	eventually(t, func() error {
		if first.cc.Err() == nil {
			return errors.New("the connection that was left is still open")
		}
		return nil
	})
}

func TestHTTP2IdleConnectionsExpire(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {})
	p.IdleTimeout = 50 * time.Millisecond
	read(t, p, get(t, "/"))
	eventually(t, func() error {
		if n := len(p.list()); n > 0 {
			return fmt.Errorf("%d connections are left", n)
		}
		return nil
	})
	read(t, p, get(t, "/"))
}

func TestHTTP2ClosedPool(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-release
		io.WriteString(w, "whole")
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, body := read(t, p, get(t, "/")); body != "whole" {
			t.Errorf("got %q", body)
		}
	})
	<-began
	c := p.list()[0]
	p.Close()
	if _, err := p.RoundTrip(get(t, "/")); !errors.Is(err, ErrPoolClosed) || !NeverExecuted(err) {
		t.Errorf("got %v", err)
	}
	close(release)
	wg.Wait()
	eventually(t, func() error {
		if c.cc.Err() == nil {
			return errors.New("the connection is still open")
		}
		return nil
	})
}

func TestHTTP2DialFails(t *testing.T) {
	refused := errors.New("refused")
	p := &HTTP2Pool{Dial: func(context.Context) (net.Conn, error) { return nil, refused }}
	body := &closeCounter{Reader: strings.NewReader("x")}
	_, err := p.RoundTrip(post(t, "/", body))
	if !errors.Is(err, refused) || !NeverExecuted(err) || body.closed != 1 {
		t.Errorf("got %v; never executed: %v; body closed %d times", err, NeverExecuted(err), body.closed)
	}
}

func TestHTTP2Probe(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {})
	if err := p.Probe(t.Context()); err != nil || len(p.list()) != 1 {
		t.Errorf("service with HTTP/2: %v, %d connections", err, len(p.list()))
	}
	wantQuiet(t, p)
	old := httptest.NewServer(http.NotFoundHandler())
	defer old.Close()
	if err := newPool2(t, old.Listener.Addr().String()).Probe(t.Context()); !errors.Is(err, ErrNotHTTP2) {
		t.Errorf("service without: %v", err)
	}
	old.Close()
	if err := newPool2(t, old.Listener.Addr().String()).Probe(t.Context()); err == nil || errors.Is(err, ErrNotHTTP2) {
		t.Errorf("no service: %v", err)
	}
}

// Calls that are given up, at any moment, leave nothing behind: neither a stream nor, as TestMain sees, a goroutine.
func TestHTTP2AbortedCalls(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		buf := make([]byte, 1000)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 50 {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Duration(worker*50+i)*10*time.Microsecond, cancel)
				if res, err := p.RoundTrip(post(t, "/", zeros{}).WithContext(ctx)); err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	wantQuiet(t, p)
	if _, body := read(t, p, post(t, "/", strings.NewReader("hello"))); body != "hello" {
		t.Errorf("got %q after all that", body)
	}
}

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// leftCall is one call that its client leaves.
type leftCall struct {
	arrived chan struct{}  // closed when the service has it, and all of its directions have been used
	noticed chan time.Time // has, once, when the service was told that the client has gone
	once    sync.Once      // of arrived
}

func (c *leftCall) arrive() { c.once.Do(func() { close(c.arrived) }) }

// leftService is a service whose clients leave it. It serves HTTP and, by its listen, TCP.
type leftService struct {
	open atomic.Int32 // calls that it has

	// Guarded by mu.
	mu     sync.Mutex
	number int
	calls  map[string]*leftCall
}

// expect returns a new call, with the name by which the service knows it.
func (s *leftService) expect() (*leftCall, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	id := fmt.Sprint(s.number)
	c := &leftCall{arrived: make(chan struct{}), noticed: make(chan time.Time, 1)}
	if s.calls == nil {
		s.calls = map[string]*leftCall{}
	}
	s.calls[id] = c
	return c, id
}

// take is nil for a call that is not expected, or not any more.
func (s *leftService) take(id string) *leftCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls[id]
	delete(s.calls, id)
	return c
}

// ServeHTTP serves a call of one kind, its path, until its client has left. A call that
// ends as if its client had not left does not count as noticed.
func (s *leftService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := s.take(r.FormValue("id"))
	if c == nil {
		http.Error(w, "that is no call of this test, or it came twice", http.StatusConflict)
		return
	}
	s.open.Add(1)
	defer s.open.Add(-1)
	serve := map[string]func(*leftCall, http.ResponseWriter, *http.Request) error{
		"/wait": waitUntilLeft, "/upload": readUntilLeft, "/download": writeUntilLeft, "/call": talkUntilLeft, "/socket": socketUntilLeft,
	}[r.URL.Path]
	if err := serve(c, w, r); err != nil {
		c.noticed <- time.Now()
		panic(http.ErrAbortHandler)
	}
}

func waitUntilLeft(c *leftCall, w http.ResponseWriter, r *http.Request) error {
	c.arrive()
	<-r.Context().Done()
	return context.Cause(r.Context())
}

func readUntilLeft(c *leftCall, w http.ResponseWriter, r *http.Request) error {
	if _, err := r.Body.Read(make([]byte, 1)); err != nil {
		return nil
	}
	c.arrive()
	_, err := io.Copy(io.Discard, r.Body)
	return err
}

func writeUntilLeft(c *leftCall, w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("X-Endless", "yes")
	if err := http.NewResponseController(w).Flush(); err != nil {
		return nil
	}
	c.arrive()
	_, err := io.Copy(w, &generator{})
	return err
}

func talkUntilLeft(c *leftCall, w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	lines := bufio.NewReader(r.Body)
	line, err := lines.ReadString('\n')
	if err != nil {
		return nil
	}
	io.WriteString(w, line)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return nil
	}
	c.arrive()
	if _, err = lines.ReadString('\n'); err == io.EOF {
		return nil // that is how a client ends its side in order
	}
	return err
}

func socketUntilLeft(c *leftCall, w http.ResponseWriter, r *http.Request) error {
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return nil
	}
	defer ws.Close()
	c.arrive()
	_, _, err = ws.ReadMessage()
	return err
}

// serveTCP serves one connection, whose first line says which call it is.
func (s *leftService) serveTCP(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewReader(conn)
	id, err := lines.ReadString('\n')
	c := s.take(strings.TrimSpace(id))
	if err != nil || c == nil {
		return
	}
	s.open.Add(1)
	defer s.open.Add(-1)
	io.WriteString(conn, "hello\n")
	c.arrive()
	lines.ReadByte()
	c.noticed <- time.Now()
}

// accept serves the connections of a listener until it is closed, and waits for them.
func (s *leftService) accept(l net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			wg.Go(func() { s.serveTCP(conn) })
		}
	}
}

// listenHTTP serves HTTP/1.1 and h2c on a port of its own.
func (s *leftService) listenHTTP(t testing.TB) string {
	srv := httptest.NewUnstartedServer(s)
	srv.Config.Protocols = bothVersions()
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.Listener.Addr().String()
}

// listenTCP serves TCP on a port of its own.
func (s *leftService) listenTCP(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.accept(l) })
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// The headers by which the clients of a chaos run and the services behind it know each other.
const (
	headerID       = "X-Test-Id"       // of the request
	headerSize     = "X-Test-Size"     // of the answer, in bytes
	headerTime     = "X-Test-Time"     // how long the service takes over the answer
	headerService  = "X-Test-Service"  // who answers
	headerEndpoint = "X-Test-Endpoint" // on which endpoint
)

// ledger is what the services of a run know of its requests. Safe for concurrent use.
type ledger struct {
	// Guarded by mu.
	mu         sync.Mutex
	executions []execution
	busy       int // how many of them go on
}

// begin notes that a request has arrived; the result is for the methods below.
func (l *ledger) begin(e execution) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy++
	l.executions = append(l.executions, e)
	return len(l.executions) - 1
}

// received notes the checksum of a whole body, answered that of a whole answer.
func (l *ledger) received(i int, sum string) { l.change(i, func(e *execution) { e.Received = sum }) }
func (l *ledger) answered(i int, sum string) { l.change(i, func(e *execution) { e.Answer = sum }) }

func (l *ledger) change(i int, f func(*execution)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.executions[i])
}

// end notes that a service is done with a request, well or not.
func (l *ledger) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
}

// all returns what there is when the services are done, which is a little later than their
// clients are.
func (l *ledger) all(t testing.TB) []execution {
	t.Helper()
	eventually(t, 20*time.Second, "the services are done", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.busy > 0 {
			return fmt.Errorf("%d requests go on", l.busy)
		}
		return nil
	})
	return l.executions
}

// service is what stands behind one listener of one agent; it writes what it does into the
// ledger. It outlives the agent.
type service struct {
	// Static after construction.
	name, endpoint string
	ledger         *ledger
	addr           string
}

// startService starts a service on a listener, which the test closes at its end.
func startService(t testing.TB, l net.Listener, name, endpoint string, to *ledger) *service {
	t.Helper()
	s := &service{name: name, endpoint: endpoint, ledger: to, addr: l.Addr().String()}
	srv := &http.Server{Handler: s}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	t.Cleanup(func() {
		srv.Close()
		wg.Wait()
	})
	return s
}

// ServeHTTP answers by the path, which is a kind of request.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == "PRI" { // an agent asks whether this is HTTP/2: no client's request
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	k := kind(r.URL.Path[1:])
	i := s.ledger.begin(execution{ID: r.Header.Get(headerID), Kind: k, Service: s.name, Endpoint: s.endpoint, At: time.Now()})
	defer s.ledger.end()
	w.Header().Set(headerService, s.name)
	w.Header().Set(headerEndpoint, s.endpoint)
	takes, _ := time.ParseDuration(r.Header.Get(headerTime))
	size, _ := strconv.Atoi(r.Header.Get(headerSize))
	a := &answer{w: w, r: r, hash: sha256.New(), takes: takes, size: size, stamp: s.name + " " + s.endpoint + " " + r.Header.Get(headerID)}
	var err error
	switch k {
	case kindGet:
		err = a.plain()
	case kindPost:
		err = s.post(i, a)
	case kindEvents:
		err = a.events()
	case kindDownload:
		err = a.download()
	case kindWebSocket:
		_ = a.webSocket(func() { s.ledger.answered(i, a.sum()) }) // it ends with an error, how ever it ends
		return
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s.ledger.answered(i, a.sum())
}

// post reads a body before it answers.
func (s *service) post(i int, a *answer) error {
	h := sha256.New()
	if _, err := io.Copy(h, a.r.Body); err != nil {
		return err
	}
	s.ledger.received(i, hex.EncodeToString(h.Sum(nil)))
	a.stamp += " " + hex.EncodeToString(h.Sum(nil))
	return a.plain()
}

// answer is one answer of a service on its way. No two have the same bytes.
type answer struct {
	w     http.ResponseWriter
	r     *http.Request
	hash  hash.Hash // of what was written
	takes time.Duration
	size  int
	stamp string
	bytes *generator // of fill; nil before it
}

func (a *answer) sum() string { return hex.EncodeToString(a.hash.Sum(nil)) }

func (a *answer) write(b []byte) error {
	a.hash.Write(b)
	_, err := a.w.Write(b)
	return err
}

// pause waits, and fails when the client has gone.
func (a *answer) pause(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-a.r.Context().Done():
		return a.r.Context().Err()
	}
}

// plain waits and then answers at once. Half of the answers have no length.
func (a *answer) plain() error {
	if err := a.pause(a.takes); err != nil {
		return err
	}
	if a.size%2 == 0 {
		a.w.Header().Set("Content-Length", strconv.Itoa(len(a.stamp)+a.size))
	}
	if err := a.write([]byte(a.stamp)); err != nil {
		return err
	}
	return a.fill(a.size)
}

// fill writes the next n of the bytes that belong to the stamp.
func (a *answer) fill(n int) error {
	if a.bytes == nil {
		sum := sha256.Sum256([]byte(a.stamp))
		a.bytes = &generator{at: binary.LittleEndian.Uint64(sum[:]) &^ 7}
	}
	b := make([]byte, n)
	io.ReadFull(a.bytes, b)
	return a.write(b)
}

// interval is the time between two parts of a stream.
const interval = 100 * time.Millisecond

// parts calls write for each part of a stream that takes as long as was asked for.
func (a *answer) parts(write func(i, of int) error) error {
	n := max(1, int(a.takes/interval))
	for i := range n {
		if i > 0 { // whoever has the last part may go
			if err := a.pause(interval); err != nil {
				return err
			}
		}
		if err := write(i, n); err != nil {
			return err
		}
		if err := http.NewResponseController(a.w).Flush(); err != nil {
			return err
		}
	}
	return nil
}

func (a *answer) events() error {
	a.w.Header().Set("Content-Type", "text/event-stream")
	return a.parts(func(i, of int) error {
		return a.write(fmt.Appendf(nil, "id: %d\ndata: %s of %d\n\n", i, a.stamp, of))
	})
}

// download sends size bytes of known length, evenly over the time.
func (a *answer) download() error {
	a.w.Header().Set("Content-Length", strconv.Itoa(a.size))
	return a.parts(func(i, of int) error { return a.fill(a.size*(i+1)/of - a.size*i/of) })
}

// webSocket sends each message back with its stamp until the client closes; closing is
// called before the client can see that it is done.
func (a *answer) webSocket(closing func()) error {
	stamps := http.Header{headerService: a.w.Header()[headerService], headerEndpoint: a.w.Header()[headerEndpoint]}
	c, err := (&websocket.Upgrader{}).Upgrade(a.w, a.r, stamps)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetCloseHandler(func(code int, text string) error {
		closing()
		return c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
	})
	for {
		_, message, err := c.ReadMessage()
		if err != nil {
			return err
		}
		message = append(message, a.stamp...)
		a.hash.Write(message)
		if err := c.WriteMessage(websocket.TextMessage, message); err != nil {
			return err
		}
	}
}

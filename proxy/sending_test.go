package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"piko/relay"
	"piko/router"
)

// deafBubble is a proxy port in virtual time, with a service for "e".
type deafBubble struct {
	t     *testing.T
	ln    *memListener
	start time.Time
	over  chan struct{} // closed when the test is
}

// withService runs a test in a bubble. serve is the service, directly behind the node or behind another one.
func withService(t *testing.T, how way, opt Options, serve func(b *deafBubble, c net.Conn), test func(b *deafBubble)) {
	runtime.GC() // alarms are pooled, and may not cross into a bubble
	runtime.GC()
	defer runtime.GC()
	defer runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		b := &deafBubble{t: t, ln: newMemListener(), start: time.Now(), over: make(chan struct{})}
		table := router.NewTable()
		opt.Lookup = table.Lookup
		p, err := NewPublic(opt)
		if err != nil {
			t.Fatal(err)
		}
		var services, serving sync.WaitGroup
		pool := &relay.Pool{Dial: func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			services.Go(func() {
				defer far.Close()
				serve(b, far)
			})
			return near, nil
		}}
		service := router.NewLocal(upstream{pool})
		defer func() {
			synctest.Wait()
			if n := service.InFlight(); n != 0 {
				t.Errorf("%d requests are still in flight", n)
			}
		}()
		var stop []func()
		listen := func(ln *memListener, h http.Handler) {
			s := &http.Server{Handler: h, ErrorLog: log.New(noPanics{t}, "", 0), Protocols: new(http.Protocols)}
			s.Protocols.SetHTTP1(true)
			s.Protocols.SetUnencryptedHTTP2(true)
			serving.Go(func() { s.Serve(ln) })
			stop = append(stop, func() { s.Close() })
		}
		listen(b.ln, p)
		if how == noHop {
			defer table.Add("e", service)()
		} else {
			owned, ln := router.NewTable(), newMemListener()
			defer owned.Add("e", service)()
			peer, err := NewPeer(PeerOptions{Lookup: owned.Lookup})
			if err != nil {
				t.Fatal(err)
			}
			listen(ln, peer)
			link := &relay.Pool{Dial: ln.dial}
			stop = append(stop, link.Close)
			table.SetNode(router.NewNode("owner", func(e string) router.Upstream { return NewRemote(link, e) }), map[string]int{"e": 100})
		}
		test(b)
		close(b.over)
		for _, f := range stop {
			f()
		}
		serving.Wait()
		pool.Close()
		services.Wait()
		time.Sleep(time.Second) // net/http lingers
	})
}

// between fails the test unless that is how long it took.
func (b *deafBubble) between(what string, least, most time.Duration) {
	b.t.Helper()
	if got := time.Since(b.start); got < least || got > most {
		b.t.Errorf("%s after %v, want %v to %v", what, got, least, most)
	}
}

// post sends a request with a body. The kind is also its content type.
func (b *deafBubble) post(http2 bool, kind string, length int64, body io.Reader) (*http.Response, error) {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return b.ln.dial(ctx) }, Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	b.t.Cleanup(tr.CloseIdleConnections)
	req, _ := http.NewRequestWithContext(b.t.Context(), "POST", "http://e.x/", body)
	req.ContentLength = length
	req.Header.Set("Content-Type", kind)
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	all, err := io.ReadAll(res.Body)
	res.Body.Close()
	tr.CloseIdleConnections()
	res.Body = io.NopCloser(strings.NewReader(string(all)))
	return res, err
}

// deaf is a service that takes connections and reads nothing.
func deaf(b *deafBubble, _ net.Conn) { <-b.over }

// A request of which nobody takes anything ends in time, whatever it is: the body, or no more than its head.
func TestServiceThatNeverReads(t *testing.T) {
	const size = 4 << 20
	zeros := func() io.Reader { return io.LimitReader(zeros{}, size) }
	post := func(http2 bool, kind string, length int64, body func() io.Reader) func(b *deafBubble) (*http.Response, error) {
		return func(b *deafBubble) (*http.Response, error) { return b.post(http2, kind, length, body()) }
	}
	const soon, late = defaultTimeout, defaultProgressTimeout
	for _, test := range []struct {
		name  string
		ask   func(b *deafBubble) (*http.Response, error)
		limit time.Duration
		hop   time.Duration // the limit when the node is rid of it, and the next one has it
	}{
		{"no body", post(false, "text/plain", 0, func() io.Reader { return nil }), soon, soon},
		{"length", post(false, "text/plain", size, zeros), late, late},
		{"short", post(false, "text/plain", 3, func() io.Reader { return strings.NewReader("abc") }), late, soon},
		{"chunked", post(false, "text/plain", -1, zeros), late, late},
		{"HTTP/2", post(true, "text/plain", -1, zeros), late, late},
		{"gRPC", post(true, "application/grpc", -1, zeros), late, late},
		{"upgrade", func(b *deafBubble) (*http.Response, error) {
			c, err := b.ln.dial(b.t.Context())
			if err != nil {
				return nil, err
			}
			defer c.Close()
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: e.x\r\nConnection: Upgrade\r\nUpgrade: thing\r\n\r\n")
			return http.ReadResponse(bufio.NewReader(c), nil)
		}, late, 0},
	} {
		for how, limit := range map[way]time.Duration{noHop: test.limit, oneOwner: test.hop, laneOwner: test.hop} {
			if limit == 0 {
				continue
			}
			t.Run(test.name+"/"+string(how), func(t *testing.T) {
				withService(t, how, Options{}, deaf, func(b *deafBubble) {
					res, err := test.ask(b)
					if err != nil {
						t.Fatal(err)
					}
					b.between("the answer came", limit, limit*5/4)
					if test.name == "gRPC" {
						if got := res.Header.Get("Grpc-Status"); got != "4" {
							t.Errorf("grpc-status %q, want 4 in %+v", got, res)
						}
					} else if res.StatusCode != 504 || res.Header.Get("X-Piko-Error") != "upstream-timeout" {
						t.Errorf("got %+v", res)
					}
				})
			})
		}
	}
}

// A response that has begun breaks off when nothing more of the request is taken: its client must not wait for ever.
func TestServiceThatAnswersAndNeverReads(t *testing.T) {
	for _, how := range []way{noHop, oneOwner, laneOwner} {
		t.Run(string(how), func(t *testing.T) {
			answers := func(b *deafBubble, c net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReaderSize(c, 16)); err == nil {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
				}
				<-b.over
			}
			withService(t, how, Options{}, answers, func(b *deafBubble) {
				res, err := b.post(true, "text/plain", -1, zeros{})
				if err == nil || res == nil || res.StatusCode != 200 {
					t.Errorf("got %+v, %v; want a response that breaks off", res, err)
				}
				b.between("the end came", defaultProgressTimeout, defaultProgressTimeout*5/4)
			})
		})
	}
}

// slowly gives a byte in each pause, so many times.
type slowly struct {
	left  int
	pause time.Duration
}

func (s *slowly) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	s.left--
	time.Sleep(s.pause)
	p[0] = 'x'
	return 1, nil
}

// What waits for the client, or is taken little by little, is not cut off.
func TestSlowUploadsThatMove(t *testing.T) {
	patient := func(pause time.Duration) func(b *deafBubble, c net.Conn) {
		return func(b *deafBubble, c net.Conn) {
			r := bufio.NewReaderSize(c, 64<<10)
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			buf := make([]byte, 64<<10)
			for err == nil {
				_, err = io.ReadFull(req.Body, buf)
				time.Sleep(pause)
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
			<-b.over
		}
	}
	for _, test := range []struct {
		name  string
		kind  string
		body  func() io.Reader
		pause time.Duration
		least time.Duration
	}{
		{"client pauses", "text/plain", func() io.Reader { return &slowly{3, 4 * time.Hour} }, 0, 12 * time.Hour},
		{"gRPC client pauses", "application/grpc", func() io.Reader { return &slowly{3, 4 * time.Hour} }, 0, 12 * time.Hour},
		{"service takes its time", "text/plain", func() io.Reader { return io.LimitReader(zeros{}, 1<<20) }, defaultProgressTimeout * 3 / 4, time.Hour},
	} {
		for _, how := range []way{noHop, oneOwner, laneOwner} {
			for _, http2 := range []bool{false, true} {
				t.Run(fmt.Sprint(test.name, "/", how, "/HTTP2=", http2), func(t *testing.T) {
					withService(t, how, Options{Timeout: -1}, patient(test.pause), func(b *deafBubble) {
						res, err := b.post(http2, test.kind, -1, test.body())
						if err != nil || res.StatusCode != 200 {
							t.Fatalf("got %+v, %v", res, err)
						}
						b.between("the answer came", test.least, 24*time.Hour)
					})
				})
			}
		}
	}
}

// places is a relay.Buffers of so many bytes.
type places struct {
	mu         sync.Mutex
	left, used int
}

func (p *places) taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

func (p *places) Reserve(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > p.left {
		return false
	}
	p.left -= n
	p.used += n
	return true
}

func (p *places) Release(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left += n
	p.used -= n
}

// What net/http holds of uploads over HTTP/2 that nobody takes is bounded: those for which there is no room end at once. Over
// HTTP/1 nothing is held.
func TestUploadsThatNobodyTakesAreBounded(t *testing.T) {
	for _, how := range []way{noHop, oneOwner, laneOwner} {
		t.Run(string(how), func(t *testing.T) {
			room := &places{left: 3*uploadWindow - 1}
			withService(t, how, Options{Held: room}, deaf, func(b *deafBubble) {
				type answer struct {
					status int
					after  time.Duration
				}
				answers := make(chan answer)
				ask := func(http2 bool, length int64) {
					go func() {
						res, err := b.post(http2, "text/plain", length, io.LimitReader(zeros{}, max(length, 4<<20)))
						if err != nil {
							t.Error(err)
							answers <- answer{}
							return
						}
						answers <- answer{res.StatusCode, time.Since(b.start)}
					}()
				}
				for range 4 {
					ask(true, -1)
				}
				ask(false, -1)
				for range 2 {
					if a := <-answers; a.status != 503 || a.after > 3*lookEvery {
						t.Errorf("one for which there is no room: %+v", a)
					}
				}
				synctest.Wait()
				if room.taken() != 2*uploadWindow {
					t.Errorf("%d bytes are reserved", room.taken())
				}
				for range 3 {
					if a := <-answers; a.status != 504 || a.after < defaultProgressTimeout {
						t.Errorf("one for which there is room: %+v", a)
					}
				}
				synctest.Wait()
				if room.taken() != 0 {
					t.Errorf("at the end %d bytes are reserved", room.taken())
				}
			})
		})
	}
}

// An upload that moves again gives back what was reserved for it while it did not.
func TestUploadThatMovesAgainIsNotHeld(t *testing.T) {
	room := &places{left: uploadWindow}
	pauses := func(b *deafBubble, c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		for range 3 {
			time.Sleep(time.Minute)
			if room.taken() == 0 {
				t.Error("nothing is reserved while the service takes nothing")
			}
			io.CopyN(io.Discard, req.Body, 1<<20)
			synctest.Wait()
		}
		io.Copy(io.Discard, req.Body)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		<-b.over
	}
	withService(t, noHop, Options{Held: room}, pauses, func(b *deafBubble) {
		if res, err := b.post(true, "text/plain", -1, io.LimitReader(zeros{}, 4<<20)); err != nil || res.StatusCode != 200 {
			t.Fatalf("got %+v, %v", res, err)
		}
		synctest.Wait()
		if room.taken() != 0 {
			t.Errorf("at the end %d bytes are reserved", room.taken())
		}
	})
}

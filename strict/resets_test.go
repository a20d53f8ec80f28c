package strict

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// testResets is few, for the real number takes long to reach; testBurst is what may be at once.
const (
	testResets = 20
	testBurst  = resetBurst * testResets
)

func TestResetsAreForgiven(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, tt := range []struct {
		name  string
		every time.Duration // between requests
		rapid func(i int) bool
		want  int // the request at which it is enough, of 10,000; 0 is never
	}{
		{"all at once", 0, func(int) bool { return true }, testBurst + 1},
		{"a thousand a second", time.Millisecond, func(int) bool { return true }, 205},
		{"ten a second", 100 * time.Millisecond, func(int) bool { return true }, 0},
		{"every other one", 0, func(i int) bool { return i%2 == 1 }, 0},
		{"two of three", 0, func(i int) bool { return i%3 != 0 }, 599},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, got := &resets{perSecond: testResets}, 0
			for i := 1; i <= 10000 && got == 0; i++ {
				if s.note(start.Add(time.Duration(i)*tt.every), tt.rapid(i)) {
					got = i
				}
			}
			if got < tt.want-1 || got > tt.want+1 {
				t.Errorf("enough at request %d, want %d", got, tt.want)
			}
		})
	}
}

// newH2 is a server of HTTP/2 with prior knowledge, and a client that writes frames.
func newH2(t *testing.T, h http.HandlerFunc) *http2.Framer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: Calm(h), Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	srv.ConnContext = func(ctx context.Context, _ net.Conn) context.Context { return CountResets(ctx, testResets) }
	go srv.Serve(listener{ln})
	t.Cleanup(func() { srv.Close() })
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(nc, http2.ClientPreface)
	fr := http2.NewFramer(nc, nc)
	fr.WriteSettings()
	return fr
}

// block is the head of a request.
func block(more ...hpack.HeaderField) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/"}}, more...) {
		enc.WriteField(f)
	}
	return b.Bytes()
}

// Who resets each request at once is sent away after a few hundred, whatever the handler does then; what is under way ends
// in order.
func TestRapidResetsEndTheConnection(t *testing.T) {
	for name, leave := range map[string]func(){"return": func() {}, "panic": func() { panic(http.ErrAbortHandler) }} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int64
			first, answer := make(chan struct{}), make(chan struct{})
			fr := newH2(t, func(w http.ResponseWriter, r *http.Request) {
				if calls.Add(1) == 1 {
					close(first)
					<-answer
					io.WriteString(w, "answer")
					return
				}
				<-r.Context().Done()
				leave()
			})
			request := func(id uint32) error {
				return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(), EndHeaders: true, EndStream: true})
			}
			if err := request(1); err != nil {
				t.Fatal(err)
			}
			<-first
			away, body := make(chan struct{}), make(chan string, 1)
			go readFrames(fr, away, body)
			sent := 0
			for id := uint32(3); !isClosed(away); id += 2 {
				if request(id) != nil || fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
					break
				}
				if sent++; sent > 100000 {
					t.Fatal("100,000 requests were reset, and the connection goes on")
				}
			}
			<-away
			close(answer)
			if got := <-body; got != "answer" {
				t.Errorf("the request under way got %q", got)
			}
			if n := calls.Load(); n > 4*int64(testBurst) {
				t.Errorf("%d requests reached the handler", n)
			}
		})
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// readFrames closes away at GOAWAY, and gives the body of stream 1.
func readFrames(fr *http2.Framer, away chan struct{}, body chan string) {
	got := ""
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			body <- got
			return
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			if !isClosed(away) {
				close(away)
			}
		case *http2.DataFrame:
			if f.StreamID == 1 {
				got += string(f.Data())
			}
		}
	}
}

// Clients that get what they ask for may reset as much again.
func TestResetsBesideAnswersEndNothing(t *testing.T) {
	ended := make(chan struct{}, 1)
	fr := newH2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-wait") != "" {
			<-r.Context().Done()
			ended <- struct{}{}
		}
	})
	waiting := block(hpack.HeaderField{Name: "x-wait", Value: "1", Sensitive: true})
	for i := range uint32(3 * testBurst) {
		id := 4*i + 1
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: waiting, EndHeaders: true, EndStream: true})
		fr.WriteRSTStream(id, http2.ErrCodeCancel)
		<-ended
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id + 2, BlockFragment: block(), EndHeaders: true, EndStream: true})
		for answered := false; !answered; {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatalf("request %d: %v", id, err)
			}
			if _, away := f.(*http2.GoAwayFrame); away {
				t.Fatalf("sent away at request %d", id)
			}
			answered = f.Header().StreamID == id+2 && f.Header().Flags.Has(http2.FlagDataEndStream)
		}
	}
}

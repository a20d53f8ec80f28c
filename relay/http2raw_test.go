package relay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawFrames is a service's side of an HTTP/2 connection, frame by frame.
type rawFrames struct {
	t  *testing.T
	nc net.Conn
	*http2.Framer
	header bytes.Buffer
	enc    *hpack.Encoder
}

// rawService2 is a service that does what serve does with each connection, after the prefaces.
func rawService2(t *testing.T, serve func(f *rawFrames)) *HTTP2Pool {
	p := rawService(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := io.ReadFull(r, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f := &rawFrames{t: t, nc: c, Framer: http2.NewFramer(c, r)}
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		f.enc = hpack.NewEncoder(&f.header)
		f.WriteSettings()
		serve(f)
	})
	p2 := &HTTP2Pool{Dial: p.Dial}
	t.Cleanup(p2.Close)
	return p2
}

// request reads up to the next request's head.
func (f *rawFrames) request() (stream uint32, ok bool) {
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return 0, false
		}
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			return fr.StreamID, true
		case *http2.PingFrame:
			if !fr.IsAck() {
				f.WritePing(true, fr.Data)
			}
		}
	}
}

// answer writes the head of a response or trailers.
func (f *rawFrames) answer(stream uint32, end bool, fields ...string) {
	f.answerOn(f.Framer, stream, end, fields...)
}

func (f *rawFrames) answerOn(out *http2.Framer, stream uint32, end bool, fields ...string) {
	f.header.Reset()
	for i := 0; i < len(fields); i += 2 {
		f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	out.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.header.Bytes(), EndHeaders: true, EndStream: end})
}

// What may be tried elsewhere, and what may not.
func TestHTTP2NeverExecuted(t *testing.T) {
	for name, tt := range map[string]struct {
		serve            func(f *rawFrames, stream uint32)
		never, responded bool
		protocol         bool
	}{
		"refused":          {serve: func(f *rawFrames, s uint32) { f.WriteRSTStream(s, http2.ErrCodeRefusedStream) }, never: true},
		"cancelled":        {serve: func(f *rawFrames, s uint32) { f.WriteRSTStream(s, http2.ErrCodeCancel) }},
		"internal error":   {serve: func(f *rawFrames, s uint32) { f.WriteRSTStream(s, http2.ErrCodeInternal) }},
		"goes away before": {serve: func(f *rawFrames, s uint32) { f.WriteGoAway(s-1, http2.ErrCodeNo, nil) }, never: true},
		"goes away after":  {serve: func(f *rawFrames, s uint32) { f.WriteGoAway(s, http2.ErrCodeNo, nil); f.nc.Close() }},
		"is gone":          {serve: func(f *rawFrames, s uint32) { f.nc.Close() }},
		"gone after a 103": {serve: func(f *rawFrames, s uint32) { f.answer(s, false, ":status", "103"); f.nc.Close() }, responded: true},
		"speaks of 101":    {serve: func(f *rawFrames, s uint32) { f.answer(s, false, ":status", "101") }, responded: true, protocol: true},
		"status 42":        {serve: func(f *rawFrames, s uint32) { f.answer(s, true, ":status", "42") }, responded: true, protocol: true},
		"status 1000":      {serve: func(f *rawFrames, s uint32) { f.answer(s, false, ":status", "1000") }, responded: true, protocol: true},
		"no status":        {serve: func(f *rawFrames, s uint32) { f.answer(s, true, "a", "b") }, protocol: true},
		"lengths": {serve: func(f *rawFrames, s uint32) {
			f.answer(s, false, ":status", "200", "content-length", "1", "content-length", "2")
		}, responded: true, protocol: true},
		"field over the limit": {serve: func(f *rawFrames, s uint32) { f.answer(s, true, ":status", "200", "a", strings.Repeat("b", 9000)) }, protocol: true},
		"header over the limit": {serve: func(f *rawFrames, s uint32) {
			b := strings.Repeat("b", 3000)
			f.answer(s, true, ":status", "200", "a", b, "a", b, "a", b)
		}, protocol: true},
		"endless 1xx": {serve: func(f *rawFrames, s uint32) {
			for range 20 {
				f.answer(s, false, ":status", "103")
			}
		}, responded: true, protocol: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := rawService2(t, func(f *rawFrames) {
				for {
					s, ok := f.request()
					if !ok {
						return
					}
					tt.serve(f, s)
				}
			})
			p.MaxResponseHeader = 8 << 10
			body := &closeCounter{Reader: strings.NewReader("hello")}
			_, err := p.RoundTrip(post(t, "/", body))
			if err == nil {
				t.Fatal("no error")
			}
			if never, responded := NeverExecuted(err), Responded(err); never != tt.never || responded != tt.responded {
				t.Errorf("never executed: %v, responded: %v: %v", never, responded, err)
			}
			if _, ok := errors.AsType[*ProtocolError](err); ok != tt.protocol {
				t.Errorf("not a matter of protocol, or one: %v", err)
			}
			wantQuiet(t, p)
		})
	}
}

// A request of which nothing was done is sent again by itself, if there is no body that was begun.
func TestHTTP2RetriesWhatWasRefused(t *testing.T) {
	n := 0
	p := rawService2(t, func(f *rawFrames) {
		for {
			s, ok := f.request()
			if !ok {
				return
			}
			if n++; n < 3 {
				f.WriteRSTStream(s, http2.ErrCodeRefusedStream)
			} else {
				f.answer(s, true, ":status", "204")
			}
		}
	})
	res, _ := read(t, p, get(t, "/"))
	if res.StatusCode != 204 || n != 3 {
		t.Errorf("got %d after %d attempts", res.StatusCode, n)
	}
}

// RetryStale repeats what may be repeated when a connection that was used before ends.
func TestHTTP2RetryStale(t *testing.T) {
	for _, stale := range []bool{true, false} {
		var n atomic.Int32
		p := rawService2(t, func(f *rawFrames) {
			for range 2 {
				if s, ok := f.request(); ok {
					if n.Add(1) == 2 {
						return // hangs up
					}
					f.answer(s, true, ":status", "204")
				}
			}
		})
		p.RetryStale = stale
		read(t, p, get(t, "/"))
		res, err := p.RoundTrip(get(t, "/"))
		if (err == nil) != stale {
			t.Errorf("RetryStale %v: %v", stale, err)
		}
		if err == nil {
			res.Body.Close()
		}
	}
}

// A service that ends a stream, and not the connection, has seen the request.
func TestHTTP2ResetIsNotStale(t *testing.T) {
	var n atomic.Int32
	p := rawService2(t, func(f *rawFrames) {
		for {
			s, ok := f.request()
			if !ok {
				return
			}
			if n.Add(1) == 1 {
				f.answer(s, true, ":status", "204")
			} else {
				f.WriteRSTStream(s, http2.ErrCodeInternal)
			}
		}
	})
	p.RetryStale = true
	read(t, p, get(t, "/"))
	if _, err := p.RoundTrip(get(t, "/")); err == nil || n.Load() != 2 {
		t.Errorf("%d requests for 2, %v", n.Load(), err)
	}
}

// A service whose connections take no streams is not dialled over and over.
func TestHTTP2ServiceWithoutRoom(t *testing.T) {
	var dials atomic.Int32
	p := rawService(t, func(c net.Conn, r *bufio.Reader) {
		dials.Add(1)
		http2.NewFramer(c, r).WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams})
		io.Copy(io.Discard, r)
	})
	p2 := &HTTP2Pool{Dial: p.Dial}
	t.Cleanup(p2.Close)
	_, err := p2.RoundTrip(get(t, "/"))
	if !errors.Is(err, errNoRoom) || !NeverExecuted(err) || dials.Load() != 1 {
		t.Errorf("%d dials, %v", dials.Load(), err)
	}
}

// 1xx responses come in order and before the final one, also if whoever gets them is slow; 101 never comes.
func TestHTTP2InformationalResponses(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			w.Header().Set("Link", fmt.Sprint(i))
			w.WriteHeader(103)
		}
		w.Header().Del("Link")
		io.Copy(w, r.Body)
	})
	var got []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
			<-time.After(5 * time.Millisecond)
			got = append(got, fmt.Sprint(status, h.Get("Link")))
			return nil
		},
	})
	res, body := read(t, p, post(t, "/", strings.NewReader("hello")).WithContext(ctx))
	if s := fmt.Sprint(got); s != "[1030 1031 1032]" || body != "hello" || res.StatusCode != 200 {
		t.Errorf("got %s, then %d %q", s, res.StatusCode, body)
	}
	refused := errors.New("no more")
	ctx = httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error { return refused },
	})
	if _, err := p.RoundTrip(get(t, "/").WithContext(ctx)); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
}

// The body waits for 100, for a final response, or for a second.
func TestHTTP2ExpectContinue(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(413)
			return
		}
		io.Copy(w, r.Body)
	})
	continued := false
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }})
	req := post(t, "/", strings.NewReader("hello")).WithContext(ctx)
	req.Header.Set("Expect", "100-continue")
	if _, body := read(t, p, req); body != "hello" || !continued {
		t.Errorf("got %q; 100: %v", body, continued)
	}
	req = post(t, "/refuse", unreadable{t}).WithContext(context.WithoutCancel(ctx))
	req.Header.Set("Expect", "100-continue")
	if res, _ := read(t, p, req); res.StatusCode != 413 {
		t.Errorf("got %d", res.StatusCode)
	}
	wantQuiet(t, p)
}

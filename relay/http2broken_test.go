package relay

import (
	"errors"
	"io"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
)

// A response that breaks off looks broken.
func TestHTTP2BrokenBodies(t *testing.T) {
	for name, serve := range map[string]func(f *rawFrames, s uint32){
		"reset":          func(f *rawFrames, s uint32) { f.WriteRSTStream(s, http2.ErrCodeInternal) },
		"reset politely": func(f *rawFrames, s uint32) { f.WriteRSTStream(s, http2.ErrCodeNo) },
		"gone":           func(f *rawFrames, s uint32) { f.nc.Close() },
		"too short":      func(f *rawFrames, s uint32) { f.WriteData(s, true, nil) },
		"too long":       func(f *rawFrames, s uint32) { f.WriteData(s, true, []byte("123456")) },
	} {
		t.Run(name, func(t *testing.T) {
			p := rawService2(t, func(f *rawFrames) {
				if s, ok := f.request(); ok {
					f.answer(s, false, ":status", "200", "content-length", "10")
					f.WriteData(s, false, []byte("hello"))
					serve(f, s)
					f.request()
				}
			})
			res, err := p.RoundTrip(get(t, "/"))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if err == nil || !Responded(err) || NeverExecuted(err) {
				t.Errorf("got %q, %v", b, err)
			}
			if _, again := res.Body.Read(make([]byte, 1)); again != err {
				t.Errorf("the error changes from %v to %v", err, again)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		p := rawService2(t, func(f *rawFrames) {
			if s, ok := f.request(); ok {
				f.answer(s, true, ":status", "200", "content-length", "10")
				f.request()
			}
		})
		res, err := p.RoundTrip(get(t, "/"))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %q, %v", b, err)
		}
	})
}

// A service that answers in full and takes no more of the body, nor says that it does not: the stream is given up all
// the same.
func TestHTTP2FullWindowAfterTheResponse(t *testing.T) {
	reset := make(chan http2.ErrCode, 1)
	p := rawService2(t, func(f *rawFrames) {
		s, ok := f.request()
		if !ok {
			return
		}
		f.answer(s, true, ":status", "200")
		for {
			fr, err := f.ReadFrame()
			if err != nil {
				return
			}
			if r, ok := fr.(*http2.RSTStreamFrame); ok {
				reset <- r.ErrCode
			}
		}
	})
	res, err := p.RoundTrip(post(t, "/", io.LimitReader(zeros{}, 50<<20)))
	if err != nil || res.Body != http.NoBody {
		t.Fatal(err)
	}
	if code := <-reset; code != http2.ErrCodeCancel {
		t.Errorf("reset with %v", code)
	}
	wantQuiet(t, p)
}

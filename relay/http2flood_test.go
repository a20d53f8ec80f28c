package relay

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// floods is what a service may do instead of answering the request on stream s. Each ends when it could not write, or has
// written some MB.
var floods = map[string]func(f *rawFrames, s uint32) error{
	"SETTINGS": repeat(100_000, func(f *rawFrames, _ uint32) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	}),
	"PING":               repeat(100_000, func(f *rawFrames, _ uint32) error { return f.WritePing(false, [8]byte{}) }),
	"PRIORITY":           repeat(100_000, func(f *rawFrames, s uint32) error { return f.WritePriority(s, http2.PriorityParam{StreamDep: s + 2}) }),
	"unknown frames":     repeat(100_000, func(f *rawFrames, s uint32) error { return f.WriteRawFrame(0x0b, 0xff, s, []byte("x")) }),
	"DATA before a head": repeat(10, func(f *rawFrames, s uint32) error { return f.WriteData(s, false, []byte("x")) }),
	"window of nothing":  repeat(10, func(f *rawFrames, s uint32) error { return f.WriteWindowUpdate(s, 0) }),
	"window beyond 2^31": repeat(10, func(f *rawFrames, _ uint32) error { return f.WriteWindowUpdate(0, 1<<31-1) }),
	"GOAWAY":             repeat(10_000, func(f *rawFrames, s uint32) error { return f.WriteGoAway(s, http2.ErrCodeNo, nil) }),
	"resets of others":   repeat(100_000, func(f *rawFrames, s uint32) error { return f.WriteRSTStream(s+1000, http2.ErrCodeCancel) }),
	"frames of 0 bytes": repeat(1, func(f *rawFrames, _ uint32) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize})
	}),
	"a window beyond 2^31": repeat(1, func(f *rawFrames, _ uint32) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
	}),
	"CONTINUATION of nothing": func(f *rawFrames, s uint32) error {
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: s})
		return repeat(100_000, func(f *rawFrames, s uint32) error { return f.WriteContinuation(s, false, nil) })(f, s)
	},
	"CONTINUATION without end": func(f *rawFrames, s uint32) error {
		f.header.Reset()
		for range 100 {
			f.enc.WriteField(hpack.HeaderField{Name: "x-a", Value: strings.Repeat("v", 100), Sensitive: true})
		}
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: s})
		return repeat(1000, func(f *rawFrames, s uint32) error { return f.WriteContinuation(s, false, f.header.Bytes()) })(f, s)
	},
	"HPACK bomb": func(f *rawFrames, s uint32) error {
		f.header.Reset()
		f.enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
		f.enc.WriteField(hpack.HeaderField{Name: "x-bomb", Value: strings.Repeat("v", 3900)})
		bomb := append(bytes.Clone(f.header.Bytes()), bytes.Repeat([]byte{0xbe}, 16000)...) // 62 MB
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: bomb, EndHeaders: true})
	},
	"a promise": func(f *rawFrames, s uint32) error {
		return f.WritePushPromise(http2.PushPromiseParam{StreamID: s, PromiseID: 2, EndHeaders: true})
	},
}

func repeat(n int, write func(f *rawFrames, s uint32) error) func(*rawFrames, uint32) error {
	return func(f *rawFrames, s uint32) error {
		for range n {
			if err := write(f, s); err != nil {
				return err
			}
		}
		return nil
	}
}

// Whatever a service floods its agent with, it costs bounded memory, and the request ends with its client at the latest.
func TestHTTP2Floods(t *testing.T) {
	log.SetOutput(io.Discard) // net/http notes each frame; main sees to that, too
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	const maxHeap = 64 << 20
	for name, flood := range floods {
		t.Run(name, func(t *testing.T) {
			left := make(chan struct{}) // the client did
			p := rawService2(t, func(f *rawFrames) {
				f.AllowIllegalWrites = true
				f.nc.SetWriteDeadline(time.Now().Add(5 * time.Second))
				if s, ok := f.request(); ok && flood(f, s) == nil {
					<-left
				}
			})
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			failed := make(chan error, 1)
			go func() {
				req := post(t, "/", http.NoBody).WithContext(ctx)
				req.ContentLength, req.Body = -1, &closeCounter{Reader: strings.NewReader(strings.Repeat("x", 1<<20))}
				res, err := p.RoundTrip(req)
				if err == nil {
					res.Body.Close()
				}
				failed <- err
			}()
			for ended := false; !ended; {
				select {
				case err := <-failed:
					ended = true
					if err == nil {
						t.Error("it was taken for an answer")
					}
				case <-time.After(300 * time.Millisecond): // it goes on for ever, or until its client leaves
					cancel()
				}
				runtime.ReadMemStats(&after)
				if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > maxHeap {
					t.Errorf("the heap has grown by %d MB", grown>>20)
				}
			}
			close(left)
		})
	}
}

package relay

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"golang.org/x/net/http2"
)

// Frames are found whatever pieces their bytes come in.
func TestFrameScanner(t *testing.T) {
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20})
	f.WriteSettingsAck()
	f.WriteData(1, false, make([]byte, 300))
	f.WriteData(3, true, nil)
	f.WriteRSTStream(0x7fffffff, http2.ErrCodeCancel)
	want := "4/0:6/0 4/0:0/1 0/1:300/0 0/3:0/1 3/2147483647:4/0 "
	for size := 1; size <= b.Len(); size++ {
		var got string
		s := frameScanner{left: len(clientPreface)}
		note := func(f *frameScanner) {
			got += fmt.Sprintf("%d/%d:%d/%d ", f.kind(), f.stream(), f.length(), f.flags())
		}
		for rest := append([]byte(clientPreface), b.Bytes()...); len(rest) > 0; {
			n := min(size, len(rest))
			s.scan(rest[:n], note)
			rest = rest[n:]
		}
		if got != want {
			t.Fatalf("in pieces of %d bytes: got %s, want %s", size, got, want)
		}
	}
}

// flushes counts them.
type flushes struct {
	*httptest.ResponseRecorder
	n int
}

func (f *flushes) Flush() { f.n++ }

// What came at once goes on at once; what is still to come holds nothing back.
func TestHTTP2CopyFlushesWhenNothingIsThere(t *testing.T) {
	for _, tt := range []struct {
		name    string
		pause   bool // after the head and after the data
		padded  bool
		flushes int
	}{
		{"at once", false, false, 1},
		{"piece by piece", true, false, 3},
		{"padded", false, true, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := make(chan struct{}, 8)
			p := rawService2(t, func(f *rawFrames) {
				s, ok := f.request()
				if !ok {
					return
				}
				var b bytes.Buffer
				out := http2.NewFramer(&b, nil)
				send := func(wait bool) {
					if wait {
						f.nc.Write(b.Bytes())
						b.Reset()
						<-seen
					}
				}
				f.answerOn(out, s, false, ":status", "200")
				send(tt.pause)
				if tt.padded {
					out.WriteDataPadded(s, false, []byte("hello"), make([]byte, 10))
				} else {
					out.WriteData(s, false, []byte("hello"))
				}
				send(tt.pause)
				f.answerOn(out, s, true, "grpc-status", "0")
				f.nc.Write(b.Bytes())
				f.request()
			})
			res, err := p.RoundTrip(get(t, "/"))
			if err != nil {
				t.Fatal(err)
			}
			w := &flushes{ResponseRecorder: httptest.NewRecorder()}
			if tt.pause {
				res.Body = tellReads{res.Body, seen}
			}
			n, err := CopyResponse(w, res)
			if n != 5 || err != nil || w.Header().Get(http.TrailerPrefix+"Grpc-Status") != "0" {
				t.Errorf("copied %d bytes, %v, %v", n, err, w.Header())
			}
			if w.n != tt.flushes {
				t.Errorf("%d flushes, want %d", w.n, tt.flushes)
			}
		})
	}
}

// tellReads tells the service when somebody is about to read.
type tellReads struct {
	io.ReadCloser
	reading chan struct{}
}

func (r tellReads) waiting() bool { return r.ReadCloser.(interface{ waiting() bool }).waiting() }

func (r tellReads) Read(p []byte) (int, error) {
	r.reading <- struct{}{}
	return r.ReadCloser.Read(p)
}

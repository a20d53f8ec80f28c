package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestHTTP2EarlyResponseWhileTheBodyGoesOn(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		w.WriteHeader(200)
		rc.Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	in, out := io.Pipe()
	res, err := p.RoundTrip(post(t, "/", in))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 100)
	for i := range 10 {
		msg := fmt.Sprint("message ", i)
		io.WriteString(out, msg)
		n, err := res.Body.Read(buf)
		if string(buf[:n]) != msg || err != nil {
			t.Fatalf("got %q and %v, want %q", buf[:n], err, msg)
		}
	}
	out.Close()
	if n, err := res.Body.Read(buf); err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	wantQuiet(t, p)
}

// The answer counts, not that the rest of the request could not be sent.
func TestHTTP2RefusedUpload(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(413)
		io.WriteString(w, "no")
	})
	for range 10 {
		res, body := read(t, p, post(t, "/", io.LimitReader(zeros{}, 50<<20)))
		if res.StatusCode != 413 || body != "no" {
			t.Errorf("got %d %q", res.StatusCode, body)
		}
	}
	wantQuiet(t, p)
}

// stuck is a body that waits for as long as the test runs.
type stuck struct{ t *testing.T }

func (s stuck) Read([]byte) (int, error) {
	<-s.t.Context().Done()
	return 0, s.t.Context().Err()
}

// hang is a service that says what became of its requests' contexts.
func hang(began, ended chan<- struct{}, head bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if head {
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
		}
		began <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	}
}

// The service hears of it when a request is given up, whatever it waits for: for the head of the response, for its body
// that nobody reads, for a request body that does not come, or for a window that is full.
func TestHTTP2ContextEndsTheExchange(t *testing.T) {
	for name, body := range map[string]func() io.Reader{
		"no body":      func() io.Reader { return nil },
		"waiting body": func() io.Reader { return stuck{t} },
		"large body":   func() io.Reader { return io.LimitReader(zeros{}, 50<<20) },
	} {
		for _, head := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, head %v", name, head), func(t *testing.T) {
				began, ended := make(chan struct{}, 1), make(chan struct{}, 1)
				p := service2(t, hang(began, ended, head))
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				cause := errors.New("enough")
				if !head {
					go func() {
						<-began
						cancel(cause)
					}()
				}
				res, err := p.RoundTrip(post(t, "/", body()).WithContext(ctx))
				if head {
					if err != nil {
						t.Fatal(err)
					}
					<-began
					cancel(cause)
					<-ended // while nobody reads
					_, err = res.Body.Read(make([]byte, 1))
					defer res.Body.Close()
				} else {
					<-ended
				}
				if !errors.Is(err, cause) || NeverExecuted(err) || Responded(err) != head {
					t.Errorf("got %v; never executed: %v, responded: %v", err, NeverExecuted(err), Responded(err))
				}
				wantQuiet(t, p)
			})
		}
	}
}

// Closing the body ends the exchange and waits for nothing.
func TestHTTP2CloseNeverWaits(t *testing.T) {
	began, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	p := service2(t, hang(began, ended, true))
	for _, body := range []io.Reader{nil, stuck{t}, io.LimitReader(zeros{}, 50<<20)} {
		res, err := p.RoundTrip(post(t, "/", body))
		if err != nil {
			t.Fatal(err)
		}
		<-began
		reading := make(chan error)
		go func() {
			_, err := res.Body.Read(make([]byte, 1))
			reading <- err
		}()
		res.Body.Close()
		<-ended
		if err := <-reading; !errors.Is(err, ErrBodyClosed) {
			t.Errorf("reading a closed body: %v", err)
		}
	}
	wantQuiet(t, p)
}

// The response is whole, and the request's body is not: what is left of it goes nowhere.
func TestHTTP2ResponseEndsBeforeTheRequest(t *testing.T) {
	p := service2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "done")
		}
	})
	for _, path := range []string{"/body", "/none"} {
		in, out := io.Pipe()
		res, err := p.RoundTrip(post(t, path, in))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(res.Body); err != nil {
			t.Error(err)
		}
		res.Body.Close()
		wantQuiet(t, p) // though the body still waits
		out.Close()
	}
}

func TestHTTP2ClientsBodyFails(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		body   io.Reader
		length int64
		want   error
	}{
		"chunked":   {io.MultiReader(strings.NewReader("hello"), errorReader{broken}), -1, broken},
		"length":    {io.MultiReader(strings.NewReader("hello"), errorReader{broken}), 10, broken},
		"too short": {strings.NewReader("hello"), 10, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan error, 1)
			p := service2(t, func(w http.ResponseWriter, r *http.Request) {
				_, err := io.ReadAll(r.Body)
				got <- err
			})
			body := &closeCounter{Reader: tt.body}
			req := post(t, "/", body)
			req.ContentLength = tt.length
			_, err := p.RoundTrip(req)
			if e, ok := errors.AsType[*ClientError](err); !ok || !errors.Is(e, tt.want) {
				t.Errorf("got %v, want a ClientError with %v", err, tt.want)
			}
			if err := <-got; err == nil {
				t.Error("the service took the part for the whole")
			}
		})
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

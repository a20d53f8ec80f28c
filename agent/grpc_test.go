package agent

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// grpcRequest is a call as the node sends it.
func grpcRequest(t testing.TB, path string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://my-endpoint.example.com"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = -1
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	return req
}

// TestGRPCAnswers: trailers pass behind a body, and in the head of an answer
// that has nothing else; what asks for them reaches the service.
func TestGRPCAnswers(t *testing.T) {
	addr, _ := startKind(t, cleartextNew, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" || r.Header.Get("Grpc-Timeout") != "10S" {
			t.Errorf("the service got %s with %v", r.Proto, r.Header)
		}
		w.Header().Set("Content-Type", "application/grpc")
		if r.URL.Path == "/only" {
			w.Header().Set("Grpc-Status", "5")
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		io.Copy(w, r.Body)
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
	})
	a := startAgent(t, "h2c://"+addr)
	for path, want := range map[string]string{"/call": "hello||0|fine", "/only": "|5||"} {
		req := grpcRequest(t, path, strings.NewReader("hello"))
		req.Header.Set("Grpc-Timeout", "10S")
		res, err := a.do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		got := strings.Join([]string{string(body), res.Header.Get("Grpc-Status"), res.Trailer.Get("Grpc-Status"), res.Trailer.Get("Grpc-Message")}, "|")
		if got != want || err != nil || res.StatusCode != 200 {
			t.Errorf("%s: status %d, %q, %v, want %q", path, res.StatusCode, got, err, want)
		}
	}
}

// TestGRPCBothWays: messages pass one by one, in both directions.
func TestGRPCBothWays(t *testing.T) {
	addr, _ := startKind(t, cleartextNew, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		w.WriteHeader(200)
		rc.Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
				return
			}
		}
	})
	a := startAgent(t, addr)
	in, out := io.Pipe()
	res, err := a.do(grpcRequest(t, "/", in))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 100)
	for i := range 10 {
		msg := fmt.Sprint("message ", i)
		io.WriteString(out, msg)
		if n, err := res.Body.Read(buf); string(buf[:n]) != msg || err != nil {
			t.Fatalf("got %q, %v, want %q", buf[:n], err, msg)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil || res.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("the end is %q, %v, with %v", rest, err, res.Trailer)
	}
}

// TestGRPCTimeout: a call ends when its time is over, whatever the service does.
func TestGRPCTimeout(t *testing.T) {
	ended := make(chan struct{}, 1)
	addr, _ := startKind(t, cleartextNew, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" {
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		ended <- struct{}{}
	})
	a := startAgent(t, addr)
	call := func(path string) (*http.Response, error) {
		req := grpcRequest(t, path, strings.NewReader("hello"))
		req.Header.Set("Grpc-Timeout", "20m")
		return a.do(req)
	}
	res, err := call("/silent")
	if err != nil {
		t.Fatal(err)
	}
	if status := res.Header.Get("Grpc-Status"); res.StatusCode != 200 || status != "4" {
		t.Errorf("got %d with grpc-status %q, want 4", res.StatusCode, status)
	}
	res.Body.Close()
	<-ended
	if res, err = call("/begun"); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("the answer ended in order, with %q", body)
	}
	res.Body.Close()
	<-ended
	if strings.Contains(a.log.String(), "service unreachable") {
		t.Error("the service was called unreachable")
	}
}

// TestClientGoneWhileNobodyReads: the service hears that the stream was reset
// also while its full windows keep everybody from reading the body.
func TestClientGoneWhileNobodyReads(t *testing.T) {
	for _, k := range []kindOfService{cleartextOld, cleartextNew} {
		t.Run(k.name, func(t *testing.T) {
			began, gone, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
			addr, _ := startKind(t, k, func(w http.ResponseWriter, r *http.Request) {
				close(began)
				if k.http1 { // net/http tells a handler only when it reads
					<-gone
					if _, err := io.Copy(io.Discard, r.Body); err == nil {
						t.Error("the service took the part for the whole")
					}
				}
				<-r.Context().Done()
				close(ended)
			})
			a := startAgent(t, addr, func(o *agentOptions) {
				o.clientGone = gone
				o.listener.UpstreamProtocol = UpstreamHTTP1
				if k.http2 {
					o.listener.UpstreamProtocol = UpstreamHTTP2
				}
			})
			conn, _ := a.dialNode()
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n")
			flooded := make(chan struct{})
			go func() {
				defer close(flooded)
				chunk := []byte("8000\r\n" + strings.Repeat("x", 0x8000) + "\r\n")
				for {
					conn.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
					if _, err := conn.Write(chunk); err != nil {
						return
					}
				}
			}()
			<-began
			<-flooded // nobody takes anything any more
			close(gone)
			<-ended
			conn.Close()
		})
	}
}

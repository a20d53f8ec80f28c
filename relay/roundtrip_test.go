package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRoundTripKeepsTheConnection(t *testing.T) {
	var mu sync.Mutex
	peers := map[string]bool{}
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		peers[r.RemoteAddr] = true
		mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
	})
	for i := range 20 {
		res, body := mustDo(t, p, post(t, fmt.Sprint("/", i), strings.NewReader("hello")))
		if want := fmt.Sprintf("POST /%d hello", i); body != want || res.StatusCode != 200 {
			t.Fatalf("got %d %q, want 200 %q", res.StatusCode, body, want)
		}
		wantIdle(t, p, 1)
	}
	if len(peers) != 1 {
		t.Errorf("20 requests, one after the other, took %d connections", len(peers))
	}
}

func TestRequestIsWrittenAsItIs(t *testing.T) {
	got := make(chan string, 1)
	p := rawService(t, func(c net.Conn, r *bufio.Reader) {
		var head strings.Builder
		for {
			line, err := r.ReadString('\n')
			head.WriteString(line)
			if err != nil || line == "\r\n" {
				break
			}
		}
		got <- head.String()
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	})
	req := get(t, "/")
	req.URL.Opaque = `//a/../%2F?a=1;b=2&c=%zz\ü`
	req.Host = "my.example.com:80"
	req.Header = http.Header{"X-A": {"1", ""}}
	mustDo(t, p, req)
	want := "GET //a/../%2F?a=1;b=2&c=%zz\\ü HTTP/1.1\r\nHost: my.example.com:80\r\nX-A: 1\r\nX-A: \r\n\r\n"
	if head := <-got; head != want {
		t.Errorf("the service got %q, want %q", head, want)
	}
}

// What would split the request, or say more than the request does, never leaves.
func TestUnsendableRequests(t *testing.T) {
	p := &Pool{Dial: func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go io.Copy(io.Discard, b)
		t.Cleanup(func() { b.Close() })
		return a, nil
	}}
	for name, change := range map[string]func(*http.Request){
		"a space in the target":    func(r *http.Request) { r.URL.Opaque = "/a b" },
		"a line end in the target": func(r *http.Request) { r.URL.Opaque = "/a\r\nX: y" },
		"a line end in a value":    func(r *http.Request) { r.Header = http.Header{"A": {"b\r\nX: y"}} },
		"a bare CR in a value":     func(r *http.Request) { r.Header = http.Header{"A": {"b\rX"}} },
		"a NUL in a value":         func(r *http.Request) { r.Header = http.Header{"A": {"b\x00"}} },
		"a colon in a name":        func(r *http.Request) { r.Header = http.Header{"A:": {"b"}} },
		"an empty name":            func(r *http.Request) { r.Header = http.Header{"": {"b"}} },
		"a line end in the host":   func(r *http.Request) { r.Host = "a\nb" },
		"a space in the method":    func(r *http.Request) { r.Method = "GET /x HTTP/1.1" },
		"a bad length":             func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("")), -2 },
		"a bad value with a body": func(r *http.Request) {
			r.Body, r.Header = io.NopCloser(strings.NewReader("x")), http.Header{"A": {"\n"}}
		},
		"a body longer than it says": func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("ab")), 3 },
	} {
		t.Run(name, func(t *testing.T) {
			req := get(t, "/")
			change(req)
			_, err := p.RoundTrip(req)
			if _, ok := errors.AsType[*ClientError](err); !ok || NeverExecuted(err) {
				t.Errorf("got %v, never executed: %v; want a ClientError", err, NeverExecuted(err))
			}
		})
	}
	wantIdle(t, p, 0)
}

func TestResponseKinds(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 10_000)
	for _, tt := range []struct {
		name, method, answer string
		status               int
		body                 string
		length               int64
		reused               bool
	}{
		{"a length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 5, true},
		{"a long body", "GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(big), big), 200, big, int64(len(big)), true},
		{"no body", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", 0, true},
		{"equal lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, "ok", 2, true},
		{"bare LF line ends", "GET", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, "ok", 2, true},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", 200, "ok", 2, true},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n", 200, "hello world", -1, true},
		{"no chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", 200, "", -1, true},
		{"a long chunk", "GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big), 200, big, -1, true},
		{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\nhello", 200, "hello", -1, false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\n\r\nhello", 200, "hello", -1, false},
		{"HTTP/1.0 with a length", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", 2, false},
		{"HTTP/1.0 kept alive", "GET", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", 200, "ok", 2, true},
		{"Connection: close", "GET", "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", 2, false},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", 200, "", 500, true},
		{"HEAD of chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, "", -1, true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", 0, true},
		{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, "", 7, true},
		{"more than was asked for", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 200, "ok", 2, false},
		{"204 with a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil", 204, "", 0, false},
		{"a strange status", "GET", "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", 999, "", 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hangUp := make(chan struct{})
			p := rawService(t, func(c net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				io.WriteString(c, tt.answer)
				if tt.length < 0 && !tt.reused {
					return
				}
				<-hangUp
			})
			defer close(hangUp)
			req := get(t, "/")
			req.Method = tt.method
			res, body := mustDo(t, p, req)
			if res.StatusCode != tt.status || body != tt.body || res.ContentLength != tt.length {
				t.Errorf("got %d, %d bytes of length %d; want %d, %d of %d", res.StatusCode, len(body), res.ContentLength, tt.status, len(tt.body), tt.length)
			}
			want := 0
			if tt.reused {
				want = 1
			}
			wantIdle(t, p, want)
		})
	}
}

func TestHostileResponses(t *testing.T) {
	endless := strings.Repeat("X-Y: z\r\n", 100_000)
	for name, answer := range map[string]string{
		"nothing at all":          "",
		"half a head":             "HTTP/1.1 200 OK\r\nContent-Le",
		"HTTP/0.9":                "<html>hello</html>\n\n",
		"SSH":                     "SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
		"HTTP/2":                  "HTTP/2.0 200 OK\r\n\r\n",
		"status 99":               "HTTP/1.1 099 Odd\r\n\r\n",
		"status 99 in two digits": "HTTP/1.1 99 Odd\r\n\r\n",
		"status 1000":             "HTTP/1.1 1000 Odd\r\n\r\n",
		"no status":               "HTTP/1.1\r\n\r\n",
		"a leading line":          "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"length and chunks":       "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two lengths":             "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"a list of lengths":       "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
		"a signed length":         "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
		"a negative length":       "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
		"a huge length":           "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
		"an empty length":         "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
		"gzip, chunked":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"chunked twice":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"identity":                "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
		"chunks in HTTP/1.0":      "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a folded line":           "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
		"a space before a colon":  "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
		"no colon":                "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 0\r\n\r\n",
		"a bare CR":               "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
		"a NUL":                   "HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
		"a control in the reason": "HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n",
		"a long header":           "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 2<<20) + "\r\n\r\n",
		"many headers":            "HTTP/1.1 200 OK\r\n" + endless[:200<<10] + "\r\n",
		"an endless header":       "HTTP/1.1 200 OK\r\n" + endless,
		"an unasked 101":          "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"1000 times 103":          strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 1000) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			p := answers(t, answer)
			res, err := p.RoundTrip(get(t, "/"))
			if err == nil {
				res.Body.Close()
				t.Fatalf("got status %d, want an error", res.StatusCode)
			}
			_, garbage := errors.AsType[*ProtocolError](err)
			if cut := strings.HasPrefix(name, "nothing") || strings.HasPrefix(name, "half"); cut == garbage {
				t.Errorf("got %v; ProtocolError: %v", err, garbage)
			}
			if _, client := errors.AsType[*ClientError](err); client || NeverExecuted(err) || Responded(err) != (answer != "") {
				t.Errorf("got %v; client's: %v, never executed: %v, responded: %v", err, client, NeverExecuted(err), Responded(err))
			}
			wantIdle(t, p, 0)
		})
	}
}

func TestBrokenBodies(t *testing.T) {
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, answer := range map[string]string{
		"less than the length":     "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
		"no last chunk":            chunked + "5\r\nhello\r\n",
		"a chunk cut short":        chunked + "50\r\nhello",
		"a cut last chunk":         chunked + "5\r\nhello\r\n0\r\n",
		"a cut trailer":            chunked + "5\r\nhello\r\n0\r\nX: y\r\n",
		"a chunk without an end":   chunked + "5\r\nhelloworld\r\n0\r\n\r\n",
		"a size with a space":      chunked + "5 \r\nhello\r\n0\r\n\r\n",
		"a size with a sign":       chunked + "+5\r\nhello\r\n0\r\n\r\n",
		"a size with 0x":           chunked + "0x5\r\nhello\r\n0\r\n\r\n",
		"no size":                  chunked + "\r\nhello\r\n0\r\n\r\n",
		"17 digits":                chunked + "00000000000000005\r\nhello\r\n0\r\n\r\n",
		"a size that wraps":        chunked + "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
		"bare LF behind a size":    chunked + "5\nhello\r\n0\r\n\r\n",
		"bare LF behind a chunk":   chunked + "5\r\nhello\n0\r\n\r\n",
		"a long size line":         chunked + "5;" + strings.Repeat("x", 10_000) + "\r\nhello\r\n0\r\n\r\n",
		"more overhead than data":  chunked + strings.Repeat("1;"+strings.Repeat("x", 500)+"\r\na\r\n", 1000) + "0\r\n\r\n",
		"a control in a extension": chunked + "5;\x01\r\nhello\r\n0\r\n\r\n",
		"a bad trailer":            chunked + "0\r\nX Y: z\r\n\r\n",
		"an endless trailer":       chunked + "0\r\n" + strings.Repeat("X-Y: z\r\n", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			p := answers(t, answer)
			res, err := p.RoundTrip(get(t, "/"))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			_, err = io.ReadAll(res.Body)
			if err == nil || !Responded(err) || NeverExecuted(err) {
				t.Errorf("reading the body ended with %v, want an error", err)
			}
			if _, again := res.Body.Read(make([]byte, 1)); again == nil || again == io.EOF {
				t.Errorf("a later read says %v", again)
			}
			wantIdle(t, p, 0)
		})
	}
}

func TestTrailers(t *testing.T) {
	p := service(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "Announced")
		w.Write([]byte("body"))
		w.Header().Set("Announced", r.Trailer.Get("Known")+r.Trailer.Get("Late"))
		w.Header().Set(http.TrailerPrefix+"Unannounced", "u")
		w.Header().Set(http.TrailerPrefix+"Content-Length", "666")
	})
	req := post(t, "/", io.NopCloser(strings.NewReader("abc")))
	req.Trailer = http.Header{"Known": nil, "Late": nil, "Content-Length": {"1"}}
	body := req.Body
	req.Body = &atEOF{body, func() { req.Trailer["Known"], req.Trailer["Late"] = []string{"k"}, []string{"l"} }}
	res, err := p.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, ok := res.Trailer["Announced"]; !ok || res.Header["Trailer"] != nil {
		t.Errorf("before the body: trailer %v, header %v", res.Trailer, res.Header)
	}
	io.ReadAll(res.Body)
	if got := fmt.Sprint(res.Trailer); got != "map[Announced:[kl] Unannounced:[u]]" {
		t.Errorf("got trailers %v", got)
	}
	wantIdle(t, p, 1)
}

type atEOF struct {
	io.ReadCloser
	f func()
}

func (r *atEOF) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err == io.EOF {
		r.f()
	}
	return n, err
}

func TestInformationalResponses(t *testing.T) {
	p := answers(t, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	var got []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			got = append(got, fmt.Sprint(code, h))
			return nil
		},
		Got100Continue: func() { got = append(got, "continue") },
	})
	_, body := mustDo(t, p, get(t, "/").WithContext(ctx))
	if want := []string{"continue", "100 map[]", "103 map[Link:[</a>]]"}; !slices.Equal(got, want) || body != "ok" {
		t.Errorf("got %q and %q, want %q", got, body, want)
	}
}

func TestExpectContinue(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer string // before the body
		sent   bool
	}{
		{"100", "HTTP/1.1 100 Continue\r\n\r\n", true},
		{"silence", "", true},
		{"an answer that reads on", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
		{"a final answer", "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := make(chan string, 1)
			p := rawService(t, func(c net.Conn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				io.WriteString(c, tt.answer)
				b, _ := io.ReadAll(req.Body)
				got <- string(b)
				if tt.sent && !strings.Contains(tt.answer, " 200 ") {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
			req := post(t, "/", strings.NewReader("hello"))
			req.Header.Set("Expect", "100-continue")
			start := time.Now()
			res, _ := mustDo(t, p, req)
			want := map[bool]string{true: "hello"}[tt.sent]
			if b := <-got; b != want {
				t.Errorf("the service got %q, want %q", b, want)
			}
			if tt.sent != (res.StatusCode == 200) {
				t.Errorf("got status %d", res.StatusCode)
			}
			if waited := time.Since(start) >= continueWait; waited != (tt.answer == "") {
				t.Errorf("took %v", time.Since(start))
			}
			p.CloseIdle()
		})
	}
}

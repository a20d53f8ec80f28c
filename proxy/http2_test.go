package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// post is the head of a request for the endpoint "e".
func post(more ...string) []string {
	return append([]string{":method", "POST", ":scheme", "http", ":authority", "e.x", ":path", "/a.B/C?d"}, more...)
}

func get(more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "http", ":authority", "e.x", ":path", "/"}, more...)
}

func TestHTTP2RequestsBecomeHTTP1(t *testing.T) { everyWay(t, testHTTP2RequestsBecomeHTTP1) }

func testHTTP2RequestsBecomeHTTP1(t *testing.T, newWorld worldMaker) {
	for _, tt := range []struct {
		name, body string
		head       []string
		trailer    []string
		want       string // method, target, length, cookies, trailers and body, as the service sees them
	}{
		{"no body", "", get(), nil, `GET / 0 [] [] ""`},
		{"target as it is", "", get(":path", "/%2F..//a?b=%zz&c;d"), nil, `GET /%2F..//a?b=%zz&c;d 0 [] [] ""`},
		{"asterisk", "", append([]string{":method", "OPTIONS"}, get(":path", "*")[2:]...), nil, `OPTIONS * 0 [] [] ""`},
		{"crumbs of a cookie", "", get("cookie", "a=1", "cookie", "b=2", "cookie", "c=3"), nil, `GET / 0 [a=1; b=2; c=3] [] ""`},
		{"length", "abc", post("content-length", "3"), nil, `POST /a.B/C?d 3 [] [] "abc"`},
		{"no length", "abc", post(), nil, `POST /a.B/C?d -1 [] [] "abc"`},
		{"host beside the same :authority", "", get("host", "E.X"), nil, `GET / 0 [] [] ""`},
		{"trailers", "abc", post("trailer", "x-a"), []string{"x-a", "b", "x-unannounced", "c"}, `POST /a.B/C?d -1 [] [b] "abc"`},
		{"trailers and length", "abc", post("trailer", "x-a", "content-length", "3"), []string{"x-a", "b"}, `POST /a.B/C?d -1 [] [b] "abc"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, nil)
			seen := make(chan string, 1)
			w.serve("e", func(_ http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				seen <- fmt.Sprintf("%s %s %d %s %s %q", r.Method, r.RequestURI, r.ContentLength, r.Header["Cookie"], r.Trailer["X-A"], body)
				if r.Host != "e.x" || r.Header.Get("X-Forwarded-Proto") != "http" || len(r.Header["Host"]) > 0 {
					t.Errorf("the service got host %q and %v", r.Host, r.Header)
				}
			})
			c := w.dialHTTP2()
			// Of two fields of one name the last counts here, so that get and post can be changed.
			c.request(1, tt.body == "", lastPseudo(tt.head)...)
			if tt.body != "" {
				c.fr.WriteData(1, tt.trailer == nil, []byte(tt.body))
			}
			if tt.trailer != nil {
				c.request(1, true, tt.trailer...)
			}
			if a := c.read(1); a.status != "200" {
				t.Fatalf("got %+v", a)
			}
			if got := <-seen; got != tt.want {
				t.Errorf("the service got %s, want %s", got, tt.want)
			}
		})
	}
}

func lastPseudo(fields []string) (out []string) {
	for i := 0; i < len(fields); i += 2 {
		if at := indexOfName(out, fields[i]); at >= 0 && fields[i][0] == ':' {
			out[at+1] = fields[i+1]
			continue
		}
		out = append(out, fields[i], fields[i+1])
	}
	return out
}

func TestHTTP1ResponsesBecomeHTTP2(t *testing.T) { everyWay(t, testHTTP1ResponsesBecomeHTTP2) }

func testHTTP1ResponsesBecomeHTTP2(t *testing.T, newWorld worldMaker) {
	const chunked = "Transfer-Encoding: chunked\r\n"
	grpc := []string{"content-type", "application/grpc", "te", "trailers"}
	for _, tt := range []struct {
		name, answer string
		more         []string
		want         string // statuses, header without date, body, trailers, and how the stream ended
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: 1\r\nX-A: 2\r\n\r\nabc", nil, `[] 200 map[Content-Length:[3] X-A:[1 2]] abc map[] end`},
		{"no body", "HTTP/1.1 204 No Content\r\n\r\n", nil, `[] 204 map[]  map[] end`},
		{"hop-by-hop", "HTTP/1.1 200 OK\r\nConnection: x-c, keep-alive, close\r\nX-C: 1\r\nKeep-Alive: a\r\nProxy-Connection: b\r\nUpgrade: c\r\nX-Piko-Miss: d\r\nX-D: 2\r\nContent-Length: 0\r\n\r\n", nil,
			`[] 200 map[Content-Length:[0] X-D:[2]]  map[] end`},
		{"hints", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", nil,
			`[103 102] 200 map[Content-Length:[0]]  map[] end`},
		{"unasked 101", "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello", nil, "[] 502 upstream-unreachable"},
		{"trailers", "HTTP/1.1 200 OK\r\n" + chunked + "Trailer: X-A, Content-Length\r\n\r\n3\r\nabc\r\n0\r\nX-A: b\r\nX-Unannounced: c\r\nX-Piko-Miss: d\r\nContent-Length: 3\r\n\r\n", nil,
			`[] 200 map[Trailer:[X-A]] abc map[X-A:[b] X-Unannounced:[c]] end`},
		{"trailers and no body", "HTTP/1.1 200 OK\r\n" + chunked + "\r\n0\r\nX-A: b\r\n\r\n", nil, `[] 200 map[]  map[X-A:[b]] end`},
		{"half of a length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", nil, `[] 200 map[Content-Length:[10]] abc map[] INTERNAL_ERROR`},
		{"half of the chunks", "HTTP/1.1 200 OK\r\n" + chunked + "\r\n3\r\nabc\r\n", nil, `[] 200 map[] abc map[] INTERNAL_ERROR`},
		{"gRPC", "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n" + chunked + "\r\n3\r\nabc\r\n0\r\nGrpc-Status: 0\r\n\r\n", grpc,
			`[] 200 map[Content-Type:[application/grpc]] abc map[Grpc-Status:[0]] end`},
		{"gRPC of trailers only", "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 5\r\nContent-Length: 0\r\n\r\n", grpc,
			`[] 200 map[Content-Length:[0] Content-Type:[application/grpc] Grpc-Status:[5]]  map[] end`},
		{"gRPC without an answer", "", grpc, `[] 200 map[Cache-Control:[no-store] Content-Length:[0] Content-Type:[application/grpc] Grpc-Message:[upstream unreachable] Grpc-Status:[14] X-Piko-Error:[upstream-unreachable]]  map[] end`},
		{"gRPC that breaks off", "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n" + chunked + "\r\n3\r\nabc\r\n", grpc,
			`[] 200 map[Content-Type:[application/grpc]] abc map[Grpc-Message:[upstream unreachable] Grpc-Status:[14]] end`},
		{"gRPC that breaks off before a byte", "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTrailer: Grpc-Status\r\n" + chunked + "\r\n", grpc,
			`[] 200 map[Content-Type:[application/grpc] Trailer:[Grpc-Status]]  map[Grpc-Message:[upstream unreachable] Grpc-Status:[14]] end`},
		{"gRPC-Web that breaks off", "HTTP/1.1 200 OK\r\n" + chunked + "\r\n3\r\nabc\r\n", []string{"content-type", "application/grpc-web+proto"}, `[] 200 map[] abc map[] INTERNAL_ERROR`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
				if req, err := http.ReadRequest(r); err == nil {
					io.Copy(io.Discard, req.Body)
					io.WriteString(c, tt.answer)
				}
			})
			c := w.dialHTTP2()
			c.request(1, false, post(tt.more...)...)
			c.fr.WriteData(1, true, []byte("x"))
			a := c.read(1)
			a.header.Del("Date")
			end := "end"
			if !a.ended {
				end = a.reset
			}
			got := fmt.Sprintf("%v %s %v %s %v %s", a.interims, a.status, a.header, a.body, a.trailer, end)
			if strings.HasPrefix(tt.want, "[] 502") {
				got = fmt.Sprintf("%v %s %s", a.interims, a.status, a.header.Get("X-Piko-Error"))
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// A gRPC call that ends without a message is one HEADERS frame: some clients take two for a broken response.
func TestTrailersOnlyStaysOneFrame(t *testing.T) { everyWay(t, testTrailersOnlyStaysOneFrame) }

func testTrailersOnlyStaysOneFrame(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "12")
	})
	c := w.dialHTTP2()
	for id := uint32(1); id < 100; id += 2 {
		c.request(id, false, post("content-type", "application/grpc")...)
		c.fr.WriteData(id, true, make([]byte, 5))
		for {
			f, err := c.fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Header().StreamID != id || f.Header().Type == http2.FrameWindowUpdate {
				continue
			}
			if h, ok := f.(*http2.MetaHeadersFrame); !ok || !h.StreamEnded() {
				t.Fatalf("call %d got %v, want its header and end in one frame", id, f)
			}
			break
		}
	}
}

// Messages go both ways in turn, each before the next: nothing waits for the end of either side.
func TestHTTP2IsFullDuplex(t *testing.T) { everyWay(t, testHTTP2IsFullDuplex) }

func testHTTP2IsFullDuplex(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, func(o *Options) { o.Timeout = 10 * time.Millisecond }) // which is not for answers under way
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.Header().Set("Trailer", "Grpc-Status")
		rc.Flush()
		buf := make([]byte, 5)
		for {
			if _, err := io.ReadFull(r.Body, buf); err != nil {
				break
			}
			w.Write(buf)
			rc.Flush()
		}
		w.Header().Set("Grpc-Status", "0")
	})
	in, out := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+w.addr+"/", in)
	req.Header = http.Header{"X-Piko-Endpoint": {"e"}, "Content-Type": {"application/grpc"}}
	res, err := newHTTP2Client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 5)
	for i := range 100 {
		msg := fmt.Sprintf("%05d", i)
		io.WriteString(out, msg)
		if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != msg {
			t.Fatalf("message %d came back as %q, %v", i, buf, err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 || res.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("at the end: %q, %v, %v", rest, err, res.Trailer)
	}
}

// A service that has answered ends the stream, whatever the client still sends.
func TestHTTP2UploadAnsweredEarly(t *testing.T) { everyWay(t, testHTTP2UploadAnsweredEarly) }

func testHTTP2UploadAnsweredEarly(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	l := w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much")
			io.Copy(io.Discard, r)
		}
	})
	for _, length := range [][]string{{"content-length", "100000"}, nil} {
		c := w.dialHTTP2()
		c.request(1, false, post(length...)...)
		c.fr.WriteData(1, false, make([]byte, 1000))
		a := c.read(1)
		if a.status != "413" || a.body != "too much" || !a.ended {
			t.Errorf("got %+v", a)
		}
		a = h2Answer{}
		for a.reset == "" {
			a.add(c, 1)
		}
		if a.reset != "NO_ERROR" {
			t.Errorf("the client was told to stop with %s", a.reset)
		}
	}
	eventually(t, idle(l))
}

// When a client resets its stream, the service's request ends, at whatever it is.
func TestHTTP2ResetCancelsTheRequest(t *testing.T) { everyWay(t, testHTTP2ResetCancelsTheRequest) }

func testHTTP2ResetCancelsTheRequest(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	at, over := make(chan struct{}), make(chan error)
	l := w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		switch r.Header.Get("X-At") {
		case "reading":
			at <- struct{}{}
			_, err := io.Copy(io.Discard, r.Body)
			over <- err
			return
		case "answering":
			rc.Flush()
		case "writing":
			at <- struct{}{}
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					over <- err
					return
				}
			}
		}
		at <- struct{}{}
		<-r.Context().Done()
		over <- r.Context().Err()
	})
	for _, where := range []string{"waiting", "reading", "answering", "writing"} {
		c := w.dialHTTP2()
		c.request(1, where != "reading", post("x-at", where, "content-type", "application/grpc")...)
		if where == "reading" {
			c.fr.WriteData(1, false, []byte("abc"))
		}
		<-at
		c.fr.WriteRSTStream(1, http2.ErrCodeCancel)
		if err := <-over; err == nil {
			t.Errorf("%s: the service saw an end in order", where)
		}
		c.request(3, true, get("x-at", "reading")...)
		<-at
		<-over
		if a := c.read(3); a.status != "200" {
			t.Errorf("%s: the next request got %+v", where, a)
		}
	}
	eventually(t, idle(l))
}

package agent

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
)

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

// dialNode opens a connection such as a stream of the node is.
func (a *testAgent) dialNode() (*net.TCPConn, *bufio.Reader) {
	a.t.Helper()
	conn, err := net.Dial("tcp", a.node.ln.Addr().String())
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn), bufio.NewReader(conn)
}

func TestUpgradeCarriesBothWaysAndHalfCloses(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nready ", r.Header.Get("Upgrade"))
		all, err := io.ReadAll(rw) // ends with the client's half-close
		fmt.Fprintf(conn, "got %q, error %v", all, err)
	})
	access := new(logBuffer)
	a := startAgent(t, service.URL, func(o *agentOptions) { o.access = access })
	conn, r := a.dialNode()
	fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: my-endpoint.example.com\r\nConnection: upgrade\r\nUpgrade: my-protocol\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "my-protocol" {
		t.Fatalf("answer is %s with %v, want a 101 to my-protocol", res.Status, res.Header)
	}
	greeting := make([]byte, 6)
	if _, err := io.ReadFull(r, greeting); err != nil || string(greeting) != "ready " {
		t.Fatalf("first bytes are %q, error %v", greeting, err)
	}
	io.WriteString(conn, "hello")
	if n := a.active.Load(); n != 1 {
		t.Errorf("%d exchanges are active, want the upgraded connection", n)
	}
	conn.CloseWrite()
	if rest, err := io.ReadAll(r); err != nil || string(rest) != `got "hello", error <nil>` {
		t.Errorf("after the half-close the client read %q, error %v", rest, err)
	}
	eventually(t, func() error {
		log := access.String()
		if !strings.Contains(log, `"connection opened"`) || !strings.Contains(log, `"connection closed"`) {
			return fmt.Errorf("access log has no line for the opening or the closing: %q", log)
		}
		return nil
	})
}

func TestRefusedUpgradeIsAnOrdinaryAnswer(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no upgrades here", http.StatusUpgradeRequired)
	})
	a := startAgent(t, service.URL)
	conn, r := a.dialNode()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a.b\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 426 || string(body) != "no upgrades here\n" {
		t.Errorf("answer is %s %q, error %v", res.Status, body, err)
	}
}

func TestExpectContinueAsksTheService(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d bytes, error %v", n, err)
	})
	a := startAgent(t, service.URL)

	t.Run("accepted", func(t *testing.T) {
		conn, r := a.dialNode()
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		line, err := r.ReadString('\n')
		if err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("first line is %q, error %v: want a 100 before the body is sent", line, err)
		}
		if _, err := textproto.NewReader(r).ReadMIMEHeader(); err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "hello")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "5 bytes, error <nil>" {
			t.Errorf("answer is %q, error %v", body, err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		conn, r := a.dialNode()
		fmt.Fprintf(conn, "POST /refuse HTTP/1.1\r\nHost: a.b\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("answer is %s, want the service's refusal and no 100 before it", res.Status)
		}
	})
}

func TestEarlyAnswerDoesNotWaitForTheBody(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "no")
	})
	a := startAgent(t, service.URL)
	conn, r := a.dialNode()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 1000000\r\n\r\nonly this")
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 403 || string(body) != "no" {
		t.Errorf("answer is %s %q, error %v", res.Status, body, err)
	}
	eventually(t, func() error {
		if a.active.Load() != 0 {
			return errNotYet
		}
		return nil
	})
}

func TestInformationalAnswersAndTrailersPass(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Announced")
		io.WriteString(w, "body")
		w.Header().Set("X-Announced", "one")
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", r.Trailer.Get("X-Sum"))
	})
	a := startAgent(t, service.URL)
	var hints http.Header
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			if status == http.StatusEarlyHints {
				hints = http.Header(header)
			}
			return nil
		},
	})
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://my-endpoint.example.com/", struct{ io.Reader }{strings.NewReader("request")})
	req.Trailer = http.Header{"X-Sum": {"1234"}}
	res, err := a.do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "body" {
		t.Fatalf("body is %q, error %v", body, err)
	}
	if got := hints.Get("Link"); got != "</style.css>; rel=preload" {
		t.Errorf("103 came with Link %q", got)
	}
	if got := res.Header.Get("Link"); got != "" {
		t.Errorf("final answer has the 103's Link %q", got)
	}
	if got := res.Trailer.Get("X-Announced"); got != "one" {
		t.Errorf("announced trailer is %q, want one", got)
	}
	if got := res.Trailer.Get("X-Unannounced"); got != "1234" {
		t.Errorf("unannounced trailer is %q, want the request's trailer 1234", got)
	}
}

func TestHeadAndBodilessAnswersKeepTheConnection(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("Content-Length", "1234")
		}
	})
	a := startAgent(t, service.URL)
	for path, want := range map[string]int{"/": 200, "/204": 204, "/304": 304} {
		method := http.MethodGet
		if path == "/" {
			method = http.MethodHead
		}
		req, _ := http.NewRequestWithContext(t.Context(), method, "http://my-endpoint.example.com"+path, nil)
		res, err := a.do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want || path == "/" && res.ContentLength != 1234 {
			t.Errorf("%s %s: status %d, length %d", method, path, res.StatusCode, res.ContentLength)
		}
	}
	if n := a.node.streams(); n != 1 {
		t.Errorf("%d streams were used in sequence, want 1", n)
	}
}

//go:build e2e

package e2e

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fronts are proxies of another make before the proxy port, which keep their connections to it and use them for whoever
// comes: what one of them takes for the end of a request and we do not, or the other way round, is the next client's.
var fronts = map[string]func(t testing.TB, node string) (addr string){
	"none":    func(_ testing.TB, node string) string { return node },
	"nginx":   nginxFront,
	"haproxy": haproxyFront,
}

func nginxFront(t testing.TB, node string) string {
	t.Helper()
	addr := freeAddr(t)
	nginx(t, addr, fmt.Sprintf(`
		location / {
			proxy_pass http://nodes;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_request_buffering off;
		}
		underscores_in_headers on;
		ignore_invalid_headers off;
	}
	upstream nodes {
		server %s;
		keepalive 4;`, node))
	return addr
}

func haproxyFront(t testing.TB, node string) string {
	t.Helper()
	path, dir, addr := tool(t, "haproxy"), t.TempDir(), freeAddr(t)
	writeFile(t, dir, "haproxy.cfg", fmt.Sprintf(`
defaults
	mode http
	timeout connect 5s
	timeout client 20s
	timeout server 20s
	http-reuse always
	option accept-invalid-http-request
frontend in
	bind %s
	default_backend nodes
backend nodes
	server node1 %s
`, addr, node))
	p := start(t, "haproxy", nil, path, "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
	waitListening(t, p, addr)
	return addr
}

// witness is a service that notes every request it gets, and tells in its answer what it noted.
type witness struct {
	mu     sync.Mutex
	seen   map[string][]string // by the first element of the path
	bodies map[string][]string // of those, likewise
	odd    []string            // what is no request
}

func (w *witness) serve(c *rawConn) {
	for {
		_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
		r, err := http.ReadRequest(c.r)
		if err != nil {
			if rest, _ := c.r.Peek(c.r.Buffered()); len(rest) > 0 {
				w.mu.Lock()
				w.odd = append(w.odd, fmt.Sprintf("%v before %q", err, rest))
				w.mu.Unlock()
			}
			return
		}
		if r.Method == "PRI" { // the agent asks for HTTP/2
			c.send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // it did not come whole, and nobody is told that it did
		}
		what := fmt.Sprintf("%s %s %x", r.Method, r.RequestURI, sha256.Sum256(body))
		w.mu.Lock()
		owner := ownerOf(r.RequestURI)
		w.seen[owner] = append(w.seen[owner], what)
		w.bodies[owner] = append(w.bodies[owner], string(body))
		w.mu.Unlock()
		answer := what
		if r.Method == http.MethodHead {
			answer = ""
		}
		c.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Witness: %s\r\nContent-Length: %d\r\n\r\n%s", what, len(what), answer))
	}
}

var ownerName = regexp.MustCompile(`c\d{5}`)

// ownerOf is the client whom a target belongs to.
func ownerOf(target string) string { return ownerName.FindString(target) }

func (w *witness) of(owner string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen[owner])
}

// TestSmuggling sends requests that were damaged at random, each on a connection of its own and with others before and
// behind it, through proxies of another make. Whoever reads them, the requests that the service sees are those that their
// own client has answers to, in the same order and with the same bodies: none more, none more often than it was sent, no
// byte that was not, and none of them goes to anybody else.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	clients := pick(250, 20000)
	seed := uint64(1)
	if s := os.Getenv(seedEnv); s != "" {
		fmt.Sscan(s, &seed)
	}
	for name, front := range fronts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &witness{seen: make(map[string][]string), bodies: make(map[string][]string)}
			s := startServer(t)
			s.agent(t, "e", rawService(t, w.serve))
			addr := front(t, s.proxy)
			numbers := make(chan int)
			var workers sync.WaitGroup
			for range 8 {
				workers.Go(func() {
					for i := range numbers {
						w.try(t, addr, seed, i)
					}
				})
			}
			for i := range clients {
				numbers <- i
			}
			close(numbers)
			workers.Wait()
			if len(w.odd) > 0 {
				t.Errorf("the service got what is no request: %q", w.odd)
			}
			if strange := w.of(""); len(strange) > 0 {
				t.Errorf("the service saw what nobody has sent: %q", strange)
			}
		})
	}
}

// try is one client.
func (w *witness) try(t *testing.T, addr string, seed uint64, i int) {
	owner := fmt.Sprintf("c%05d", i)
	sent := damaged(rand.New(rand.NewPCG(seed, uint64(i))), owner)
	answers, statuses, whole := exchangeRaw(t, addr, sent)
	seen := w.of(owner)
	ok := slices.Equal(seen, answers)
	if !whole {
		// The damaged request goes on, or the answer was on its way when we left or were reset.
		ok = len(answers) <= len(seen) && slices.Equal(seen[:len(answers)], answers)
	}
	for _, a := range answers {
		ok = ok && ownerOf(a) == owner
	}
	ok = ok && w.sentAll(owner, sent)
	if !ok {
		t.Errorf("client %d sent %q,\ngot %d with %q,\nthe service saw %q", i, sent, statuses, answers, seen)
	}
}

// parts are the targets of a client's requests.
var parts = []string{"/before0", "/before1", "/damaged", "/inner", "/behind0", "/last"}

// sentAll reports whether the client has sent all that the service saw of it: each target as often at least, and the
// bytes of each body in their order.
func (w *witness) sentAll(owner, sent string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, part := range parts {
		seen := 0
		for _, s := range w.seen[owner] {
			seen += strings.Count(s, part)
		}
		if seen > strings.Count(sent, part) {
			return false
		}
	}
	for _, body := range w.bodies[owner] {
		rest := sent
		for i := range len(body) {
			at := strings.IndexByte(rest, body[i])
			if at < 0 {
				return false
			}
			rest = rest[at+1:]
		}
	}
	return true
}

// quiet is how long a client waits for what may never come: a damaged request need not have an end.
const quietTime = 250 * time.Millisecond

// exchangeRaw sends bytes and returns what the witness said in the answers, and whether the other side ended the
// connection in order.
func exchangeRaw(t *testing.T, addr, sent string) (answers []string, statuses []int, whole bool) {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Error(err)
		return nil, nil, false
	}
	defer c.Close()
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, sent) // whoever refuses it may close
	br := bufio.NewReader(c)
	for {
		_ = c.SetReadDeadline(time.Now().Add(quietTime))
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return answers, statuses, errors.Is(err, io.ErrUnexpectedEOF) // a reset may have cost us an answer
		}
		if said := res.Header.Get("X-Witness"); said != "" {
			answers = append(answers, said)
		}
		statuses = append(statuses, res.StatusCode)
		if strings.HasPrefix(res.Header.Get("X-Witness"), "HEAD ") {
			continue
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return answers, statuses, false
		}
	}
}

//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"testing"
)

// TestBulk moves 1 GiB each way: the checksums are equal, and neither process keeps more
// than windows and buffers of it.
func TestBulk(t *testing.T) {
	const size = 1 << 30
	const growth = 48 << 20
	s, o := startServer(t), startOrigin(t, "origin")
	a := s.agent(t, "e", o.addr)
	wantCurl(t, "origin", "-H", to("e"), s.url("/"))
	sum := generated(size)
	server, agent := s.memory(t, "VmHWM"), a.memory(t, "VmHWM")
	check := func(what string) {
		s, a := s.memory(t, "VmHWM"), a.memory(t, "VmHWM")
		t.Logf("%s: the server grew by %.1f to %.1f MiB, the agent by %.1f to %.1f MiB", what,
			mib(s-server), mib(s), mib(a-agent), mib(a))
		if s-server > growth || a-agent > growth {
			t.Errorf("%s: memory grew by more than %.0f MiB", what, mib(growth))
		}
	}

	for _, form := range []string{"", "&chunked=1"} {
		h := &hashCounter{hash: sha256.New()}
		req, _ := http.NewRequest("GET", s.url(fmt.Sprintf("/bytes?n=%d%s", size, form)), nil)
		res := doStreaming(t, req, "e")
		if _, err := io.Copy(h, res.Body); err != nil {
			t.Errorf("download: %v after %d bytes", err, h.n)
		}
		res.Body.Close()
		if h.n != size || h.sum() != sum {
			t.Errorf("download %q: %d bytes, checksum %s, want %d, %s", form, h.n, h.sum(), size, sum)
		}
		check("download" + form)
	}
	for _, length := range []int64{size, -1} {
		req, _ := http.NewRequest("PUT", s.url("/upload-hash"), io.NopCloser(io.LimitReader(&generator{}, size)))
		req.ContentLength = length
		res := doStreaming(t, req, "e")
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if want := fmt.Sprintf("%d %s\n", size, sum); err != nil || string(body) != want {
			t.Errorf("upload with length %d: %s %q, %v, want %q", length, res.Status, body, err, want)
		}
		check(fmt.Sprintf("upload with length %d", length))
	}
	// And once through curl, from its standard input.
	r := curlFrom(t, io.LimitReader(&generator{}, size), "-T", "-", "-H", to("e"), s.url("/upload-hash"))
	if want := fmt.Sprintf("%d %s\n", size, sum); r.code != 0 || r.stdout != want {
		t.Errorf("curl -T -: status %d, %q, want %q\n%s", r.code, r.stdout, want, r.stderr)
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// doStreaming sends a request on a connection of its own, without a limit of time.
func doStreaming(t testing.TB, req *http.Request, endpoint string) *http.Response {
	t.Helper()
	req.Header.Set("X-Piko-Endpoint", endpoint)
	req.Close = true
	res, err := (&http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	return res
}

// hashCounter counts and sums what is written to it.
type hashCounter struct {
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
	n int64
}

func (h *hashCounter) Write(p []byte) (int, error) {
	h.n += int64(len(p))
	return h.hash.Write(p)
}

func (h *hashCounter) sum() string { return hex.EncodeToString(h.hash.Sum(nil)) }

// TestEchoOfThirtyThousandPosts holds that a body which is answered while it is still being
// sent never costs the end of the answer: Go's server and ReverseProxy, as they come, lose
// it three times in a thousand.
func TestEchoOfThirtyThousandPosts(t *testing.T) {
	const clients, each, size = 16, 1875, 64 << 10
	s, o := startServer(t, "--proxy.access-log.disable"), startOrigin(t, "origin")
	s.agent(t, "e", o.addr, "--access-log.disable")
	l := &load{stop: make(chan struct{}), by: map[string]int{}}
	for range clients {
		l.wg.Go(func() {
			c := &client{addr: s.proxy}
			defer c.close()
			for range each {
				l.count(c.do("e", exchange{method: "POST", target: "/echo", body: randomBytes(size), echo: true}))
			}
		})
	}
	l.wg.Wait()
	l.end(t)
	if l.done != clients*each {
		t.Errorf("%d requests were done, want %d", l.done, clients*each)
	}
}

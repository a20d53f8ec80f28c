//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// speaking is how curl speaks to the proxy port.
type speaking struct {
	name    string
	args    []string
	version string // as curl prints it
}

// startFiles starts a service that has one file, with ranges, and keeps what is put.
func startFiles(t testing.TB, content []byte) string {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "file.bin", time.Unix(1e9, 0), bytes.NewReader(content))
	})
	mux.HandleFunc("PUT /file", func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(body, content) {
			http.Error(w, fmt.Sprintf("%d bytes came, which are others: %v", len(body), err), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
	mux.HandleFunc("PUT /refused", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusRequestEntityTooLarge) })
	mux.HandleFunc("/trailer", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "body")
		http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"X-Sum", "42")
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// TestCurl asks for ranges and uploads in each way that curl can speak to the proxy port.
func TestCurl(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		askWithCurl(t, w, "http", []speaking{
			{"HTTP/1.1", []string{"--http1.1"}, "1.1"},
			{"an upgrade to h2c, which is not taken", []string{"--http2"}, "1.1"},
			{priorKnowledge, []string{"--http2-prior-knowledge"}, "2"},
		})
	})
}

const priorKnowledge = "HTTP/2 with prior knowledge"

// TestCurlTLS is the same where the proxy port speaks TLS.
func TestCurlTLS(t *testing.T) {
	cert := newCertificate(t)
	overEach(t, func(t *testing.T, w *way) {
		askWithCurl(t, w, "https", []speaking{
			{"HTTP/1.1", []string{"--http1.1", "--cacert", cert.file}, "1.1"},
			{"HTTP/2", []string{"--http2", "--cacert", cert.file}, "2"},
		})
		// A port with TLS speaks to clients in no other way.
		r := curl(t, "-H", to("files"), "-w", "%{http_code}", "http://"+w.entry.proxy)
		if !strings.HasSuffix(r.stdout, "400") || !strings.Contains(r.stdout, "TLS") {
			t.Errorf("without TLS curl gets %q and ends with status %d, want 400 and why\n%s", r.stdout, r.code, r.stderr)
		}
	}, cert.flags()...)
}

func askWithCurl(t *testing.T, w *way, scheme string, each []speaking) {
	content := randomBytes(3 << 20)
	file := writeFile(t, t.TempDir(), "file.bin", string(content))
	w.agent(t, "files", startFiles(t, content))
	for _, how := range each {
		t.Run(how.name, func(t *testing.T) {
			c := &curls{t, append(slices.Clone(how.args), "-H", to("files")), scheme + "://" + w.entry.proxy, how.version, file, string(content)}
			c.downloads()
			c.uploads()
			if how.name != priorKnowledge { // of which curl 7.88 makes one request a connection, whoever serves it
				c.many()
			}
		})
	}
}

// curls are runs of curl with some arguments.
type curls struct {
	t       *testing.T
	args    []string
	base    string // URL
	version string
	file    string // what the service has
	content string // of file
}

// want runs curl and wants a status, the version of HTTP and a body.
func (c *curls) want(path, status, body string, args ...string) {
	c.t.Helper()
	args = slices.Concat(c.args, []string{"-w", "\n%{http_version} %{http_code}"}, args, []string{c.base + path})
	r := curl(c.t, args...)
	if want := body + "\n" + c.version + " " + status; r.code != 0 || r.stdout != want {
		c.t.Errorf("curl %q ended with status %d, %d bytes ending in %q, want 0 and %d bytes ending in %q\n%s",
			args, r.code, len(r.stdout), ending(r.stdout), len(want), ending(want), r.stderr)
	}
}

// ending is the last of a text.
func ending(s string) string { return s[max(0, len(s)-80):] }

func (c *curls) downloads() {
	c.want("/file", "200", c.content)
	c.want("/file", "206", c.content[100:200], "-r", "100-199")
	c.want("/file", "206", c.content[len(c.content)-5:], "-r", "-5")
	c.want("/file", "416", "invalid range: failed to overlap\n", "-r", "99999999-")
	c.want("/file", "304", "", "-z", "Mon, 10 Sep 2001 00:00:00 GMT")
	c.t.Helper()
	// A download that broke off is taken up where it ended.
	part := filepath.Join(c.t.TempDir(), "part")
	if err := os.WriteFile(part, []byte(c.content[:1<<20]), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.want("/file", "206", "", "-C", "-", "-o", part)
	if !sameFile(c.t, c.file, part) {
		c.t.Error("a download that was taken up again gave another file")
	}
	r := curl(c.t, append(slices.Clone(c.args), "-i", c.base+"/trailer")...)
	if r.code != 0 || !strings.HasSuffix(strings.ToLower(r.stdout), "bodyx-sum: 42\r\n") {
		c.t.Errorf("a response with a trailer is %q\n%s", r.stdout, r.stderr)
	}
}

func (c *curls) uploads() {
	c.want("/file", "201", "", "-T", c.file)
	c.want("/file", "201", "", "-T", c.file, "-H", "Expect:")
	c.want("/file", "201", "", "-T", c.file, "-H", "Transfer-Encoding: chunked")
	if c.version != "2" { // there curl 7.88 gives up, also without a tunnel, when it may not send the rest
		c.want("/refused", "413", "", "-T", c.file)
		c.want("/refused", "413", "", "-T", c.file, "-H", "Expect:")
	}
}

// many asks for one file fifty times, at once and one by one over one connection.
func (c *curls) many() {
	urls := slices.Repeat([]string{c.base + "/file"}, 50)
	args := slices.Concat(c.args, []string{"-r", "0-999", "-w", "%{stderr}%{http_code} %{num_connects}\n"})
	r := curl(c.t, slices.Concat(args, []string{"--parallel", "--parallel-max", "50"}, urls)...)
	if ok := strings.Count(r.stderr, "206 "); r.code != 0 || ok != 50 || len(r.stdout) != 50*1000 {
		c.t.Errorf("of 50 requests at once %d were answered with %d bytes, curl ended with status %d\n%.500s", ok, len(r.stdout), r.code, r.stderr)
	}
	r = curl(c.t, append(args, urls...)...)
	if r.stderr != "206 1\n"+strings.Repeat("206 0\n", 49) || r.stdout != strings.Repeat(c.content[:1000], 50) {
		c.t.Errorf("50 requests one by one on one connection gave %d bytes, curl ended with status %d\n%.500s", len(r.stdout), r.code, r.stderr)
	}
}

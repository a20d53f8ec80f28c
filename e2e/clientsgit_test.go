//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestGit clones, pushes and fetches over smart HTTP: responses that are streamed, bodies in
// chunks and compressed ones, and a client that keeps its connection through all of it.
func TestGit(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) { work(newGit(t), w, "http", "HTTP/1.1") })
}

// TestGitTLS is the same over TLS, where Git speaks HTTP/2.
func TestGitTLS(t *testing.T) {
	cert := newCertificate(t)
	overEach(t, func(t *testing.T, w *way) {
		work(newGit(t, "GIT_SSL_CAINFO="+cert.file), w, "https", "HTTP/2.0")
	}, cert.flags()...)
}

func work(g *gitSide, w *way, scheme, proto string) {
	g.t.Helper()
	w.agent(g.t, "git", g.serve())
	g.git(nil, "-C", g.dir, "clone", "--quiet", scheme+"://"+w.entry.proxy+"/repo.git", "clone")
	g.same("clone", "origin/main")
	g.git(nil, "-C", g.dir, "clone", "--quiet", "--depth", "1", scheme+"://"+w.entry.proxy+"/repo.git", "shallow")
	g.same("shallow", "origin/main")
	if n := g.git(nil, "-C", g.dir+"/shallow", "rev-list", "--count", "HEAD"); n != "1" {
		g.t.Errorf("a shallow clone has %s commits, want 1", n)
	}

	// More than http.postBuffer goes in parts, of unknown length.
	g.commit("clone", "large", 5<<20)
	g.git(nil, "-C", g.dir+"/clone", "push", "--quiet", "origin", "main")
	g.same("clone", "HEAD")
	g.git(nil, "-C", g.dir+"/shallow", "fetch", "--quiet", "--unshallow")
	g.same("shallow", "origin/main")
	for _, dir := range []string{"clone", "shallow", "repo.git"} {
		g.git(nil, "-C", g.dir+"/"+dir, "fsck", "--strict", "--no-dangling")
	}
	if g.chunked.Load() == 0 || g.compressed.Load() == 0 {
		g.t.Errorf("%d bodies came in chunks and %d compressed, so the test proves less than it says", g.chunked.Load(), g.compressed.Load())
	}
	w.entry.waitLog(g.t, "how git speaks", `"request"`, `"proto":"`+proto+`"`)
}

// gitSide is a repository, a service for it, and what is cloned from it.
type gitSide struct {
	t    *testing.T
	dir  string
	path string // of git
	env  []string

	chunked, compressed atomic.Int32 // bodies of requests that were
}

// newGit makes a bare repository with a hundred commits. All git commands get the environment.
func newGit(t *testing.T, env ...string) *gitSide {
	t.Helper()
	g := &gitSide{t: t, dir: t.TempDir(), path: tool(t, "git"), env: env}
	g.git(nil, "init", "--quiet", "--bare", "--initial-branch", "main", g.dir+"/repo.git")
	var commits bytes.Buffer
	for i := range 100 {
		fmt.Fprintf(&commits, "commit refs/heads/main\nmark :%d\ncommitter e2e <e2e@localhost> %d +0000\ndata 1\n.\n", i+1, 1_000_000_000+i)
		fmt.Fprintf(&commits, "M 100644 inline file-%d\ndata 50000\n%s\n", i, randomBytes(50000))
		// So that a clone asks for many things, and Git compresses what it asks.
		fmt.Fprintf(&commits, "reset refs/tags/tag-%d\nfrom :%d\n\n", i, i+1)
	}
	g.git(&commits, "-C", g.dir+"/repo.git", "fast-import", "--quiet")
	return g
}

// commit adds a file of random bytes.
func (g *gitSide) commit(dir, name string, size int) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, dir, name), randomBytes(size), 0o600); err != nil {
		g.t.Fatal(err)
	}
	g.git(nil, "-C", g.dir+"/"+dir, "add", name)
	g.git(nil, "-C", g.dir+"/"+dir, "commit", "--quiet", "-m", name)
}

// git runs git, which has no configuration but ours, and returns what it prints.
func (g *gitSide) git(stdin io.Reader, args ...string) string {
	g.t.Helper()
	all := slices.Concat([]string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0"}, g.env, []string{
		g.path, "-c", "user.name=e2e", "-c", "user.email=e2e@localhost", "-c", "http.extraHeader=" + to("git"), "-c", "gc.auto=0",
	}, args)
	r := run(g.t, 60*time.Second, stdin, tool(g.t, "env"), all...)
	if r.code != 0 {
		g.t.Fatalf("git %q ended with status %d: %s%s", args, r.code, r.stdout, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

// same wants a revision of a clone to be the newest of the repository.
func (g *gitSide) same(dir, revision string) {
	g.t.Helper()
	got, want := g.git(nil, "-C", g.dir+"/"+dir, "rev-parse", revision), g.git(nil, "-C", g.dir+"/repo.git", "rev-parse", "main")
	if got != want {
		g.t.Errorf("%s of %s is %s, want %s", revision, dir, got, want)
	}
}

// serve serves the repository over HTTP as Git's own CGI program does, which lets everybody
// push whose name is known.
func (g *gitSide) serve() string {
	g.t.Helper()
	backend := &cgi.Handler{
		Path: filepath.Join(g.git(nil, "--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + g.dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=e2e", "GIT_CONFIG_GLOBAL=/dev/null"},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength < 0 { // which Go's CGI refuses
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			g.chunked.Add(1)
			r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		}
		if r.Header.Get("Content-Encoding") == "gzip" {
			g.compressed.Add(1)
		}
		backend.ServeHTTP(w, r)
	}))
	g.t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

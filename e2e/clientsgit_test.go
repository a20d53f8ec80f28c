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
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestGit clones, pushes and fetches over smart HTTP: responses that are streamed, bodies in
// chunks and compressed ones, and a client that keeps its connection through all of it.
func TestGit(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		g := newGit(t)
		w.agent(t, "git", g.serve())
		g.git("-C", g.dir, "clone", "--quiet", w.entry.url("/repo.git"), "clone")
		g.same("clone", "origin/main")
		g.git("-C", g.dir, "clone", "--quiet", "--depth", "1", w.entry.url("/repo.git"), "shallow")
		g.same("shallow", "origin/main")
		if n := g.git("-C", g.dir+"/shallow", "rev-list", "--count", "HEAD"); n != "1" {
			t.Errorf("a shallow clone has %s commits, want 1", n)
		}

		// More than http.postBuffer goes in chunks, of unknown length.
		g.commit("clone", "large", 5<<20)
		g.git("-C", g.dir+"/clone", "push", "--quiet", "origin", "main")
		g.same("clone", "HEAD")
		g.git("-C", g.dir+"/shallow", "fetch", "--quiet", "--unshallow")
		g.same("shallow", "origin/main")
		for _, dir := range []string{"clone", "shallow", "repo.git"} {
			g.git("-C", g.dir+"/"+dir, "fsck", "--strict", "--no-dangling")
		}
		if g.chunked.Load() == 0 || g.compressed.Load() == 0 {
			t.Errorf("%d bodies came in chunks and %d compressed, so the test proves less than it says", g.chunked.Load(), g.compressed.Load())
		}
	})
}

// gitSide is a repository, a service for it, and what is cloned from it.
type gitSide struct {
	t    *testing.T
	dir  string
	path string // of git

	chunked, compressed atomic.Int32 // bodies of requests that were
}

// newGit makes a bare repository with a hundred commits.
func newGit(t *testing.T) *gitSide {
	t.Helper()
	g := &gitSide{t: t, dir: t.TempDir(), path: tool(t, "git")}
	g.git("init", "--quiet", "--bare", "--initial-branch", "main", g.dir+"/repo.git")
	g.git("init", "--quiet", "--initial-branch", "main", g.dir+"/work")
	for i := range 100 {
		g.commit("work", fmt.Sprint("file-", i), 50_000)
		if i < 40 { // so that a clone asks for many things, and Git compresses what it asks
			g.git("-C", g.dir+"/work", "tag", fmt.Sprint("tag-", i))
		}
	}
	g.git("-C", g.dir+"/work", "push", "--quiet", "--tags", g.dir+"/repo.git", "main")
	return g
}

// commit adds a file of random bytes.
func (g *gitSide) commit(dir, name string, size int) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, dir, name), randomBytes(size), 0o600); err != nil {
		g.t.Fatal(err)
	}
	g.git("-C", g.dir+"/"+dir, "add", name)
	g.git("-C", g.dir+"/"+dir, "commit", "--quiet", "-m", name)
}

// git runs git, which has no configuration but ours, and returns what it prints.
func (g *gitSide) git(args ...string) string {
	g.t.Helper()
	args = append([]string{
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", g.path,
		"-c", "user.name=e2e", "-c", "user.email=e2e@localhost", "-c", "http.extraHeader=" + to("git"), "-c", "gc.auto=0",
	}, args...)
	r := run(g.t, 60*time.Second, nil, tool(g.t, "env"), args...)
	if r.code != 0 {
		g.t.Fatalf("git %q ended with status %d: %s%s", args[12:], r.code, r.stdout, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

// same wants a revision of a clone to be the newest of the repository.
func (g *gitSide) same(dir, revision string) {
	g.t.Helper()
	got, want := g.git("-C", g.dir+"/"+dir, "rev-parse", revision), g.git("-C", g.dir+"/repo.git", "rev-parse", "main")
	if got != want {
		g.t.Errorf("%s of %s is %s, want %s", revision, dir, got, want)
	}
}

// serve serves the repository over HTTP as Git's own CGI program does, which lets everybody
// push whose name is known.
func (g *gitSide) serve() string {
	g.t.Helper()
	backend := &cgi.Handler{
		Path: filepath.Join(g.git("--exec-path"), "git-http-backend"),
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

//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nginxFiles is nginx as it serves files: it takes some, refuses those that are too large
// before they have come, compresses, and ends its connections after ten requests, or when
// they were idle for a second.
const nginxFiles = `
	keepalive_requests 10;
	keepalive_timeout 1s;
	location /put/ { dav_methods PUT DELETE; create_full_put_path on; client_max_body_size 16m; }
	location /small/ { dav_methods PUT; client_max_body_size 1k; }
	location = /text { gzip on; gzip_types *; gzip_min_length 1; default_type text/plain; return 200 "some text some text some text some text"; }
	location = /post { return 200 "posted\n"; }`

// TestNginx has nginx as the service.
func TestNginx(t *testing.T) {
	service := freeAddr(t)
	nginx(t, service, nginxFiles)
	overEach(t, func(t *testing.T, w *way) {
		w.agent(t, "nginx", "http://"+service)
		put := w.entry.url("/put/" + filepath.Base(t.TempDir()) + strings.ReplaceAll(t.Name(), "/", "-"))
		file := writeFile(t, t.TempDir(), "file", string(randomBytes(5<<20)))
		status := []string{"-H", to("nginx"), "-o", "/dev/null", "-w", "%{http_code}"}
		want := func(code string, args ...string) {
			t.Helper()
			wantCurl(t, code, append(args, status...)...)
		}
		want("201", "-T", file, put)
		want("204", "-T", file, put)
		want("204", "-T", file, "-H", "Transfer-Encoding: chunked", put)
		want("413", "-T", file, w.entry.url("/small/file"))
		want("413", "-T", file, "-H", "Expect:", w.entry.url("/small/file"))
		want("413", "-T", file, "-H", "Expect:", "-H", "Transfer-Encoding: chunked", w.entry.url("/small/file"))
		back := filepath.Join(t.TempDir(), "back")
		if r := curl(t, "-H", to("nginx"), "-o", back, put); r.code != 0 || !sameFile(t, file, back) {
			t.Errorf("what was put came back as something else, status %d\n%s", r.code, r.stderr)
		}
		want("204", "-X", "DELETE", put)
		want("404", put)

		if r := curl(t, "-i", "--compressed", "-H", to("nginx"), w.entry.url("/text")); !strings.Contains(r.stdout, "Content-Encoding: gzip") || !strings.HasSuffix(r.stdout, "some text some text") {
			t.Errorf("a compressed response is %q\n%s", r.stdout, r.stderr)
		}
		// 200 that are never tried again, over connections that nginx ends.
		for range 3 {
			r := curl(t, "-Z", "--parallel-max", "10", "-H", to("nginx"), "-d", "x", "-o", "/dev/null", "-w", "%{http_code}\n", w.entry.url("/post?[1-200]"))
			if n := strings.Count(r.stdout, "200\n"); n != 200 {
				t.Errorf("of 200 POSTs %d succeeded, curl ended with status %d\n%s", n, r.code, r.stderr)
			}
			<-time.After(1100 * time.Millisecond) // in which nginx ends what is idle
		}
	})
}

//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nginxFiles is nginx as it serves files: it takes some, refuses those that are too large
// before they have come, compresses, and ends its connections after ten requests, or when
// they were idle for a while.
const nginxFiles = `
	keepalive_requests 10;
	keepalive_timeout 5s;
	location /put/ { dav_methods PUT DELETE; create_full_put_path on; client_max_body_size 16m; }
	location /small/ { dav_methods PUT; client_max_body_size 1k; }
	location = /text { gzip on; gzip_types *; gzip_min_length 1; default_type text/plain; return 200 "some text some text some text some text"; }
	location = /post { return 200 "posted\n"; }`

// TestNginx has nginx as the service, in each way that it can be spoken to.
func TestNginx(t *testing.T) {
	cert := newCertificate(t)
	plain, h2c, tls, h2 := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	nginx(t, plain, fmt.Sprintf("listen %s http2; listen %s ssl; listen %s ssl http2; ssl_certificate %s; ssl_certificate_key %s;\n%s",
		h2c, tls, h2, cert.file, cert.key, nginxFiles))
	trust := ", tls: {root_cas: '" + cert.file + "'}"
	forms := []struct{ name, addr, more string }{
		{"HTTP/1.1", plain, ""},
		{"HTTP/2", "h2c://" + h2c, ""},
		{"HTTP/2, found out", h2c, ""},
		{"TLS", "https://" + tls, trust},
		{"TLS with HTTP/2", "https://" + h2, trust},
		{"HTTP/2 over TLS", "grpcs://" + h2, trust},
		{"TLS, always HTTP/2", "https://" + h2, trust + ", upstream_protocol: h2"},
	}
	var listeners strings.Builder
	listeners.WriteString("listeners:\n")
	for i, form := range forms {
		listeners.WriteString(fmt.Sprintf("  - {endpoint_id: nginx-%d, addr: '%s'%s}\n", i, form.addr, form.more))
	}
	overEach(t, func(t *testing.T, w *way) {
		w.agents(t, listeners.String())
		for i, form := range forms {
			t.Run(form.name, func(t *testing.T) {
				t.Parallel()
				n := &nginxUser{t, w.entry, fmt.Sprint("nginx-", i), "/put/" + fmt.Sprint(w.entry.proxy, i)}
				w.waitKnown(t, n.endpoint)
				n.files()
				n.posts()
			})
		}
	})
}

// nginxUser is a client of nginx.
type nginxUser struct {
	t        *testing.T
	s        *server
	endpoint string
	put      string // where it puts a file
}

// want runs curl and wants a status.
func (n *nginxUser) want(status, path string, args ...string) {
	n.t.Helper()
	wantCurl(n.t, status, append(args, "-H", to(n.endpoint), "-o", "/dev/null", "-w", "%{http_code}", n.s.url(path))...)
}

func (n *nginxUser) files() {
	file := writeFile(n.t, n.t.TempDir(), "file", string(randomBytes(5<<20)))
	n.want("201", n.put, "-T", file)
	n.want("204", n.put, "-T", file)
	n.want("204", n.put, "-T", file, "-H", "Transfer-Encoding: chunked")
	n.want("413", "/small/file", "-T", file)
	n.want("413", "/small/file", "-T", file, "-H", "Expect:")
	n.want("413", "/small/file", "-T", file, "-H", "Expect:", "-H", "Transfer-Encoding: chunked")
	back := filepath.Join(n.t.TempDir(), "back")
	if r := curl(n.t, "-H", to(n.endpoint), "-o", back, n.s.url(n.put)); r.code != 0 || !sameFile(n.t, file, back) {
		n.t.Errorf("what was put came back as something else, status %d\n%s", r.code, r.stderr)
	}
	n.want("206", n.put, "-r", "100-199")
	n.want("204", n.put, "-X", "DELETE")
	n.want("404", n.put)
	r := curl(n.t, "-i", "--compressed", "-H", to(n.endpoint), n.s.url("/text"))
	if !strings.Contains(strings.ToLower(r.stdout), "content-encoding: gzip") || !strings.HasSuffix(r.stdout, "some text some text") {
		n.t.Errorf("a compressed response is %q\n%s", r.stdout, r.stderr)
	}
}

// posts sends what is never tried again, over connections that nginx ends.
func (n *nginxUser) posts() {
	for i := range 2 {
		if i > 0 {
			<-time.After(8 * time.Second) // in which nginx ends what is idle
		}
		r := curl(n.t, "-Z", "--parallel-max", "10", "-H", to(n.endpoint), "-d", "x", "-o", "/dev/null", "-w", "%{http_code}\n", n.s.url("/post?[1-200]"))
		if ok := strings.Count(r.stdout, "200\n"); ok != 200 {
			n.t.Errorf("of 200 POSTs %d succeeded, curl ended with status %d\n%s", ok, r.code, r.stderr)
		}
	}
}

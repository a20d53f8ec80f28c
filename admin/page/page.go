// Package page is the web page of the admin port: an overview of the cluster,
// its endpoints, and one endpoint with its tunnels, charts and errors.
//
// It is a handful of static files that are part of the binary: no build step,
// nothing is loaded from elsewhere, and nothing secret is in them. What the page
// shows it asks of the status API, with the token that its viewer typed, so the
// files themselves are for everybody. The policy that goes with them has the
// browser refuse scripts and styles that are not these files, HTML made of
// strings, frames around the page, and requests to any other host.
package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"piko/fault"
)

//go:embed files
var embedded embed.FS

// Prefix is where the files are that the page at "/" refers to.
const Prefix = "/ui/"

// policy lets the page do what it does and nothing else. With trusted types no
// text can become HTML, whatever a script does: endpoints, agent versions and
// errors are other people's words.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// file is one of the files as it is sent; it does not change.
type file struct {
	kind string // Content-Type
	etag string // of the plain form, with quotes
	body []byte
	gzip []byte // nil if that would not be smaller
}

// Handler returns the page and its files, at "/" and below Prefix. It answers
// GET and HEAD, without asking who it is. It panics if the files were built
// into the binary wrongly, which a test would find.
func Handler() http.Handler {
	return &handler{files: readFiles()}
}

// Wanted reports whether a request is for the page or one of its files. At "/"
// that takes somebody who reads HTML: programs get there what they always got.
func Wanted(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	if name, ok := strings.CutPrefix(r.URL.Path, Prefix); ok {
		return !strings.Contains(name, "/")
	}
	return r.URL.Path == "/" && strings.Contains(strings.ToLower(r.Header.Get("Accept")), "text/html")
}

type handler struct {
	files map[string]file // by path; static after construction
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch f, ok := h.files[r.URL.Path]; {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		fault.Write(w, r, fault.MethodNotAllowed)
	case ok:
		f.serve(w, r)
	case r.URL.Path == Prefix:
		w.Header().Set("Location", "../") // relative: something in front may have the port below a path
		w.WriteHeader(http.StatusFound)
	default:
		fault.Write(w, r, fault.NotFound)
	}
}

// serve answers with the file, or with 304 if the client has it. Browsers ask
// each time: after an upgrade nobody sees an old page with new data.
func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	for name, value := range map[string]string{
		"Content-Type":                 f.kind,
		"Content-Security-Policy":      policy,
		"X-Frame-Options":              "DENY",
		"X-Content-Type-Options":       "nosniff",
		"Referrer-Policy":              "no-referrer",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Cache-Control":                "no-cache",
		"Etag":                         f.etag,
	} {
		header.Set(name, value)
	}
	header.Add("Vary", "Accept, Accept-Encoding")
	body := f.body
	if f.gzip != nil && acceptsGzip(r) {
		header.Set("Content-Encoding", "gzip")
		header.Set("Etag", strings.TrimSuffix(f.etag, `"`)+`-gzip"`)
		body = f.gzip
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// acceptsGzip is enough of RFC 9110, 12.5.3: who does not want gzip does not
// name it, or names it with a weight of zero.
func acceptsGzip(r *http.Request) bool {
	for _, line := range r.Header.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(line, ",") {
			name, weight, _ := strings.Cut(strings.ToLower(coding), ";")
			weight = strings.TrimLeft(strings.ReplaceAll(weight, " ", ""), "q=")
			if strings.TrimSpace(name) == "gzip" && (weight == "" || strings.Trim(weight, "0.") != "") {
				return true
			}
		}
	}
	return false
}

// readFiles packs them once for all handlers.
var readFiles = sync.OnceValue(func() map[string]file {
	files := make(map[string]file)
	entries, err := fs.ReadDir(embedded, "files")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		body, err := embedded.ReadFile("files/" + e.Name())
		if err != nil {
			panic(err)
		}
		name := Prefix + e.Name()
		if e.Name() == "index.html" {
			name = "/"
		}
		files[name] = newFile(path.Ext(e.Name()), body)
	}
	return files
})

// kinds are the content types; those of package mime depend on the machine.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

func newFile(ext string, body []byte) file {
	sum := sha256.Sum256(body)
	f := file{kind: kinds[ext], etag: `"` + hex.EncodeToString(sum[:12]) + `"`, body: body}
	if f.kind == "" {
		f.kind = mime.TypeByExtension(ext)
	}
	var packed bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression) // fails for a bad level only
	_, _ = zw.Write(body)                                       // a buffer takes everything
	if zw.Close() == nil && packed.Len() < len(body) {
		f.gzip = packed.Bytes()
	}
	return f
}

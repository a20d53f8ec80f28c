package page

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	Handler().ServeHTTP(rec, r)
	return rec
}

func TestFiles(t *testing.T) {
	for path, kind := range map[string]string{
		"/":             "text/html; charset=utf-8",
		"/ui/main.js":   "text/javascript; charset=utf-8",
		"/ui/style.css": "text/css; charset=utf-8",
		"/ui/icon.svg":  "image/svg+xml",
	} {
		rec := get(t, path)
		if rec.Code != 200 || rec.Body.Len() == 0 || rec.Header().Get("Content-Type") != kind {
			t.Errorf("%s: %d, %d bytes of %q", path, rec.Code, rec.Body.Len(), rec.Header().Get("Content-Type"))
		}
		for name, part := range map[string]string{
			"Content-Security-Policy": "default-src 'none'",
			"X-Frame-Options":         "DENY",
			"X-Content-Type-Options":  "nosniff",
			"Referrer-Policy":         "no-referrer",
			"Cache-Control":           "no-cache",
			"Vary":                    "Accept",
		} {
			if got := rec.Header().Get(name); !strings.Contains(got, part) {
				t.Errorf("%s: %s is %q, want %q in it", path, name, got, part)
			}
		}
	}
}

// TestPolicy: nothing inline, nothing of others, no frame around, no HTML out of strings.
func TestPolicy(t *testing.T) {
	got := get(t, "/").Header().Get("Content-Security-Policy")
	for _, bad := range []string{"unsafe", "*", "http:", "https:", "data:"} {
		if strings.Contains(got, bad) {
			t.Errorf("the policy has %q: %s", bad, got)
		}
	}
	for _, want := range []string{"script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"} {
		if !strings.Contains(got, want) {
			t.Errorf("the policy lacks %q: %s", want, got)
		}
	}
}

// TestFilesKeepToThePolicy finds what a browser would refuse, and what would load from elsewhere.
func TestFilesKeepToThePolicy(t *testing.T) {
	total := 0
	for path, f := range readFiles() {
		total += len(f.body)
		text := strings.ReplaceAll(string(f.body), "http://www.w3.org/2000/svg", "")
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "http://", "https://", "@import", "url(", ` style="`} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
		if path == "/" && regexp.MustCompile(`<script[^>]*>[^<]|<style|\son\w+=`).MatchString(text) {
			t.Error("the page has an inline script or style")
		}
	}
	if total > 64<<10 {
		t.Errorf("the files have %d bytes; the page is meant to be small", total)
	}
}

// TestEveryFileIsThere reads which files the page and its modules ask for.
func TestEveryFileIsThere(t *testing.T) {
	files := readFiles()
	wanted := regexp.MustCompile(`(?:href|src)="(ui/[^"]+)"|from '\./([^']+)'`)
	for path, f := range files {
		for _, m := range wanted.FindAllStringSubmatch(string(f.body), -1) {
			name := "/" + m[1]
			if m[2] != "" {
				name = Prefix + m[2]
			}
			if _, ok := files[name]; !ok {
				t.Errorf("%s asks for %s, which is not there", path, name)
			}
		}
	}
}

// TestEveryCodeHasAMeaning compares the page's list with package fault.
func TestEveryCodeHasAMeaning(t *testing.T) {
	source, err := os.ReadFile("../../fault/code.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`(?m)^\s+\w+\s+Code = "([^"]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(codes) < 20 {
		t.Fatalf("found %d codes only", len(codes))
	}
	list := string(readFiles()["/ui/codes.js"].body)
	for _, code := range codes {
		if !strings.Contains(list, "'"+code[1]+"': ") {
			t.Errorf("codes.js does not say what %q means", code[1])
		}
	}
}

func TestETag(t *testing.T) {
	for _, path := range []string{"/", "/ui/main.js"} {
		for _, coding := range []string{"", "gzip"} {
			first := get(t, path, "Accept-Encoding", coding)
			tag := first.Header().Get("Etag")
			if again := get(t, path, "Accept-Encoding", coding, "If-None-Match", tag); tag == "" || again.Code != 304 || again.Body.Len() > 0 {
				t.Errorf("%s, %q: with %s: %d, %d bytes", path, coding, tag, again.Code, again.Body.Len())
			}
			if other := get(t, path, "Accept-Encoding", coding, "If-None-Match", `"other"`); other.Code != 200 {
				t.Errorf("%s, %q: with another tag: %d", path, coding, other.Code)
			}
		}
	}
	if get(t, "/").Header().Get("Etag") == get(t, "/", "Accept-Encoding", "gzip").Header().Get("Etag") {
		t.Error("both forms have the same tag")
	}
}

func TestGzip(t *testing.T) {
	plain := get(t, "/ui/style.css").Body.String()
	for accept, want := range map[string]bool{
		"gzip": true, "br, gzip;q=0.5": true, "GZIP ; q=1": true, "gzip;q=1.000": true,
		"": false, "br": false, "gzip;q=0": false, "gzip; q=0.0": false, "notgzip": false, "x-gzip": false,
	} {
		rec := get(t, "/ui/style.css", "Accept-Encoding", accept)
		if got := rec.Header().Get("Content-Encoding") == "gzip"; got != want {
			t.Errorf("Accept-Encoding %q: gzip is %v", accept, got)
			continue
		}
		body := rec.Body.String()
		if want {
			zr, err := gzip.NewReader(rec.Body)
			if err != nil {
				t.Fatal(err)
			}
			unpacked, err := io.ReadAll(zr)
			if body = string(unpacked); err != nil {
				t.Error(err)
			}
		}
		if body != plain {
			t.Errorf("Accept-Encoding %q: another text", accept)
		}
	}
}

func TestOtherRequests(t *testing.T) {
	h := Handler()
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"HEAD", "/", 200}, {"HEAD", "/ui/main.js", 200}, {"POST", "/", 405}, {"DELETE", "/ui/main.js", 405},
		{"GET", "/ui/", 302}, {"GET", "/ui/other.js", 404}, {"GET", "/ui/index.html", 404}, {"GET", "/ui/../page.go", 404}, {"GET", "/ui/files/main.js", 404},
	} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(tt.method, tt.path, nil))
		if rec.Code != tt.status || tt.method == "HEAD" && rec.Body.Len() > 0 {
			t.Errorf("%s %s: %d, %d bytes, want %d", tt.method, tt.path, rec.Code, rec.Body.Len(), tt.status)
		}
		if tt.status == 405 && rec.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s %s: Allow is %q", tt.method, tt.path, rec.Header().Get("Allow"))
		}
	}
}

func TestWanted(t *testing.T) {
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for _, tt := range []struct {
		method, path, accept string
		want                 bool
	}{
		{"GET", "/", browser, true}, {"HEAD", "/", browser, true}, {"POST", "/", browser, false},
		{"GET", "/", "*/*", false}, {"GET", "/", "", false}, {"GET", "/", "application/json", false},
		{"GET", "/ui/main.js", "*/*", true}, {"GET", "/ui/", "", true}, {"POST", "/ui/main.js", "", false},
		{"GET", "/status", browser, false}, {"GET", "/uix", browser, false}, {"GET", "//", browser, false}, {"GET", "/metrics", browser, false},
	} {
		r := httptest.NewRequest(tt.method, "http://node"+tt.path, nil)
		r.Header.Set("Accept", tt.accept)
		if got := Wanted(r); got != tt.want {
			t.Errorf("%s %s for %q: %v, want %v", tt.method, tt.path, tt.accept, got, tt.want)
		}
	}
}

package fault

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"
)

func response(status int, header http.Header, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))}
}

func TestReadRefused(t *testing.T) {
	html := http.Header{"Content-Type": {"text/html; charset=utf-8"}}
	js := http.Header{"Content-Type": {"application/json"}}
	tests := []struct {
		name   string
		res    *http.Response
		code   Code
		text   string
		inText string // of Error
	}{
		{"ours", response(401, js, `{"error":"token expired","code":"expired-token"}`), ExpiredToken, "token expired", "server refused with 401 Unauthorized: token expired"},
		{"a code that we do not know yet", response(503, js, `{"error":"later","code":"too-soon"}`), "too-soon", "later", "refused"},
		{"v0.9.0 has no codes", response(401, js, `{"error":"invalid token"}`), InvalidToken, "invalid token", "refused"},
		{"v0.9.0 without upstream", response(502, js, `{"error":"no available upstreams"}`), NoUpstream, "no available upstreams", "refused"},
		{"v0.9.0's text with another status", response(403, js, `{"error":"invalid token"}`), "", "invalid token", "not a piko error"},
		{"somebody's JSON", response(403, js, `{"error":"go away"}`), "", "go away", "server answered 403 Forbidden (not a piko error): go away"},
		{"JSON of another shape", response(403, js, `{"error":{"message":"x"}}`), "", "", "server answered 403 Forbidden (not a piko error)"},
		{"a code of odd bytes", response(400, js, `{"error":"x","code":"\u001b[31m"}`), "", "x", "not a piko"},
		{"a page", response(502, html, "<html><head><TITLE>\n502 Bad Gateway\n</title></head>"), "", "502 Bad Gateway", "502 Bad Gateway"},
		{"a page without title", response(502, html, "<p>nginx</p>"), "", "", "502 Bad Gateway"},
		{"text", response(400, http.Header{"Content-Type": {"text/plain"}}, "400 Bad Request: \x1b[2Jodd\r\nline\n"), "", "400 Bad Request: [2Jodd line", "odd line"},
		{"a picture", response(404, http.Header{"Content-Type": {"image/png"}}, "\x89PNG"), "", "", "404 Not Found"},
		{"only a header", response(503, http.Header{"X-Piko-Error": {"draining"}}, ""), Draining, "", "refused with 503 Service Unavailable: draining"},
		{"a status that has no name", response(599, nil, ""), "", "", "server answered 599 ("},
		{"no body", &http.Response{StatusCode: 407}, "", "", "407 Proxy Authentication Required"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ReadRefused(tt.res)
			if got.Code != tt.code || got.Text != tt.text || got.Status != tt.res.StatusCode {
				t.Errorf("got %d %q %q, want %q %q", got.Status, got.Code, got.Text, tt.code, tt.text)
			}
			if !strings.Contains(got.Error(), tt.inText) {
				t.Errorf("error %q lacks %q", got.Error(), tt.inText)
			}
			if tt.code != "" && !errors.Is(got, tt.code) {
				t.Errorf("errors.Is(%v, %s) is false", got, tt.code)
			}
			if errors.Is(got, Code("")) {
				t.Error("a refusal is the zero code")
			}
		})
	}
}

// TestRefusedRoundTrip: what Write says, ReadRefused understands.
func TestRefusedRoundTrip(t *testing.T) {
	for code := range kinds {
		for _, r := range []*http.Request{nil, grpcRequest("application/grpc")} {
			rec := httptest.NewRecorder()
			Write(rec, r, &Error{Code: code, RetryAfter: 3 * time.Second})
			got := ReadRefused(rec.Result())
			if got.Code != code || got.RetryAfter != 3*time.Second {
				t.Errorf("%s came back as %q, retry after %v", code, got.Code, got.RetryAfter)
			}
		}
	}
}

func TestRetryAfterOfOthers(t *testing.T) {
	date := "Tue, 03 Feb 2026 04:05:06 GMT"
	tests := []struct {
		value, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"0", "", 0},
		{" 120 ", "", 2 * time.Minute},
		{"4294967295", "", time.Hour},
		{"99999999999999999999", "", 0},
		{"-1", "", 0},
		{"soon", "", 0},
		{"Tue, 03 Feb 2026 04:06:06 GMT", date, time.Minute},
		{"Tue, 03 Feb 2026 04:04:06 GMT", date, 0},
		{"Tue, 03 Feb 2030 04:04:06 GMT", date, time.Hour},
		{"Tue, 03 Feb 2026 04:06:06 GMT", "", 0},
	}
	for _, tt := range tests {
		if got := parseRetryAfter(http.Header{"Retry-After": {tt.value}, "Date": {tt.date}}); got != tt.want {
			t.Errorf("%q: got %v, want %v", tt.value, got, tt.want)
		}
	}
}

type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}
func (e *endless) Close() error { return nil }

func TestReadRefusedIsBounded(t *testing.T) {
	body := &endless{}
	ReadRefused(&http.Response{StatusCode: 500, Body: body})
	if body.read > maxRefusedBody {
		t.Errorf("read %d bytes", body.read)
	}
}

func FuzzReadRefused(f *testing.F) {
	f.Add(401, "application/json", `{"error":"invalid token","code":"invalid-token"}`, "1")
	f.Add(502, "text/html", "<title>502</title>", "Tue, 03 Feb 2026 04:06:06 GMT")
	f.Add(400, "text/plain", "\x1b[2J\u2028\xff", "")
	f.Fuzz(func(t *testing.T, status int, contentType, body, after string) {
		got := ReadRefused(response(status, http.Header{"Content-Type": {contentType}, "Retry-After": {after}}, body))
		if len(got.Text) > maxRefusedText || got.RetryAfter < 0 || got.RetryAfter > maxRetryAfter {
			t.Errorf("out of bounds: %+v", got)
		}
		for _, r := range got.Error() {
			if !unicode.IsPrint(r) {
				t.Fatalf("error %q has %U", got.Error(), r)
			}
		}
	})
}

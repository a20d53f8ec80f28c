package fault

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func grpcRequest(contentType string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/pkg.Service/Method", nil)
	r.Header.Set("Content-Type", contentType)
	return r
}

func checkJSON(t *testing.T, code Code, status int, body, retryAfter string) {
	t.Helper()
	rec := httptest.NewRecorder()
	if got := Write(rec, httptest.NewRequest(http.MethodGet, "/", nil), New(code, errors.New("secret cause"))); got != status {
		t.Errorf("Write returned %d, want %d", got, status)
	}
	if rec.Code != status || rec.Body.String() != body {
		t.Errorf("got %d %q, want %d %q", rec.Code, rec.Body, status, body)
	}
	for name, want := range map[string]string{
		"X-Piko-Error": string(code), "Content-Type": "application/json", "Cache-Control": "no-store",
		"Retry-After": retryAfter, "Content-Length": strconv.Itoa(len(body)),
	} {
		if got := rec.Header().Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func checkGRPC(t *testing.T, code Code, status int) {
	t.Helper()
	rec := httptest.NewRecorder()
	if got := Write(rec, grpcRequest("application/grpc"), code); got != 200 {
		t.Errorf("Write of gRPC returned %d", got)
	}
	if rec.Code != 200 || rec.Body.Len() > 0 || rec.Flushed {
		t.Errorf("gRPC: got status %d, body %q, flushed %v; want trailers only", rec.Code, rec.Body, rec.Flushed)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/grpc", "Grpc-Status": strconv.Itoa(status),
		"Grpc-Message": code.Text(), "X-Piko-Error": string(code),
	} {
		if got := rec.Header().Get(name); got != want {
			t.Errorf("gRPC %s: got %q, want %q", name, got, want)
		}
	}
}

// TestWriteGRPCOverHTTP2 is what a gRPC client sees: one HEADERS frame that
// ends the stream, which net/http's client shows as no body and no trailer.
func TestWriteGRPCOverHTTP2(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Write(w, r, NoUpstream)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	res, err := srv.Client().Post(srv.URL, "application/grpc", strings.NewReader("unread message"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || len(body) > 0 || len(res.Trailer) > 0 || res.ProtoMajor != 2 {
		t.Errorf("got body %q, trailer %v, %s, error %v", body, res.Trailer, res.Proto, err)
	}
	if res.Header.Get("Grpc-Status") != "14" {
		t.Errorf("headers: %v", res.Header)
	}
}

func TestIsGRPC(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc;charset=utf-8": true,
		"Application/GRPC": true, "application/grpc-web": false, "application/grpc-web+proto": false,
		"application/json": false, "": false, "application/grp": false, "application/grpcx": false,
	} {
		if got := IsGRPC(http.Header{"Content-Type": {contentType}}); got != want {
			t.Errorf("%q: got %v", contentType, got)
		}
	}
}

func TestWriteKeepsTheCauseFromTheClient(t *testing.T) {
	for name, r := range map[string]*http.Request{
		"json": httptest.NewRequest(http.MethodGet, "/", nil), "grpc": grpcRequest("application/grpc+proto"), "no request": nil,
	} {
		t.Run(name, func(t *testing.T) {
			rec := httptest.NewRecorder()
			Write(rec, r, &Error{Code: InvalidToken, Detail: "token has no \"piko\" claim", Err: errors.New("CANARY")})
			seen := rec.Body.String() + strings.Join(rec.Header()["Grpc-Message"], "")
			if strings.Contains(seen, "CANARY") || !strings.Contains(seen, "claim") {
				t.Errorf("client saw %q", seen)
			}
		})
	}
}

func TestWriteUnknown(t *testing.T) {
	for name, err := range map[string]error{"no error": nil, "no code": &Error{}, "strange error": io.EOF} {
		rec := httptest.NewRecorder()
		if got := Write(rec, nil, err); got != 500 || rec.Header().Get("X-Piko-Error") != "internal" {
			t.Errorf("%s: got %d, %v", name, got, rec.Header())
		}
	}
}

func TestWriteReplacesTheBodysHeaders(t *testing.T) {
	rec := httptest.NewRecorder()
	for _, name := range []string{"Content-Encoding", "Etag", "Trailer", "Content-Length", "Allow"} {
		rec.Header().Set(name, "1")
	}
	Write(rec, nil, MethodNotAllowed)
	for _, name := range []string{"Content-Encoding", "Etag", "Trailer"} {
		if _, ok := rec.Header()[name]; ok {
			t.Errorf("%s is left over", name)
		}
	}
	if rec.Header().Get("Allow") != "1" {
		t.Error("Allow is gone")
	}
}

// TestWriteCloses: what follows a malformed request on its connection may be
// anything; on HTTP/2 the connection carries requests of others.
func TestWriteCloses(t *testing.T) {
	tests := []struct {
		code  Code
		major int
		want  string
	}{
		{MalformedRequest, 1, "close"}, {RequestTimeout, 1, "close"}, {NoUpstream, 1, ""}, {MalformedRequest, 2, ""},
	}
	for _, tt := range tests {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.ProtoMajor = tt.major
		rec := httptest.NewRecorder()
		Write(rec, r, tt.code)
		if got := rec.Header().Get("Connection"); got != tt.want {
			t.Errorf("%s on HTTP/%d: got Connection %q, want %q", tt.code, tt.major, got, tt.want)
		}
	}
}

// FuzzWrite: a detail may quote what a client sent.
func FuzzWrite(f *testing.F) {
	for _, s := range []string{"plain", "\r\nSet-Cookie: a=b", "\xff\xfe", "100 %", strings.Repeat("é", 600), " "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, detail string) {
		rec := httptest.NewRecorder()
		Write(rec, nil, &Error{Code: MalformedRequest, Detail: detail})
		var a answer
		if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil {
			t.Fatalf("body %q: %v", rec.Body, err)
		}
		if len(a.Error) > 3*maxText {
			t.Errorf("text of %d bytes", len(a.Error))
		}
		if utf8.ValidString(detail) && !strings.HasPrefix(detail, a.Error) && detail != "" {
			t.Errorf("got %q of %q", a.Error, detail)
		}
		rec = httptest.NewRecorder()
		Write(rec, grpcRequest("application/grpc"), &Error{Code: MalformedRequest, Detail: detail})
		for _, c := range []byte(rec.Header().Get("Grpc-Message")) {
			if c < ' ' || c > '~' {
				t.Fatalf("raw byte %q in grpc-message", c)
			}
		}
	})
}

package accesslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// line returns what is logged for a record.
func line(cfg Config, opt Options, r *Record) string {
	var b bytes.Buffer
	New(&b, cfg, opt).Log(r)
	return b.String()
}

func TestLines(t *testing.T) {
	access := Options{Subsystem: "proxy.access"}
	listed := Config{
		RequestHeaders:  HeaderFilter{Allow: []string{"user-agent"}},
		ResponseHeaders: HeaderFilter{Allow: []string{"content-type", "x-none"}},
	}
	full := typical()
	full.Tenant, full.Subject, full.TokenID = "acme", "ci", "0123456789abcdef"
	full.Hop, full.Retries, full.Err, full.Status = true, 2, "upstream unreachable: session closed", 502
	tests := []struct {
		name string
		cfg  Config
		opt  Options
		r    *Record
		want string
	}{
		{"v0.9.0's fields alone", Config{}, access, &Record{
			Time: typical().Time, Proto: "HTTP/1.1", Method: "GET", Host: "h", Path: "/", Status: 200, Duration: 1500 * time.Microsecond,
			RequestHeader: http.Header{"Accept": {"*/*", "text/plain"}},
		}, `{"level":"info","ts":"2026-02-03T04:05:06.789Z","subsystem":"proxy.access","msg":"request",` +
			`"request":{"proto":"HTTP/1.1","method":"GET","host":"h","path":"/","request_headers":{"Accept":["*/*","text/plain"]},` +
			`"response_headers":{},"status":200,"duration":"1.5ms","bytes_in":0,"bytes_out":0}}`},
		{"everything", listed, access, full, `{"level":"warn","ts":"2026-02-03T04:05:06.789Z","subsystem":"proxy.access","msg":"request",` +
			`"request":{"proto":"HTTP/1.1","method":"GET","host":"my-endpoint.example.com","path":"/api/v1/items/4711",` +
			`"request_headers":{"User-Agent":["Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"]},` +
			`"response_headers":{"Content-Type":["application/json"]},"status":502,"duration":"1.234567ms","bytes_in":0,"bytes_out":1234,` +
			`"endpoint":"my-endpoint","tenant":"acme","subject":"ci","token_id":"0123456789abcdef","client":"192.0.2.17:51234","node":"a1b2c3d","upstream":"10.1.2.3:40122","hop":true,` +
			`"request_id":"0f8fad5bd9cb469fa16570867728950e","retries":2,"error":"upstream unreachable: session closed"}}`},
		{"a connection opened", Config{Level: slog.LevelDebug}, access, &Record{
			Kind: Opened, Time: typical().Time, Subsystem: "proxy.http.access", Proto: "HTTP/1.1", Method: "GET", Host: "h", Path: "/ws", Status: 101, Endpoint: "e",
		}, `{"level":"debug","ts":"2026-02-03T04:05:06.789Z","subsystem":"proxy.http.access","msg":"connection opened",` +
			`"request":{"proto":"HTTP/1.1","method":"GET","host":"h","path":"/ws","request_headers":{},"response_headers":{},"status":101,"endpoint":"e"}}`},
		{"a connection closed", Config{Level: slog.LevelError}, access, &Record{
			Kind: Closed, Time: typical().Time, Proto: "HTTP/1.1", Method: "GET", Host: "h", Path: "/ws", Status: 101, BytesIn: 7, BytesOut: 9, Duration: time.Hour,
		}, `{"level":"error","ts":"2026-02-03T04:05:06.789Z","subsystem":"proxy.access","msg":"connection closed",` +
			`"request":{"proto":"HTTP/1.1","method":"GET","host":"h","path":"/ws","request_headers":{},"response_headers":{},"status":101,` +
			`"duration":"1h0m0s","bytes_in":7,"bytes_out":9}}`},
		{"text", listed, Options{Subsystem: "proxy.access", Text: true}, full, `ts=2026-02-03T04:05:06.789Z level=warn subsystem=proxy.access msg=request ` +
			`method=GET host=my-endpoint.example.com path=/api/v1/items/4711 proto=HTTP/1.1 status=502 duration=1.234567ms bytes_in=0 bytes_out=1234 ` +
			`endpoint=my-endpoint tenant=acme subject=ci token_id=0123456789abcdef client=192.0.2.17:51234 node=a1b2c3d upstream=10.1.2.3:40122 hop=true request_id=0f8fad5bd9cb469fa16570867728950e ` +
			`retries=2 error="upstream unreachable: session closed" request_headers.User-Agent="Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0" ` +
			`response_headers.Content-Type="application/json"`},
		{"text without an allow list has no headers", Config{}, Options{Text: true}, &Record{
			Kind: Opened, Time: typical().Time, Method: "GET", Host: "h", Path: "/a b", Status: 101, RequestHeader: typical().RequestHeader,
		}, `ts=2026-02-03T04:05:06.789Z level=info msg="connection opened" method=GET host=h path="/a b" status=101`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := line(tt.cfg, tt.opt, tt.r); got != tt.want+"\n" {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
}

func TestEnabled(t *testing.T) {
	tests := []struct {
		name   string
		cfg    Config
		min    slog.Leveler
		status int
		want   bool
	}{
		{"no minimum", Config{Level: slog.LevelDebug}, nil, 200, true},
		{"at the minimum", Config{}, slog.LevelInfo, 200, true},
		{"below it", Config{}, slog.LevelWarn, 499, false},
		{"a failure is a warning", Config{}, slog.LevelWarn, 500, true},
		{"a failure at debug is a warning too", Config{Level: slog.LevelDebug}, slog.LevelWarn, 502, true},
		{"a failure of an error log stays an error", Config{Level: slog.LevelError}, slog.LevelError, 502, true},
		{"off", Config{Disable: true}, nil, 500, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opt := Options{MinLevel: tt.min}
			if got := New(io.Discard, tt.cfg, opt).Enabled(tt.status); got != tt.want {
				t.Errorf("enabled: %v", got)
			}
			if got := line(tt.cfg, opt, &Record{Status: tt.status}) != ""; got != tt.want {
				t.Errorf("logged: %v", got)
			}
		})
	}
	var off *Logger
	if off.Enabled(500) {
		t.Error("a nil Logger is on")
	}
	off.Log(&Record{})
}

// TestLevelChangesAtRunTime: the level may be reloaded.
func TestLevelChangesAtRunTime(t *testing.T) {
	level := new(slog.LevelVar)
	l := New(io.Discard, Config{}, Options{MinLevel: level})
	if level.Set(slog.LevelError); l.Enabled(200) {
		t.Error("still on")
	}
}

func TestNowIfNoTime(t *testing.T) {
	var got struct{ TS time.Time }
	before := time.Now().Add(-time.Second)
	if err := json.Unmarshal([]byte(line(Config{}, Options{}, &Record{})), &got); err != nil || got.TS.Before(before) {
		t.Errorf("ts is %v, error %v", got.TS, err)
	}
}

func TestHeaders(t *testing.T) {
	h := http.Header{
		"Accept": {"a", "b"}, "Authorization": {"CANARY"}, "cookie": {"CANARY"}, "X-PIKO-AUTHORIZATION": {"CANARY"},
		"Set-Cookie": {"CANARY", "CANARY"}, "Proxy-Authorization": {"CANARY"}, "X-Own": {""},
		"X_piko_authorization": {"CANARY"}, "Set_cookie": {"CANARY"}, "X-Piko-Tenant-Id": {"CANARY"}, "x_piko_tenant_id": {"CANARY"},
	}
	hidden := []string{redacted}
	tests := []struct {
		name   string
		filter HeaderFilter
		want   http.Header
	}{
		{"secrets are redacted, whatever the case of the name", HeaderFilter{}, http.Header{
			"Accept": {"a", "b"}, "X-Own": {""}, "Authorization": hidden, "cookie": hidden,
			"X-PIKO-AUTHORIZATION": hidden, "Set-Cookie": {redacted, redacted}, "Proxy-Authorization": hidden,
			"X_piko_authorization": hidden, "Set_cookie": hidden,
		}},
		{"an allow list is the whole list", HeaderFilter{Allow: []string{"ACCEPT", "x-none"}}, http.Header{"Accept": {"a", "b"}}},
		{"an allow list shows what it names", HeaderFilter{Allow: []string{"authorization"}}, http.Header{"Authorization": {"CANARY"}}},
		{"a block list", HeaderFilter{Block: []string{"accept", "COOKIE", "set-cookie", "proxy-authorization"}}, http.Header{
			"X-Own": {""}, "Authorization": hidden, "X-PIKO-AUTHORIZATION": hidden, "X_piko_authorization": hidden,
		}},
		{"nothing shows what is piko's own", HeaderFilter{Allow: []string{"x-piko-authorization", "x_piko_authorization", "x-piko-tenant-id"}}, http.Header{
			"X-PIKO-AUTHORIZATION": hidden, "X_piko_authorization": hidden,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got struct {
				Request struct {
					Req http.Header `json:"request_headers"`
					Res http.Header `json:"response_headers"`
				}
			}
			cfg := Config{RequestHeaders: tt.filter, ResponseHeaders: tt.filter}
			if err := json.Unmarshal([]byte(line(cfg, Options{}, &Record{RequestHeader: h, ResponseHeader: h})), &got); err != nil {
				t.Fatal(err)
			}
			for _, header := range []http.Header{got.Request.Req, got.Request.Res} {
				if !reflect.DeepEqual(header, tt.want) {
					t.Errorf("got %v, want %v", header, tt.want)
				}
			}
		})
	}
	text := line(Config{RequestHeaders: HeaderFilter{Allow: []string{"accept"}}}, Options{Text: true}, &Record{RequestHeader: h})
	if strings.Contains(text, "CANARY") {
		t.Errorf("text shows a secret: %s", text)
	}
}

func TestHeaderFilterValidate(t *testing.T) {
	for _, f := range []HeaderFilter{{}, {Allow: []string{"a"}}, {Block: []string{"a"}}} {
		if err := f.Validate(); err != nil {
			t.Errorf("%v: %v", f, err)
		}
	}
	if (HeaderFilter{Allow: []string{"a"}, Block: []string{"b"}}).Validate() == nil {
		t.Error("both lists at once are accepted")
	}
}

// TestLinesAreBounded: a request may have 1 MiB of headers, in few or in many
// names and values.
func TestLinesAreBounded(t *testing.T) {
	wide, deep, long := http.Header{}, http.Header{}, http.Header{}
	for i := range 5000 {
		wide.Add("X-"+strings.Repeat("a", i%200)+string(rune('a'+i%26)), "v")
		deep.Add("X-Deep", "v")
	}
	for i := range 60 {
		long.Set("X-"+strings.Repeat("b", i), strings.Repeat("\x01", 1<<14))
	}
	huge := strings.Repeat("x", 1<<20)
	for name, h := range map[string]http.Header{"wide": wide, "deep": deep, "long": long} {
		for _, text := range []bool{false, true} {
			r := &Record{Host: huge, Path: huge, Method: huge, Client: huge, Err: huge, RequestHeader: h, ResponseHeader: h}
			cfg := Config{RequestHeaders: HeaderFilter{Allow: []string{"x-deep"}}}
			if !text {
				cfg = Config{}
			}
			got := line(cfg, Options{Text: text}, r)
			if len(got) > 30<<10 {
				t.Errorf("%s: line of %d bytes", name, len(got))
			}
			if !text {
				checkLine(t, got)
			}
		}
	}
	if got := line(Config{}, Options{}, &Record{RequestHeader: wide}); !strings.Contains(got, " more\"]}") {
		t.Error("nothing says that headers are missing")
	}
}

// checkLine is what every line has to be: one line of JSON with nothing in it
// that a terminal or a reader of lines could take for anything else.
func checkLine(t *testing.T, got string) {
	t.Helper()
	if !json.Valid([]byte(got)) {
		t.Errorf("no JSON: %q", got)
	}
	if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") {
		t.Errorf("not one line: %q", got)
	}
	checkPrintable(t, strings.TrimSuffix(got, "\n"))
}

func checkPrintable(t *testing.T, got string) {
	t.Helper()
	for _, r := range got {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			t.Fatalf("raw %U in %q", r, got)
		}
	}
}

var attacks = []string{
	"\r\nlevel=error", "\x1b[2J\x1b]0;title\a", "\u2028\u2029\u0085\u009b", "\xff\xfe\xc0\x80", "\x00\x7f", `"},"level":"error`, `\`, `\u0000`,
	"\u202egnp.exe", "\u200b\ufeff", "\U000e0041", "=\"", "a=b c=d", " ", "é漢😀", strings.Repeat("é", 200), strings.Repeat("x", 255) + "é",
}

// TestLogInjection puts every attack into every field.
func TestLogInjection(t *testing.T) {
	for _, s := range attacks {
		h := http.Header{s: {s}, "X-Listed": {s}}
		r := &Record{
			Subsystem: s, Proto: s, Method: s, Host: s, Path: s, Endpoint: s, Client: s, Node: s, Upstream: s,
			Tenant: s, Subject: s, TokenID: s, RequestID: s, Err: s, RequestHeader: h, ResponseHeader: h,
		}
		checkLine(t, line(Config{}, Options{}, r))
		listed := Config{RequestHeaders: HeaderFilter{Allow: []string{"x-listed"}}}
		text := line(listed, Options{Text: true}, r)
		checkPrintable(t, strings.TrimSuffix(text, "\n"))
		if strings.Contains(text, " level=error") || strings.Contains(text, " c=d ") && strings.Contains(text, "=a=b") {
			t.Errorf("a value became a field: %s", text)
		}
	}
}

func TestLogAllocatesNothing(t *testing.T) {
	r := typical()
	for _, opt := range []Options{{}, {Text: true}} {
		l := New(io.Discard, Config{}, opt)
		if got := testing.AllocsPerRun(500, func() { l.Log(r) }); got >= 1 {
			t.Errorf("text %v: %v allocations", opt.Text, got)
		}
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestLogToAFailingSink(t *testing.T) {
	New(failing{}, Config{}, Options{}).Log(typical())
}

// A list of fields makes the line that the header made of it does.
func TestFieldsAreWrittenLikeAHeader(t *testing.T) {
	many := make([]Field, 0, 200)
	for i := range cap(many) {
		many = append(many, Field{fmt.Sprintf("X-%03d", cap(many)-i), strings.Repeat("v", i)})
	}
	epoch := time.Unix(0, 0).UTC()
	for name, list := range map[string][]Field{
		"none": {},
		"some": {{"User-Agent", "curl"}, {"Accept", "*/*"}, {"Cookie", "secret"}},
		"one name, several values": {
			{"Set-Cookie", "secret"}, {"B", "1"}, {"Set-Cookie", "secret"}, {"A", ""}, {"B", "2"}, {"B", "3\n"},
		},
		"more values than are shown": slices.Repeat([]Field{{"A", "1"}, {"Accept", "2"}}, 20),
		"few of more than are shown": many[:60],
		"tokens":                     {{"X-Piko-Authorization", "secret"}, {"Authorization", "secret"}, {"X-Piko-Tenant-Id", "t"}},
	} {
		t.Run(name, func(t *testing.T) {
			header := make(http.Header)
			for _, f := range list {
				header.Add(f.Name, f.Value)
			}
			for _, text := range []bool{false, true} {
				for _, cfg := range []Config{{}, {RequestHeaders: HeaderFilter{Allow: []string{"accept", "b", "x-010"}}}, {RequestHeaders: HeaderFilter{Block: []string{"b"}}}} {
					got := line(cfg, Options{Text: text}, &Record{Time: epoch, RequestFields: list, ResponseFields: list})
					want := line(cfg, Options{Text: text}, &Record{Time: epoch, RequestHeader: header, ResponseHeader: header})
					if got != want {
						t.Errorf("got  %s\nwant %s", got, want)
					}
					if strings.Contains(got, "secret") {
						t.Errorf("a secret in %s", got)
					}
				}
			}
		})
	}
	if got := line(Config{}, Options{}, &Record{Time: epoch, RequestFields: many}); strings.Count(got, `"X-`) > maxHeaders || !strings.Contains(got, ` more"]`) {
		t.Errorf("%d fields: got %s", len(many), got)
	}
}

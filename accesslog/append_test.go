package accesslog

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestAppendQuoted(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", `""`},
		{"plain text", `"plain text"`},
		{`a "b" \c`, `"a \"b\" \\c"`},
		{"a\nb\rc\td", `"a\nb\rc\td"`},
		{"\x00\x1b\x7f", `"\u0000\u001b\u007f"`},
		{"é漢😀", `"é漢😀"`},
		{"\u2028\u0085\u202e", `"\u2028\u0085\u202e"`},
		{"\U000e0041", `"\udb40\udc41"`},
		{"a\xffb", `"a\ufffdb"`},
		{strings.Repeat("x", 256), `"` + strings.Repeat("x", 256) + `"`},
		{strings.Repeat("x", 257), `"` + strings.Repeat("x", 256) + `..."`},
		{strings.Repeat("x", 255) + "é", `"` + strings.Repeat("x", 255) + `..."`},
		{strings.Repeat("\x80", 300), `"` + strings.Repeat(`\ufffd`, 256) + `..."`},
	}
	for _, tt := range tests {
		if got := string(appendQuoted(nil, tt.in)); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.in, got, tt.want)
		}
	}
}

func FuzzAppendQuoted(f *testing.F) {
	for _, s := range attacks {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		quoted := appendQuoted(nil, s)
		var got string
		if err := json.Unmarshal(quoted, &got); err != nil {
			t.Fatalf("%q became %s: %v", s, quoted, err)
		}
		checkPrintable(t, string(quoted))
		text, long := strings.CutSuffix(got, "...")
		if len(s) <= maxValue {
			text, long = got, false
		}
		if long && utf8.ValidString(s) && len(text) < maxValue-utf8.UTFMax {
			t.Errorf("cut to %d bytes", len(text))
		}
		if utf8.ValidString(s) && !strings.HasPrefix(s, text) || len(s) > maxValue && !long {
			t.Errorf("%q came back as %q", s, got)
		}
		if !long && text != string([]rune(s)) {
			t.Errorf("%q came back as %q", s, got)
		}
	})
}

func FuzzAppendDuration(f *testing.F) {
	for _, d := range []int64{0, 1, 999, 1000, 1001, 999_999, 1e6, 1_234_567, 1e9, 59_999_999_999, 60e9, 3600e9, 3661e9 + 5, 100 * 3600e9, -1, -1500, math.MinInt64, math.MaxInt64} {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, n int64) {
		d := time.Duration(n)
		if got := string(appendDuration(nil, d)); got != d.String() {
			t.Errorf("%d: got %s, want %s", n, got, d)
		}
	})
}

package tunnel

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestVersionOfAnUpstream(t *testing.T) {
	for agent, want := range map[string]string{
		"piko/v1.2.3":                         "v1.2.3",
		"piko/devel":                          "devel",
		"piko":                                "",
		"piko/":                               "",
		"Go-http-client/1.1":                  "",
		"piko/v1 <script>":                    "",
		"piko/" + strings.Repeat("a", 65):     "",
		"piko/v1.2.4-0.20260101120000-abcdef": "v1.2.4-0.20260101120000-abcdef",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("User-Agent", agent)
		if got := ReadHello(r).Version; got != want {
			t.Errorf("%q: got %q, want %q", agent, got, want)
		}
	}
	if got := readVersion(userAgent()); got == "" {
		t.Errorf("our own %q names no version", userAgent())
	}
}

package inspect

import (
	"strings"
	"testing"
)

func TestSecretsInHeaders(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"Authorization", "Bearer abc", "Bearer [redacted]"},
		{"Authorization", "abc", "[redacted]"},
		{"Proxy-Authorization", "Basic dXNlcg==", "Basic [redacted]"},
		{"Cookie", "a=1; session=xyz", "a=[redacted]; session=[redacted]"},
		{"Cookie", "odd", "[redacted]"},
		{"Set-Cookie", "sid=abc; Path=/; Max-Age=60; HttpOnly", "sid=[redacted]; Path=/; Max-Age=60; HttpOnly"},
		{"Set-Cookie", "path=secret; path=/", "path=[redacted]; path=/"},
		{"X-Api-Key", "k", "[redacted]"},
		{"x-auth-token", "k", "[redacted]"},
		{"X-Csrf-Token", "k", "[redacted]"},
		{"X-Amz-Security-Token", "k", "[redacted]"},
		{"X-Hub-Signature-256", "sha256=abc", "sha256=abc"},
		{"Stripe-Signature", "t=1,v1=abc", "t=1,v1=abc"},
		{"Access-Control-Allow-Credentials", "true", "true"},
		{"Www-Authenticate", `Bearer realm="x"`, `Bearer realm="x"`},
		{"Location", "/cb?code=1&access_token=abc&x=y#id_token=z", "/cb?code=1&access_token=[redacted]&x=y#id_token=[redacted]"},
		{"X-Jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "[redacted]"},
		{"X-Any", "see eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln there", "see [redacted] there"},
		{"Content-Type", "text/plain; charset=utf-8", "text/plain; charset=utf-8"},
		{"Content-Length", "12", "12"},
		{"Authorization", "", ""},
	} {
		if got := redactHeader(c.name, c.value); got != c.want {
			t.Errorf("%s: %s becomes %q, want %q", c.name, c.value, got, c.want)
		}
	}
}

func TestSecretsInTexts(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"/a?b=c", "/a?b=c"},
		{"/a?token=abc", "/a?token=[redacted]"},
		{"/a?x=1&api_key=abc&y=2", "/a?x=1&api_key=[redacted]&y=2"},
		{"/a?API-KEY=abc", "/a?API-KEY=[redacted]"},
		{"user=joe&password=p%20w", "user=joe&password=[redacted]"},
		{`{"password": "a\"b", "n": 1}`, `{"password": "[redacted]", "n": 1}`},
		{`{"a":{"client_secret":"x"},"refresh_token":"y"}`, `{"a":{"client_secret":"[redacted]"},"refresh_token":"[redacted]"}`},
		{`{"max_tokens":100,"note":"token"}`, `{"max_tokens":100,"note":"token"}`},
		{`{"url":"https://a/?token=abc"}`, `{"url":"https://a/?token=[redacted]"}`},
		{`{"password":"cut off he`, `{"password":"[redacted]`},
		{"--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nhunter2\r\n--b--", "--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n[redacted]\r\n--b--"},
		{"--b\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n--b--", "--b\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n--b--"},
		{"", ""},
	} {
		got := redactText(c.text)
		if got != c.want {
			t.Errorf("%q becomes %q, want %q", c.text, got, c.want)
		}
		if back, ok := reveal(got, c.text, secretSpans(c.text)); !ok || back != c.text {
			t.Errorf("%q comes back as %q", c.text, back)
		}
	}
}

func TestShowSecrets(t *testing.T) {
	i := start(t, Config{ShowSecrets: true}, echo)
	i.send("POST", "/?token=abc", `{"password":"p"}`, "Authorization", "Bearer xyz")
	d := i.one("/api/exchanges/1")
	if d.Path != "/?token=abc" || d.Request.Body.Text != `{"password":"p"}` || value(d.Request.Headers, "Authorization") != "Bearer xyz" {
		t.Errorf("%+v", d)
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("/a?token=abc&x=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "token=abc")
	f.Add(`{"password":"a\"b","url":"?token=1"}`, "a=b; Path=/")
	f.Add("name=\"password\"\r\n\r\nhunter2", "=;=;")
	f.Fuzz(func(t *testing.T, text, cookie string) {
		for _, c := range []struct {
			text  string
			spans []span
		}{{text, secretSpans(text)}, {cookie, headerSpans("Set-Cookie", cookie)}, {cookie, headerSpans("X-Any", cookie)}} {
			at := 0
			for _, s := range c.spans {
				if s.from < at || s.to < s.from || s.to > len(c.text) {
					t.Fatalf("spans %v of %q", c.spans, c.text)
				}
				at = s.to
			}
			if strings.Contains(c.text, redacted) {
				continue
			}
			if back, ok := reveal(hide(c.text, c.spans), c.text, c.spans); !ok || back != c.text {
				t.Fatalf("%q comes back as %q", c.text, back)
			}
		}
	})
}

package inspect

import (
	"net/http"
	"regexp"
	"strings"
)

// redacted stands where a secret is not shown.
const redacted = "[redacted]"

// secretWords are what names of secrets have in them, in lower case and without
// what separates words.
var secretWords = []string{
	"password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "privatekey", "authorization",
	"credential", "sessionid", "sessionkey", "cookie", "signature",
}

// secretNames are names of secrets that would be too much as a part of others.
var secretNames = map[string]bool{
	"pwd": true, "pass": true, "auth": true, "jwt": true, "sig": true, "key": true, "session": true, "sid": true, "otp": true, "pin": true,
	"xauth": true, "xkey": true, "cvc": true, "cvv": true,
}

// isSecret reports whether a field of the name holds what nobody should see who
// looks over a shoulder or is sent a log.
func isSecret(name string) bool {
	name = strings.ToLower(strings.NewReplacer("-", "", "_", "", ".", "").Replace(name))
	if secretNames[name] {
		return true
	}
	for _, word := range secretWords {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

var (
	// textSecrets finds the values that may be secrets: of parameters, of the
	// strings in JSON, of the parts of a form, and tokens by their looks (JWT).
	// What was cut off may end anywhere.
	textSecrets = regexp.MustCompile(
		`(?:^|[?&#;\s])([A-Za-z0-9_.\-\[\]%]{1,64})=([^&#;\s"'<>]+)` +
			`|"([^"\\]{1,64})"\s*:\s*"((?:[^"\\]|\\.)+)` +
			`|[Nn][Aa][Mm][Ee]="([^"\r\n]{1,64})"[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*\r?\n([^\r\n]+)` +
			`|(eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.?[A-Za-z0-9_-]*)`)

	// cookieSecrets finds the values of cookies, whose names tell nothing.
	cookieSecrets = regexp.MustCompile(`(?:^|;\s*)[^=;\s]+=([^;]+)`)
)

// attributes are those of Set-Cookie, which are no secrets.
var attributes = regexp.MustCompile(`^(?i)(?:;\s*)?(?:path|domain|expires|max-age|samesite|priority)=`)

// span is a part of a text.
type span struct{ from, to int }

// secretSpans finds the secrets of a text that is no header's.
func secretSpans(text string) []span {
	var spans []span
	for at := 0; at < len(text); {
		m := textSecrets.FindStringSubmatchIndex(text[at:])
		if m == nil {
			break
		}
		next := at + m[1]
		for _, pair := range [][2]int{{2, 4}, {6, 8}, {10, 12}} {
			if m[pair[0]] < 0 {
				continue
			}
			value := span{at + m[pair[1]], at + m[pair[1]+1]}
			switch {
			case isSecret(text[at+m[pair[0]] : at+m[pair[0]+1]]):
				spans = append(spans, value)
			default:
				next = value.from // the value may hold some
			}
		}
		if m[14] >= 0 {
			spans = append(spans, span{at + m[14], at + m[15]})
		}
		at = max(next, at+1)
	}
	return spans
}

// headerSpans finds the secrets of a header's value.
func headerSpans(name, value string) []span {
	switch name = http.CanonicalHeaderKey(name); name {
	case "Cookie", "Set-Cookie":
		return cookieSpans(value)
	case "Authorization", "Proxy-Authorization":
		if scheme, rest, ok := strings.Cut(value, " "); ok && rest != "" {
			return []span{{len(scheme) + 1, len(value)}}
		}
	case "Www-Authenticate", "Proxy-Authenticate", "Authentication-Info", "Sec-Websocket-Key", "Sec-Websocket-Accept":
		return nil
	}
	if strings.HasSuffix(name, "Signature") || strings.Contains(name, "-Signature-") {
		return nil // of a webhook: worth nothing without its body, and the first thing to look at
	}
	if isSecret(name) && !strings.HasPrefix(name, "Access-Control-") && value != "" {
		return []span{{0, len(value)}}
	}
	return secretSpans(value)
}

func cookieSpans(value string) []span {
	var spans []span
	for _, m := range cookieSecrets.FindAllStringSubmatchIndex(value, -1) {
		if !attributes.MatchString(value[m[0]:m[1]]) || m[0] == 0 {
			spans = append(spans, span{m[2], m[3]})
		}
	}
	if spans == nil && value != "" {
		return []span{{0, len(value)}}
	}
	return spans
}

// hide replaces the spans of a text.
func hide(text string, spans []span) string {
	if len(spans) == 0 {
		return text
	}
	var b strings.Builder
	at := 0
	for _, s := range spans {
		b.WriteString(text[at:s.from])
		b.WriteString(redacted)
		at = s.to
	}
	b.WriteString(text[at:])
	return b.String()
}

// reveal puts the secrets of the original back into what became of it after they
// were hidden and it was edited: in their order. It says false if there are not
// as many places as secrets.
func reveal(edited, original string, spans []span) (string, bool) {
	parts := strings.Split(edited, redacted)
	if len(parts) == 1 {
		return edited, true
	}
	if len(parts)-1 != len(spans) {
		return edited, false
	}
	var b strings.Builder
	for i, part := range parts {
		b.WriteString(part)
		if i < len(spans) {
			b.WriteString(original[spans[i].from:spans[i].to])
		}
	}
	return b.String(), true
}

// redactText is a text without the secrets that are known by their names or looks.
func redactText(text string) string { return hide(text, secretSpans(text)) }

// redactHeader is the same of a header's value.
func redactHeader(name, value string) string { return hide(value, headerSpans(name, value)) }

package proxy

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"piko/accesslog"
	"piko/auth"
	"piko/fault"
)

// protocols are all that a client can ask in; each asks for an endpoint with further fields, which are name, value, ...
var protocols = map[string]func(w *world, endpoint string, fields []string) string{
	"HTTP/1.1": func(w *world, endpoint string, fields []string) string {
		return w.ask("GET / HTTP/1.1\r\nHost: h\r\nX-Piko-Endpoint: "+endpoint+"\r\n", fields)
	},
	"WebSocket": func(w *world, endpoint string, fields []string) string {
		return w.ask("GET / HTTP/1.1\r\nHost: h\r\nX-Piko-Endpoint: "+endpoint+"\r\n"+webSocket, fields)
	},
	"TCP": func(w *world, endpoint string, fields []string) string {
		return w.ask("GET /_piko/v1/tcp/"+endpoint+" HTTP/1.1\r\nHost: h\r\n"+webSocket, fields)
	},
	"HTTP/2": func(w *world, endpoint string, fields []string) string {
		return w.ask2("GET", append([]string{"x-piko-endpoint", endpoint}, fields...))
	},
	"gRPC": func(w *world, endpoint string, fields []string) string {
		return w.ask2("POST", append([]string{"content-type", "application/grpc", "te", "trailers", "x-piko-endpoint", endpoint}, fields...))
	},
}

const webSocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// ask sends a request of HTTP/1.1 and returns what tells answers apart: status, code, and whether a 401 says how.
func (w *world) ask(head string, fields []string) string {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for i := 0; i < len(fields); i += 2 {
		head += fields[i] + ": " + fields[i+1] + "\r\n"
	}
	io.WriteString(c, head+"\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err.Error()
	}
	return summarize(fmt.Sprint(res.StatusCode), res.Header)
}

// ask2 is ask over HTTP/2; for gRPC the status is that of gRPC.
func (w *world) ask2(method string, fields []string) string {
	w.t.Helper()
	c := w.dialHTTP2()
	defer c.nc.Close()
	all := []string{":method", method, ":scheme", "http", ":path", "/", ":authority", "h"}
	for i := 0; i < len(fields); i += 2 {
		all = append(all, strings.ToLower(fields[i]), fields[i+1])
	}
	c.request(1, true, all...)
	a := c.read(1)
	if a.reset != "" {
		return a.reset
	}
	return summarize(a.status, a.header)
}

func summarize(status string, h http.Header) string {
	if s := h.Get("Grpc-Status"); s != "" {
		status = "grpc " + s
	}
	code := h.Get("X-Piko-Error")
	if status == "401" && !strings.HasPrefix(h.Get("WWW-Authenticate"), "Bearer") {
		status = "401 without WWW-Authenticate"
	}
	return strings.TrimSpace(status + " " + code)
}

// serveAll serves an endpoint to every protocol, and counts the connections.
func (w *world) serveAll(endpoint string) *atomic.Int32 {
	var reached atomic.Int32
	w.serveRaw(endpoint, func(c net.Conn, r *bufio.Reader) {
		reached.Add(1)
		req, err := http.ReadRequest(r)
		switch {
		case err != nil: // a raw connection, which the client closes
		case req.Header.Get("Upgrade") != "":
			io.WriteString(c, "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(io.Discard, r)
		default:
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		}
	})
	return &reached
}

// Tokens of every wrong kind, in every protocol: none of them gets through, and what they get says which it was.
func TestTokensOfEveryWrongKind(t *testing.T) {
	t.Parallel()
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, secured(t, nil))
		reached := w.serveAll("e")
		now := time.Now().Unix()
		none := part(map[string]string{"alg": "none"}) + "." + part(good) + "."
		token := mint(keyAll, good)
		head, rest, _ := strings.Cut(token, ".")
		payload, signature, _ := strings.Cut(rest, ".")
		with := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
		kinds := []struct {
			name   string
			fields []string
			want   fault.Code
		}{
			{"none", nil, fault.MissingAuthorization},
			{"an empty one", []string{"Authorization", ""}, fault.MissingAuthorization},
			{"without a scheme", []string{"Authorization", token}, fault.InvalidAuthorization},
			{"Basic", []string{"Authorization", "Basic dTpw"}, fault.UnsupportedAuthType},
			{"rubbish", with("rubbish"), fault.InvalidToken},
			{"alg none", with(none), fault.InvalidToken},
			{"alg none, signed", with(none + signature), fault.InvalidToken},
			{"another key", with(mint(keyAcme, good)), fault.InvalidToken},
			{"expired", with(mint(keyAll, good.with("exp", now-60))), fault.ExpiredToken},
			{"not yet valid", with(mint(keyAll, good.with("nbf", now+3600))), fault.InvalidToken},
			{"from the future", with(mint(keyAll, good.with("iat", now+3600))), fault.InvalidToken},
			{"another audience", with(mint(keyAll, good.with("aud", "other"))), fault.InvalidToken},
			{"another issuer", with(mint(keyAll, good.with("iss", "other"))), fault.InvalidToken},
			{"without audience", with(mint(keyAll, claims{"iss": "idp"})), fault.InvalidToken},
			{"cut short", with(token[:len(token)-4]), fault.InvalidToken},
			{"two parts", with(head + "." + payload), fault.InvalidToken},
			{"another's payload", with(head + "." + part(good.with("sub", "other")) + "." + signature), fault.InvalidToken},
			{"10 KiB", with(mint(keyAll, good.with("pad", strings.Repeat("a", 10<<10)))), fault.InvalidToken},
			{"dots", with(strings.Repeat(".", 9<<10)), fault.InvalidToken},
			{"padded base64", with(head + "=." + payload + "." + base64.URLEncoding.EncodeToString([]byte(signature))), fault.InvalidToken},
			{"two", append(with(token), with(token)...), fault.MalformedRequest},
			{"two of ours", []string{"x-piko-authorization", "Bearer " + token, "X-Piko-Authorization", "Bearer " + token}, fault.MalformedRequest},
			{"ours is bad, the other good", append(with(token), "x-piko-authorization", "Bearer bad"), fault.InvalidToken},
			{"a good one in the wrong place", []string{"x_piko_authorization", "Bearer " + token, "Proxy-Authorization", "Bearer " + token, "Cookie", "token=" + token}, fault.MissingAuthorization},
			{"for another endpoint", with(mint(keyAll, good.with("piko", map[string]any{"endpoints": []string{"f", "e1", "e."}}))), fault.EndpointNotPermitted},
			{"for listening only", with(mint(keyAll, good.with("piko", map[string]any{"listen": []string{"e"}}))), fault.EndpointNotPermitted},
			{"for a tenant", append(with(token), "x-piko-tenant-id", "acme"), fault.UnknownTenant},
		}
		for name, ask := range protocols {
			t.Run(name, func(t *testing.T) {
				w := *w
				w.t = t
				for _, k := range kinds {
					want := fmt.Sprint(k.want.Status(), " ", string(k.want))
					if name == "gRPC" {
						want = fmt.Sprint("grpc ", map[fault.Code]int{fault.MalformedRequest: 3, fault.EndpointNotPermitted: 7}[k.want], " ", string(k.want))
						if k.want.Status() == 401 && k.want != fault.EndpointNotPermitted {
							want = fmt.Sprint("grpc 16 ", string(k.want))
						}
					}
					if got := ask(&w, "e", k.fields); got != want {
						t.Errorf("%s: got %s, want %s", k.name, got, want)
					}
				}
				if n := reached.Load(); n != 0 {
					t.Errorf("%d requests reached the service", n)
				}
			})
		}
		for name, ask := range protocols {
			want := map[string]string{"WebSocket": "101", "TCP": "101"}[name]
			if want == "" {
				want = "200"
			}
			for kind, fields := range map[string][]string{
				"a good one":                  with(token),
				"in lower case":               {"authorization", "bearer " + token},
				"ours":                        {"x-piko-authorization", "Bearer " + token},
				"ours beside another's":       {"Authorization", "Basic dTpw", "X-Piko-Authorization", "BEARER " + token},
				"for the endpoint":            with(mint(keyAll, good.with("piko", map[string]any{"endpoints": []string{"E"}}))),
				"for connecting to some":      with(mint(keyAll, good.with("piko", map[string]any{"connect": []string{"e*"}}))),
				"of a clock that is 20s late": with(mint(keyAll, good.with("exp", now-5))),
			} {
				if got := ask(w, "e", fields); got != want {
					t.Errorf("%s, %s: got %s, want %s", name, kind, got, want)
				}
			}
		}
	})
}

// Who is not let in learns nothing: not which endpoints there are, nor which paths are ours, nor what is wrong with an
// endpoint. Who is let in to one endpoint learns nothing of others, and a tenant nothing of another's (A9).
func TestRefusalsTellNothing(t *testing.T) {
	same := func(t *testing.T, w *world, fields string, requests []string) {
		t.Helper()
		answers := make(map[string]string)
		for _, r := range requests {
			got := w.talk(r + fields + "X-Request-Id: id\r\nConnection: close\r\n\r\n")
			head, body, _ := strings.Cut(got, "\r\n\r\n")
			var kept []string
			for line := range strings.SplitSeq(head, "\r\n") {
				if !strings.HasPrefix(line, "Date: ") {
					kept = append(kept, line)
				}
			}
			answers[strings.Join(kept, "\r\n")+body] = r
		}
		if len(answers) != 1 {
			t.Errorf("the answers differ: %q", answers)
		}
	}
	w := newWorld(t, secured(t, nil))
	w.stamp("e")
	w.stamp("f")
	w.add("dead", noDial)
	same(t, w, "", []string{
		"GET / HTTP/1.1\r\nHost: e.x\r\n", "GET / HTTP/1.1\r\nHost: nobody.x\r\n", "GET / HTTP/1.1\r\nHost: dead.x\r\n", "GET / HTTP/1.1\r\nHost: x\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nX-Piko-Endpoint: a/b\r\n", "GET /_piko/v1/tcp/e HTTP/1.1\r\nHost: x\r\n" + webSocket,
		"GET /_piko/v1/tcp/nobody HTTP/1.1\r\nHost: x\r\n" + webSocket, "GET /_piko/v1/tcp/e HTTP/1.1\r\nHost: x\r\n", "GET /_piko/v1/tcp/a%2fb HTTP/1.1\r\nHost: x\r\n",
		"GET /_piko/v1/peer HTTP/1.1\r\nHost: x\r\n", "GET /_piko/ HTTP/1.1\r\nHost: e.x\r\n", "GET /%5fpiko/secret HTTP/1.1\r\nHost: e.x\r\n",
	})
	same(t, w, bearer(mint(keyAll, good.with("piko", map[string]any{"endpoints": []string{"e"}}))), []string{
		"GET / HTTP/1.1\r\nHost: f.x\r\n", "GET / HTTP/1.1\r\nHost: nobody.x\r\n", "GET / HTTP/1.1\r\nHost: dead.x\r\n",
		"GET /_piko/v1/tcp/f HTTP/1.1\r\nHost: x\r\n" + webSocket, "GET /_piko/v1/tcp/nobody HTTP/1.1\r\nHost: x\r\n" + webSocket,
	})

	w = newWorld(t, tenanted(t, nil))
	w.stamp("globex/e")
	w.stamp("e")
	w.stamp("open/e")
	asAcme := bearer(mint(keyAcme, nil)) + "X-Piko-Tenant-Id: acme\r\n"
	same(t, w, asAcme, []string{"GET / HTTP/1.1\r\nHost: e.x\r\n", "GET / HTTP/1.1\r\nHost: nobody.x\r\n", "GET / HTTP/1.1\r\nHost: e.acme.test\r\n"})
	same(t, w, asAcme, []string{ // nor whether there is such a tenant
		"GET / HTTP/1.1\r\nHost: e.globex.test\r\n", "GET / HTTP/1.1\r\nHost: e.open.test\r\n", "GET / HTTP/1.1\r\nHost: nobody.globex.test\r\n",
	})
	same(t, w, bearer(mint(keyAcme, nil)), []string{
		"GET / HTTP/1.1\r\nHost: e.x\r\n", "GET / HTTP/1.1\r\nHost: e.x\r\nX-Piko-Tenant-Id: nobody\r\n", "GET / HTTP/1.1\r\nHost: e.x\r\nX-Piko-Tenant-Id: open\r\n",
	})
}

// What piko consumed reaches neither a service nor the log; what it did not look at is the client's own.
func TestConsumedCredentials(t *testing.T) { parsedWays(t, testConsumedCredentials) }

func testConsumedCredentials(t *testing.T, newWorld worldMaker) {
	var out lines
	logAll := func(o *Options) {
		names := []string{"authorization", "x-piko-authorization", "x_piko_authorization", "x-piko-tenant-id"}
		o.AccessLog = accesslog.New(&out, accesslog.Config{RequestHeaders: accesslog.HeaderFilter{Allow: names}}, accesslog.Options{})
		o.Logger = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	token := mint(keyAll, good)
	own := "X-Piko-Authorization: Bearer " + token + "\r\n"
	for _, tt := range []struct {
		name, fields, want string
		refused            bool
	}{
		{"ours", own, "", false},
		{"the usual one", bearer(token), "", false},
		{"ours beside the client's own", own + "Authorization: Basic dTpw\r\n", "Authorization: Basic dTpw", false},
		{"other spellings", bearer(token) + "x_piko_authorization: Bearer " + token + "\r\nX_Piko-Authorization: Bearer " + token + "\r\nX-Piko_Tenant-Id: a\r\n", "", false},
		{"named by Connection", own + "Connection: x-piko-authorization, authorization, close\r\n", "", false},
		{"bad ones", "X-Piko-Authorization: Bearer x" + token + "\r\nAuthorization: Bearer " + token + "\r\n", "", true},
		{"too many", own + own + "X-Piko-Endpoint: " + "e\r\n", "", true},
		{"as trailers", own + "TE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization, X-Piko-Authorization\r\n", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			w := newWorld(t, secured(t, logAll))
			w.serve("e", func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				for _, h := range []http.Header{r.Header, r.Trailer} {
					for name, values := range h {
						if strings.Contains(strings.ToLower(name), "auth") || strings.Contains(strings.ToLower(name), "tenant") || strings.Contains(strings.Join(values, ""), token) {
							got = append(got, name+": "+strings.Join(values, ", "))
						}
					}
				}
				ok(w, "ok")
			})
			fields, body := tt.fields, ""
			if tt.name == "as trailers" {
				body = "1\r\na\r\n0\r\nAuthorization: Bearer " + token + "\r\nX-Piko-Authorization: Bearer " + token + "\r\n\r\n"
			}
			if !strings.Contains(fields, "close") {
				fields += "Connection: close\r\n"
			}
			answer := w.talk("POST /a HTTP/1.1\r\nHost: e.x\r\n" + fields + "\r\n" + body)
			if refused := !strings.Contains(answer, " 200 OK\r\n"); refused != tt.refused {
				t.Errorf("got %q", answer)
			}
			if got := strings.Join(got, "; "); got != tt.want {
				t.Errorf("the service got %q, want %q", got, tt.want)
			}
			var logged string
			eventually(t, func() error {
				logged += strings.Join(out.take(), "")
				if !strings.Contains(logged, `"request"`) {
					return fmt.Errorf("no line in %q", logged)
				}
				return nil
			})
			if strings.Contains(logged+answer, token[len(token)-20:]) {
				t.Errorf("the token is in the log or the answer: %s", logged)
			}
			if strings.Contains(logged, `"subject":"ci"`) == tt.refused {
				t.Errorf("the log says of whose token it was: %s", logged)
			}
		})
	}
}

// Without authentication what is for piko does not reach services either, and theirs does.
func TestCredentialsWithoutAuth(t *testing.T) {
	w := newWorld(t, nil)
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		ok(w, fmt.Sprint(r.Header["Authorization"], r.Header["X-Piko-Authorization"], r.Header["X-Piko-Tenant-Id"]))
	})
	if _, body, _ := w.do("GET", "/", nil, "Authorization", "Basic x", "X-Piko-Authorization", "Bearer y", "X-Piko-Tenant-Id", "t"); body != "[Basic x] [] []" {
		t.Errorf("the service got %s", body)
	}
}

// A source that fails again and again is told to wait, whatever it says it is; of a trusted proxy each client is a source.
func TestFailuresAreLimited(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.Auth = newGuard(t, auth.Options{Default: auth.Config{HMACSecretKeys: []string{keyAll}}, FailureRate: 0.001})
		o.TrustedProxies = loopback
	})
	w.stamp("e")
	ask := func(client, token string) string {
		return w.ask("GET / HTTP/1.1\r\nHost: e.x\r\nX-Forwarded-For: 192.0.2.66, "+client+"\r\n", []string{"Authorization", "Bearer " + token})
	}
	got := make(map[string]int)
	for range 20 {
		got[ask("192.0.2.1", "bad")]++
	}
	if got["429 rate-limited"] == 0 || got["401 invalid-token"] == 0 || len(got) != 2 {
		t.Errorf("a source of bad tokens got %v", got)
	}
	if got := ask("192.0.2.2", "bad"); got != "401 invalid-token" {
		t.Errorf("another source got %s", got)
	}
	if got := ask("192.0.2.3", mint(keyAll, nil)); got != "200" {
		t.Errorf("a good token of another source got %s", got)
	}
	limited := mint(keyAll, permits("other"))
	for range 20 {
		if got := ask("192.0.2.4", limited); got != "401 endpoint-not-permitted" {
			t.Fatalf("got %s", got) // its token was seen to be good: it is no guess
		}
	}
	if got := ask("192.0.2.4", "bad"); got != "429 rate-limited" {
		t.Errorf("a source that asks for what it may not have got %s", got)
	}
}

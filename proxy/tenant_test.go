package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/accesslog"
)

// stampAll serves an endpoint, by its name in the table, to every protocol with its name.
func (w *world) stampAll(name string) {
	text := "I am " + name + "."
	w.serveRaw(name, func(c net.Conn, r *bufio.Reader) {
		first, err := r.Peek(4)
		if err != nil {
			return
		}
		if string(first) == "raw " {
			io.WriteString(c, text)
			return
		}
		req, err := http.ReadRequest(r)
		switch {
		case err != nil:
		case req.Header.Get("Upgrade") != "":
			io.WriteString(c, "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+text)
			io.Copy(io.Discard, r)
		default:
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
		}
	})
}

// who is the name of the endpoint that a text is from, or else the code or status of the answer.
func who(answer string) string {
	if _, rest, ok := strings.Cut(answer, "I am "); ok {
		name, _, _ := strings.Cut(rest, ".")
		return name
	}
	if _, rest, ok := strings.Cut(answer, "X-Piko-Error: "); ok {
		code, _, _ := strings.Cut(rest, "\r\n")
		return code
	}
	line, _, _ := strings.Cut(answer, "\r\n")
	line, _, _ = strings.Cut(line, ":")
	return line
}

// whoIs sends a request of HTTP/1.1 and what else there is, and says who answers.
func (w *world) whoIs(text string) string {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, text)
	var got strings.Builder
	for b := make([]byte, 4096); ; {
		n, err := c.Read(b)
		got.Write(b[:n])
		answer := got.String()
		_, name, _ := strings.Cut(answer, "I am ")
		if err != nil || strings.Contains(name, ".") || strings.Contains(answer, "X-Piko-Error: ") && strings.Contains(answer, "\r\n\r\n") {
			return who(answer)
		}
	}
}

// whoIs2 is whoIs over HTTP/2.
func (w *world) whoIs2(fields ...string) string {
	w.t.Helper()
	c := w.dialHTTP2()
	defer c.nc.Close()
	c.request(1, true, fields...)
	a := c.read(1)
	if a.reset != "" {
		return a.reset
	}
	if code := a.header.Get("X-Piko-Error"); code != "" {
		return code
	}
	return who(a.body)
}

// The same endpoint of several tenants is as many endpoints, in every protocol.
func TestTenantsAreApart(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, tenanted(t, nil))
		for _, name := range []string{"e", "acme/e", "globex/e", "open/e"} {
			w.stampAll(name)
		}
		tokens := map[string]string{"acme": bearer(mint(keyAcme, nil)), "globex": bearer(mint(keyGlobex, nil)), "open": ""}
		for tenant, token := range tokens {
			ways := map[string]string{
				"by host":              "Host: e." + tenant + ".test\r\n" + token,
				"by domain and header": "Host: " + tenant + ".test\r\nX-Piko-Endpoint: e\r\n" + token,
				"by both":              "Host: e." + tenant + ".test\r\nX-Piko-Tenant-Id: " + strings.ToUpper(tenant) + "\r\n" + token,
				"by header":            "Host: e.x\r\nX-Piko-Tenant-Id: " + tenant + "\r\n" + token,
			}
			if tenant == "open" {
				delete(ways, "by header") // anybody could say so
			}
			for name, head := range ways {
				want := tenant + "/e"
				if got := w.whoIs("GET / HTTP/1.1\r\n" + head + "\r\n"); got != want {
					t.Errorf("%s %s: got %s", tenant, name, got)
				}
				if got := w.whoIs("GET / HTTP/1.1\r\n" + head + webSocket + "\r\n"); got != want {
					t.Errorf("%s %s by WebSocket: got %s", tenant, name, got)
				}
				tcp := "GET /_piko/v1/tcp/e HTTP/1.1\r\n" + head + webSocket + "\r\n" + "\x82\x84\x00\x00\x00\x00raw " // one masked frame
				if got := w.whoIs(tcp); got != want {
					t.Errorf("%s %s by TCP: got %s", tenant, name, got)
				}
				fields := []string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", ""}
				for line := range strings.Lines(head) {
					key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
					if key == "Host" {
						fields[7] = value
						continue
					}
					fields = append(fields, strings.ToLower(key), value)
				}
				if got := w.whoIs2(fields...); got != want {
					t.Errorf("%s %s over HTTP/2: got %s", tenant, name, got)
				}
				if got := w.whoIs2(append(fields, "content-type", "application/grpc", "te", "trailers")...); got != want {
					t.Errorf("%s %s by gRPC: got %s", tenant, name, got)
				}
			}
		}
	})
}

// Nobody gets at another's endpoint by writing it in another way.
func TestEndpointHijack(t *testing.T) { everyWay(t, testEndpointHijack) }

func testEndpointHijack(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, tenanted(t, nil))
	for _, name := range []string{"e", "acme", "acme/e", "acme/other", "globex/e", "globex/mine", "open/e"} {
		w.stampAll(name)
	}
	acme := bearer(mint(keyAcme, permits("e", "e.", "nobody", "a*")))
	const asAcme, asGlobex, endpoint = "X-Piko-Tenant-Id: acme\r\n", "X-Piko-Tenant-Id: globex\r\n", "X-Piko-Endpoint: "
	for _, tt := range []struct{ name, target, head, want string }{
		{"its own, by header", "/", "Host: h\r\n" + endpoint + "e\r\n" + asAcme + acme, "acme/e"},
		{"its own, in upper case", "/", "Host: h\r\n" + endpoint + "E\r\n" + asAcme + acme, "acme/e"},
		{"its own, by host", "/", "Host: e.acme.test\r\n" + acme, "acme/e"},
		{"its own, with a final dot", "/", "Host: E.Acme.Test.:8000\r\n" + acme, "acme/e"},
		{"its own domain without a label", "/", "Host: acme.test\r\n" + acme, "missing-endpoint"},
		{"its own tenant's, for others", "/", "Host: other.acme.test\r\n" + acme, "endpoint-not-permitted"},
		{"one with a dot more", "/", "Host: h\r\n" + endpoint + "e.\r\n" + asAcme + acme, "no-upstream"},

		{"another's host", "/", "Host: e.globex.test\r\n" + acme, "invalid-token"},
		{"another's host, final dot", "/", "Host: e.globex.test.\r\n" + acme, "invalid-token"},
		{"another's host, upper case and port", "/", "Host: E.GLOBEX.TEST:80\r\n" + acme, "invalid-token"},
		{"another's host, own header", "/", "Host: e.globex.test\r\n" + asAcme + acme, "unknown-tenant"},
		{"another's host, own endpoint", "/", "Host: e.globex.test\r\n" + endpoint + "e\r\n" + acme, "invalid-token"},
		{"another's header, own host", "/", "Host: e.acme.test\r\n" + asGlobex + acme, "unknown-tenant"},
		{"another's header", "/", "Host: h\r\n" + endpoint + "e\r\n" + asGlobex + acme, "invalid-token"},
		{"another's header, in upper case", "/", "Host: h\r\n" + endpoint + "e\r\nX-Piko-Tenant-Id: GLOBEX\r\n" + acme, "invalid-token"},
		{"both headers", "/", "Host: h\r\n" + endpoint + "e\r\n" + asAcme + asGlobex + acme, "malformed-request"},
		{"a list of tenants", "/", "Host: h\r\n" + endpoint + "e\r\nX-Piko-Tenant-Id: acme, globex\r\n" + acme, "unknown-tenant"},
		{"a path of tenants", "/", "Host: h\r\n" + endpoint + "e\r\nX-Piko-Tenant-Id: acme/../globex\r\n" + acme, "unknown-tenant"},
		{"an empty tenant", "/", "Host: h\r\n" + endpoint + "e\r\nX-Piko-Tenant-Id:\r\n" + acme, "unknown-tenant"},
		{"no tenant", "/", "Host: h\r\n" + endpoint + "e\r\n" + acme, "unknown-tenant"},
		{"a tenant that only a domain has", "/", "Host: h\r\n" + endpoint + "e\r\nX-Piko-Tenant-Id: open\r\n" + acme, "unknown-tenant"},
		{"another spelling of the header", "/", "Host: h\r\n" + endpoint + "e\r\n" + asAcme + "x_piko_tenant_id: globex\r\nx_piko_endpoint: mine\r\n" + acme, "acme/e"},
		{"headers of nodes", "/", "Host: h\r\n" + endpoint + "e\r\n" + asAcme + "X-Piko-Route: globex/e\r\nX-Piko-Attempts: 2\r\n" + acme, "acme/e"},
		{"headers of proxies", "/", "Host: h\r\n" + endpoint + "e\r\n" + asAcme + "X-Forwarded-Host: e.globex.test\r\nForwarded: host=e.globex.test\r\n" + acme, "acme/e"},
		{"headers named by Connection", "/", "Host: h\r\n" + endpoint + "e\r\n" + asAcme + acme + "Connection: x-piko-tenant-id, x-piko-endpoint, close\r\n", "acme/e"},
		{"an absolute target", "http://e.globex.test/", "Host: e.acme.test\r\n" + acme, "invalid-token"},

		{"a name with a slash", "/", "Host: h\r\n" + endpoint + "globex/e\r\n" + asAcme + acme, "invalid-endpoint"},
		{"a name with a slash, escaped", "/", "Host: h\r\n" + endpoint + "globex%2fe\r\n" + asAcme + acme, "invalid-endpoint"},
		{"a way up", "/", "Host: h\r\n" + endpoint + "../globex/e\r\n" + asAcme + acme, "invalid-endpoint"},
		{"another slash", "/", "Host: h\r\n" + endpoint + "globex\uff0fe\r\n" + asAcme + acme, "invalid-endpoint"},
		{"a letter that looks like it", "/", "Host: h\r\n" + endpoint + "\u0435\r\n" + asAcme + acme, "invalid-endpoint"},
		{"a letter whose lower case it is", "/", "Host: h\r\n" + endpoint + "\u212a\r\n" + asAcme + acme, "invalid-endpoint"},
		{"two endpoints", "/", "Host: h\r\n" + endpoint + "e\r\n" + endpoint + "other\r\n" + asAcme + acme, "invalid-endpoint"},
		{"a list of endpoints", "/", "Host: h\r\n" + endpoint + "e,other\r\n" + asAcme + acme, "invalid-endpoint"},
		{"an empty endpoint", "/", "Host: other.acme.test\r\n" + endpoint + "\r\n" + acme, "missing-endpoint"},
		{"host and header differ", "/", "Host: e.acme.test\r\n" + endpoint + "other\r\n" + acme, "endpoint-not-permitted"},
		{"another's domain below its own", "/", "Host: e.globex.test.acme.test\r\n" + acme, "missing-endpoint"},
		{"its own domain below another's", "/", "Host: e.acme.test.globex.test\r\n" + acme, "invalid-token"},
		{"a domain that ends alike", "/", "Host: e.xacme.test\r\n" + acme, "unknown-tenant"},
		{"a host with a slash", "/", "Host: globex/e.acme.test\r\n" + acme, "HTTP/1.1 400 Bad Request"},
		{"a host with an escaped slash", "/", "Host: globex%2fe.acme.test\r\n" + acme, "malformed-request"},
		{"a host with a letter of two bytes", "/", "Host: \u0435.acme.test\r\n" + acme, "HTTP/1.1 400 Bad Request"},
		{"two hosts in one", "/", "Host: e.acme.test,e.globex.test\r\n" + acme, "malformed-request"},

		{"TCP: its own", "/_piko/v1/tcp/E", "Host: acme.test\r\n" + webSocket + acme, "acme/e"},
		{"TCP: its tenant's, for others", "/_piko/v1/tcp/other", "Host: acme.test\r\n" + webSocket + acme, "endpoint-not-permitted"},
		{"TCP: another's domain", "/_piko/v1/tcp/e", "Host: globex.test\r\n" + webSocket + acme, "invalid-token"},
		{"TCP: another's header", "/_piko/v1/tcp/e", "Host: acme.test\r\n" + asGlobex + webSocket + acme, "unknown-tenant"},
		{"TCP: a slash", "/_piko/v1/tcp/globex/e", "Host: acme.test\r\n" + webSocket + acme, "invalid-endpoint"},
		{"TCP: an escaped slash", "/_piko/v1/tcp/globex%2fe", "Host: acme.test\r\n" + webSocket + acme, "invalid-endpoint"},
		{"TCP: a way up", "/_piko/v1/tcp/..%2fglobex%2fe", "Host: acme.test\r\n" + webSocket + acme, "invalid-endpoint"},
		{"TCP: the endpoint of the header", "/_piko/v1/tcp/e", "Host: acme.test\r\n" + endpoint + "other\r\n" + webSocket + acme, "acme/e"},
		{"TCP: no endpoint", "/_piko/v1/tcp/", "Host: e.acme.test\r\n" + webSocket + acme, "missing-endpoint"},

		{"nobody, a domain without auth", "/", "Host: e.open.test\r\n", "open/e"},
		{"nobody, a domain with auth", "/", "Host: e.acme.test\r\n", "missing-authorization"},
		{"nobody, a domain without auth, another's header", "/", "Host: e.open.test\r\n" + asAcme, "missing-authorization"},
		{"nobody, no tenant", "/", "Host: e.x\r\n", "missing-authorization"},
	} {
		text := "GET " + tt.target + " HTTP/1.1\r\n" + tt.head + "\r\n"
		if strings.HasPrefix(tt.name, "TCP") {
			text += "\x82\x84\x00\x00\x00\x00raw "
		}
		if got := w.whoIs(text); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
	token := "Bearer " + mint(keyAcme, permits("e"))
	for _, tt := range []struct {
		name, want string
		fields     []string
	}{
		{"its own", "acme/e", []string{":path", "/", ":authority", "e.acme.test", "authorization", token}},
		{"another's authority", "invalid-token", []string{":path", "/", ":authority", "e.globex.test", "authorization", token}},
		{"another's host", "malformed-request", []string{":path", "/", ":authority", "e.acme.test", "host", "e.globex.test", "authorization", token}},
		{"another's target", "malformed-request", []string{":path", "http://e.globex.test/", ":authority", "e.acme.test", "authorization", token}},
		{"an escaped slash", "invalid-endpoint", []string{":path", "/", ":authority", "acme.test", "x-piko-endpoint", "globex%2fe", "authorization", token}},
		{"two tenants", "malformed-request", []string{":path", "/", ":authority", "e.x", "x-piko-tenant-id", "acme", "x-piko-tenant-id", "globex", "authorization", token}},
		{"two tokens", "malformed-request", []string{":path", "/", ":authority", "e.acme.test", "authorization", token, "authorization", token}},
	} {
		if got := w.whoIs2(append([]string{":method", "GET", ":scheme", "http"}, tt.fields...)...); got != tt.want {
			t.Errorf("HTTP/2, %s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// What operators see of tenants: the log has tenant and endpoint apart, and no client can make up series.
func TestTenantsAreSeen(t *testing.T) {
	var out lines
	reg := prometheus.NewRegistry()
	w := newWorld(t, tenanted(t, func(o *Options) {
		o.Registerer = reg
		o.AccessLog = accesslog.New(&out, accesslog.Config{}, accesslog.Options{})
	}))
	w.stamp("acme/e")
	token := bearer(mint(keyAcme, claims{"sub": "ci\n"}))
	w.talk("GET / HTTP/1.1\r\nHost: e.acme.test\r\n" + token + "Connection: close\r\n\r\n")
	w.talk("GET / HTTP/1.1\r\nHost: e.acme.test\r\nConnection: close\r\n\r\n")
	for i := range 100 {
		w.talk(fmt.Sprintf("GET / HTTP/1.1\r\nHost: e.x\r\nX-Piko-Tenant-Id: made-up-%d\r\n%sConnection: close\r\n\r\n", i, token))
	}
	var logged string
	eventually(t, func() error {
		logged += strings.Join(out.take(), "")
		if n := strings.Count(logged, "\n"); n != 102 {
			return fmt.Errorf("%d lines", n)
		}
		return nil
	})
	first, rest, _ := strings.Cut(logged, "\n")
	if !strings.Contains(first, `"endpoint":"e","tenant":"acme","subject":"ci?","token_id":"`) {
		t.Errorf("the line of a tenant's request is %s", first)
	}
	second, rest, _ := strings.Cut(rest, "\n")
	if !strings.Contains(second, `"endpoint":"e","tenant":"acme","client"`) {
		t.Errorf("the line of a refused request is %s", second)
	}
	if strings.Contains(rest, "made-up") {
		t.Error("the log says what anybody could claim")
	}
	got := text(t, reg)
	for _, want := range []string{
		`piko_proxy_tenant_requests_total{status="2xx",tenant="acme"} 1`,
		`piko_proxy_tenant_requests_total{status="4xx",tenant="acme"} 1`,
		`piko_proxy_tenant_requests_total{status="2xx",tenant="globex"} 0`,
		`piko_proxy_requests_total{method="GET",status="401"} 101`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(got, "made-up") || strings.Count(got, "piko_proxy_tenant_requests_total{") != 3*5 {
		t.Errorf("a client made up series: %s", got)
	}
}

// Domains and tenants change with the next request, all or nothing.
func TestPrepareTenants(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := newWorld(t, tenanted(t, func(o *Options) { o.Registerer = reg }))
	w.stampAll("open/e")
	ask := func(host string) string { return w.whoIs("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n") }
	if got := ask("e.open.test"); got != "open/e" {
		t.Fatalf("got %s", got)
	}
	if _, err := w.p.PrepareTenants(nil, []Tenant{{ID: "open", Domains: []string{"new.test"}}, {ID: "x", Domains: []string{"new.test"}}}); err == nil {
		t.Error("a domain of two was accepted")
	}
	commit, err := w.p.PrepareTenants(nil, []Tenant{{ID: "open", Domains: []string{"new.test"}}, {ID: "more"}})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := ask("e.open.test"), ask("e.new.test"); a != "open/e" || b != "missing-authorization" {
		t.Errorf("before: got %s, %s", a, b)
	}
	commit()
	if a, b := ask("e.open.test"), ask("e.new.test"); a != "missing-authorization" || b != "open/e" {
		t.Errorf("after: got %s, %s", a, b)
	}
	if got := text(t, reg); strings.Contains(got, `tenant="acme"`) || !strings.Contains(got, `tenant="more"`) {
		t.Errorf("the metrics are still of the old tenants: %s", got)
	}
	if _, err := newWorld(t, nil).p.PrepareTenants(nil, []Tenant{{ID: "a"}}); err == nil {
		t.Error("tenants without authentication were accepted")
	}
	if _, err := NewPublic(Options{Lookup: w.table.Lookup, Tenants: []Tenant{{ID: "a"}}}); err == nil {
		t.Error("tenants without authentication were accepted at the start")
	}
}

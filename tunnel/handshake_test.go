package tunnel

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"piko/fault"
)

// handshakeLines is a good handshake, for tests to spoil.
const handshakeLines = "GET /piko/v1/upstream/e HTTP/1.1\r\n" +
	"Host: node.example.com\r\n" +
	"Connection: keep-alive, Upgrade\r\n" +
	"Upgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// readRequest parses a handshake as net/http does.
func readRequest(t *testing.T, lines string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(lines + "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCheckHandshake(t *testing.T) {
	spoil := func(old, new string) string { return strings.Replace(handshakeLines, old, new, 1) }
	for _, c := range []struct {
		name, lines string
		code        error // nil: it is good
		text        string
	}{
		{"as browsers and libraries send it", handshakeLines, nil, ""},
		{"tokens in other cases and lists", strings.NewReplacer("keep-alive, Upgrade", "a ,UPGRADE", "websocket\r", "h3, WebSocket\r").Replace(handshakeLines), nil, ""},
		{"origin of the same site", handshakeLines + "Origin: https://Node.example.com\r\n", nil, ""},
		{"extensions are offered", handshakeLines + "Sec-WebSocket-Extensions: permessage-deflate\r\n", nil, ""},
		{"content length 0", handshakeLines + "Content-Length: 0\r\n", nil, ""},
		{"POST", spoil("GET", "POST"), fault.MethodNotAllowed, "method not allowed"},
		{"HEAD", spoil("GET", "HEAD"), fault.MethodNotAllowed, "method not allowed"},
		{"HTTP/1.0", spoil("HTTP/1.1", "HTTP/1.0"), fault.MalformedRequest, "HTTP/1.1"},
		{"no Connection", spoil("Connection: keep-alive, Upgrade\r\n", ""), fault.MalformedRequest, "Connection"},
		{"Connection without upgrade", spoil("keep-alive, Upgrade", "keep-alive"), fault.MalformedRequest, "Connection"},
		{"no Upgrade", spoil("Upgrade: websocket\r\n", ""), fault.MalformedRequest, "Upgrade"},
		{"another Upgrade", spoil("websocket", "h2c"), fault.MalformedRequest, "Upgrade"},
		{"no version", spoil("Sec-WebSocket-Version: 13\r\n", ""), fault.MalformedRequest, "version 13"},
		{"version 8", spoil("13", "8"), fault.MalformedRequest, "version 13"},
		{"two versions", spoil("13", "13, 8"), fault.MalformedRequest, "version 13"},
		{"no key", spoil("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), fault.MalformedRequest, "Key"},
		{"two keys", handshakeLines + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", fault.MalformedRequest, "Key"},
		{"short key", spoil("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), fault.MalformedRequest, "16 bytes"},
		{"key that is no base64", spoil("dGhlIHNhbXBsZSBub25jZQ==", "the sample nonce"), fault.MalformedRequest, "base64"},
		{"a body", handshakeLines + "Content-Length: 5\r\n", fault.MalformedRequest, "body"},
		{"a chunked body", handshakeLines + "Transfer-Encoding: chunked\r\n", fault.MalformedRequest, "body"},
		{"another site's page", handshakeLines + "Origin: https://evil.example.com\r\n", fault.Forbidden, "origin"},
		{"a sandboxed page", handshakeLines + "Origin: null\r\n", fault.Forbidden, "origin"},
		{"a page on another port", handshakeLines + "Origin: https://node.example.com:8443\r\n", fault.Forbidden, "origin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := readRequest(t, c.lines)
			err := CheckHandshake(r)
			if !errors.Is(err, c.code) {
				t.Fatalf("CheckHandshake: %v, want %v", err, c.code)
			}
			if err == nil {
				return
			}
			rec := httptest.NewRecorder()
			status := RefuseHandshake(rec, r, err)
			var body struct{ Error, Code string }
			if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil && r.Method != http.MethodHead {
				t.Fatalf("the answer %q is no JSON: %v", rec.Body, err)
			}
			if status != rec.Code || rec.Code != fault.From(err).Code.Status() || !strings.Contains(body.Error, c.text) && r.Method != http.MethodHead {
				t.Errorf("answered %d %q, want %d with %q", rec.Code, body.Error, fault.From(err).Code.Status(), c.text)
			}
			if c.code == fault.MethodNotAllowed {
				if rec.Header().Get("Allow") != "GET" {
					t.Error("405 without Allow")
				}
			} else if rec.Header().Get("Sec-WebSocket-Version") != "13" {
				t.Error("refused without the version that is taken")
			}
		})
	}
}

func TestCheckHandshakeRefusesHTTP2(t *testing.T) {
	r := readRequest(t, handshakeLines)
	r.ProtoMajor, r.ProtoMinor = 2, 0
	if err := CheckHandshake(r); !errors.Is(err, fault.MalformedRequest) {
		t.Errorf("CheckHandshake: %v", err)
	}
}

func TestReadHello(t *testing.T) {
	for _, c := range []struct {
		name, lines string
		want        Hello
	}{
		{"v0.9.0", "", Hello{}},
		{"ours", "x-piko-features: control\r\nx-piko-instance: 7f3a\r\nx-piko-protocol: http\r\n", Hello{Features: []string{"control"}, Instance: "7f3a", Protocol: "http"}},
		{"features over lines, in cases, twice, unknown ones too", "X-Piko-Features: Control,meta\r\nx-piko-features:  h2 , control,,\r\n", Hello{Features: []string{"control", "meta", "h2"}}},
		{"protocol in capitals", "x-piko-protocol: TCP\r\n", Hello{Protocol: "tcp"}},
		{"protocol unknown", "x-piko-protocol: quic\r\n", Hello{}},
		{"instance with spaces", "x-piko-instance: a b\r\n", Hello{}},
		{"instance too long", "x-piko-instance: " + strings.Repeat("i", 65) + "\r\n", Hello{}},
		{"nodes over lines", "x-piko-nodes: piko-0, eu.1\r\nX-Piko-Nodes: ,b,,\r\n", Hello{Nodes: []string{"piko-0", "eu.1", "b"}}},
		{"nodes, one with a space", "x-piko-nodes: a, b c\r\n", Hello{}},
		{"nodes, one too long", "x-piko-nodes: a, " + strings.Repeat("n", 65) + "\r\n", Hello{}},
		{"nodes, one of odd bytes", "x-piko-nodes: a, b\xff\r\n", Hello{}},
		{"no nodes", "x-piko-nodes: ,\r\n", Hello{}},
		{"not healthy", "x-piko-weight: 0\r\n", Hello{Unhealthy: true}},
		{"another weight", "x-piko-weight: 50\r\n", Hello{}},
		{"16 nodes", "x-piko-nodes: " + commas(16) + "\r\n", Hello{Nodes: strings.Split(commas(16), ",")}},
		{"17 nodes", "x-piko-nodes: " + commas(16) + "\r\nx-piko-nodes: q\r\n", Hello{}},
		{"feature too long", "x-piko-features: " + strings.Repeat("f", 65) + ", control\r\n", Hello{Features: []string{"control"}}},
	} {
		if got := ReadHello(readRequest(t, handshakeLines+c.lines)); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	many := "x-piko-features: " + strings.Join(strings.Split("abcdefghijklmnopqrstuvwxyz", ""), ",") + "\r\n"
	if got := ReadHello(readRequest(t, handshakeLines+many)); len(got.Features) != maxFeatures {
		t.Errorf("%d features kept, want at most %d", len(got.Features), maxFeatures)
	}
}

// commas is a list of so many letters.
func commas(n int) string {
	return strings.Join(strings.Split("abcdefghijklmnopqrstuvwxyz"[:n], ""), ",")
}

func TestNodeList(t *testing.T) {
	for _, c := range []struct {
		name  string
		nodes []string
		want  string
	}{
		{"none", nil, ""},
		{"some", []string{"a", "b.c"}, "a, b.c"},
		{"what would be read as something else is left out", []string{"a,b", "", "c d", "e\r\nx: y", strings.Repeat("n", 65), "f"}, "f"},
		{"too many", strings.Split(commas(20), ","), strings.ReplaceAll(commas(16), ",", ", ")},
	} {
		if got := nodeList(c.nodes); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestAcceptHandshakeAnswers(t *testing.T) {
	for _, c := range []struct {
		name  string
		reply Reply
		want  string
	}{
		{"to v0.9.0", Reply{}, ""},
		{"to ours", Reply{Features: []string{"control", "h2"}, NodeID: "node-1", ClusterSize: 3},
			"x-piko-features: control, h2\r\nx-piko-node-id: node-1\r\nx-piko-cluster-size: 3\r\n"},
		{"without what would end a header", Reply{NodeID: "node\r\nx: y"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, accepted := carrierServer(t, c.reply)
			nc, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			io.WriteString(nc, handshakeLines+"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n")
			(<-accepted).close(0, "")
			got, _ := io.ReadAll(nc)
			// The accept key of this nonce is RFC 6455's own example.
			want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
				"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" + c.want + "\r\n"
			if string(got) != want {
				t.Errorf("answered %q, want %q", got, want)
			}
		})
	}
}

func TestAcceptHandshakeRefuses(t *testing.T) {
	url, _ := carrierServer(t, Reply{})
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 400 || !bytes.Contains(body, []byte("malformed-request")) {
		t.Errorf("a plain GET is answered with %d %q", res.StatusCode, body)
	}
}

// wrappedWriter is a middleware's: it has Unwrap and no Hijack.
type wrappedWriter struct{ http.ResponseWriter }

func (w wrappedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestAcceptHandshakeBehindMiddleware(t *testing.T) {
	got := make(chan error, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := acceptHandshake(wrappedWriter{w}, r, Reply{})
		if err == nil {
			c.close(closeNormal, "")
		}
		got <- err
	}))
	defer srv.Close()
	dialCarrier(t, srv.URL)
	if err := <-got; err != nil {
		t.Errorf("acceptHandshake: %v", err)
	}
	_, err := acceptHandshake(httptest.NewRecorder(), readRequest(t, handshakeLines), Reply{})
	if !errors.Is(err, fault.Internal) {
		t.Errorf("acceptHandshake without a connection to take: %v", err)
	}
}

func FuzzHandshakeRequest(f *testing.F) {
	f.Add(handshakeLines)
	f.Add(handshakeLines + "x-piko-features: a, b\r\nx-piko-instance: i\r\n")
	f.Add(handshakeLines + "x-piko-nodes: a, b\r\nx-piko-nodes: c\r\n")
	f.Add("GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: ====\r\n")
	f.Fuzz(func(t *testing.T, lines string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(lines + "\r\n")))
		if err != nil {
			return
		}
		hello := ReadHello(r)
		if len(hello.Features) > maxFeatures || len(hello.Instance) > maxHelloValue {
			t.Fatalf("ReadHello = %+v", hello)
		}
		// What is read is what an upstream could have meant by its list.
		if written := nodeList(hello.Nodes); len(hello.Nodes) > maxNodes || written != strings.Join(hello.Nodes, ", ") {
			t.Fatalf("%q is written as %q", hello.Nodes, written)
		}
		if err := CheckHandshake(r); err != nil {
			if code := fault.From(err).Code; code == fault.Internal {
				t.Fatalf("%v has no code", err)
			}
		}
	})
}

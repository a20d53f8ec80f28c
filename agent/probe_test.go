package agent

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// probeOf is one check of the service at addr.
func probeOf(t *testing.T, lc Listener) error {
	t.Helper()
	lc.Endpoint = "my-endpoint"
	a, err := New(Config{Listeners: []Listener{lc}}, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return a.listeners[0].check.probe(ctx)
}

// protocolsService speaks what is named: HTTP/1.1, h2c, or both by TLS.
func protocolsService(t *testing.T, secure bool, h http.HandlerFunc, protocols ...func(*http.Protocols, bool)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // checks that are refused, and that hang up
	s.Config.Protocols = new(http.Protocols)
	for _, set := range protocols {
		set(s.Config.Protocols, true)
	}
	if secure {
		s.EnableHTTP2 = s.Config.Protocols.HTTP2()
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func TestHTTPCheck(t *testing.T) {
	t.Parallel()
	var got string
	handler := func(w http.ResponseWriter, r *http.Request) {
		got = fmt.Sprint(r.Proto, " ", r.Method, " ", r.Host, r.RequestURI, " ", r.UserAgent())
		var status int
		fmt.Sscanf(r.URL.Query().Get("status"), "%d", &status)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		io.WriteString(w, strings.Repeat("x", 10<<10))
	}
	plain := protocolsService(t, false, handler, (*http.Protocols).SetHTTP1, (*http.Protocols).SetUnencryptedHTTP2)
	secure := protocolsService(t, true, handler, (*http.Protocols).SetHTTP1, (*http.Protocols).SetHTTP2)
	old := protocolsService(t, true, handler, (*http.Protocols).SetHTTP1)
	trust := secure.Client().Transport.(*http.Transport).TLSClientConfig
	host := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	for _, tt := range []struct {
		name     string
		listener Listener
		check    HealthCheck
		wantErr  string // "": passes
		want     string // what the service saw
	}{
		{"HTTP/1.1", Listener{Addr: plain.URL}, HealthCheck{Path: "/healthz?status=200"}, "", "HTTP/1.1 GET " + host(plain) + "/healthz?status=200 piko-health-check"},
		{"behind the prefix of the URL", Listener{Addr: plain.URL + "/app?a=1"}, HealthCheck{Path: "/x?status=204"}, "", "HTTP/1.1 GET " + host(plain) + "/app/x?a=1&status=204 piko-health-check"},
		{"another host", Listener{Addr: plain.URL}, HealthCheck{Path: "/?status=200", Host: "app.example.com"}, "", "HTTP/1.1 GET app.example.com/?status=200 piko-health-check"},
		{"a redirect is an answer", Listener{Addr: plain.URL}, HealthCheck{Path: "/?status=302"}, "", "HTTP/1.1 GET " + host(plain) + "/?status=302 piko-health-check"},
		{"a status out of range", Listener{Addr: plain.URL}, HealthCheck{Path: "/?status=503"}, "status 503, want 200 to 399", "/?status=503"},
		{"a range of one's own", Listener{Addr: plain.URL}, HealthCheck{Path: "/?status=404", MinStatus: 404, MaxStatus: 404}, "", "/?status=404"},
		{"h2c", Listener{Addr: "h2c://" + host(plain)}, HealthCheck{Path: "/?status=200"}, "", "HTTP/2.0 GET " + host(plain)},
		{"TLS", Listener{Addr: secure.URL, TLS: trust}, HealthCheck{Path: "/?status=200"}, "", "HTTP/2.0 GET " + host(secure)},
		{"TLS by HTTP/1.1", Listener{Addr: secure.URL, TLS: trust, UpstreamProtocol: UpstreamHTTP1}, HealthCheck{Path: "/?status=200"}, "", "HTTP/1.1 GET "},
		{"TLS without HTTP/2", Listener{Addr: old.URL, TLS: trust}, HealthCheck{Path: "/?status=200"}, "", "HTTP/1.1 GET "},
		{"a certificate that is not trusted", Listener{Addr: secure.URL}, HealthCheck{Path: "/?status=200"}, "certificate", ""},
		{"a TCP listener's service", Listener{Addr: host(plain), Protocol: "tcp"}, HealthCheck{Path: "/?status=200"}, "", "HTTP/1.1 GET "},
	} {
		got = ""
		tt.listener.HealthCheck = tt.check
		tt.listener.HealthCheck.Type = CheckHTTP
		err := probeOf(t, tt.listener)
		if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.wantErr)
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: the service saw %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTCPCheck(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	lc := Listener{Addr: addr, Protocol: "tcp", HealthCheck: HealthCheck{Type: CheckTCP}}
	if err := probeOf(t, lc); err != nil {
		t.Errorf("a service that accepts: %v", err)
	}
	ln.Close()
	if err := probeOf(t, lc); err == nil || !strings.Contains(err.Error(), "connect to service") {
		t.Errorf("a service that is not there: %v", err)
	}
}

func TestGRPCCheck(t *testing.T) {
	t.Parallel()
	answer := func(w http.ResponseWriter, message, status string) {
		w.Header().Set("Content-Type", "application/grpc+proto")
		w.Header().Set("Trailer", "Grpc-Status")
		body, _ := hex.DecodeString(message)
		w.Write(body)
		w.Header().Set("Grpc-Status", status)
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != healthMethod || r.Method != "POST" || r.Header.Get("Te") != "trailers" {
			http.Error(w, "what?", 404)
			return
		}
		switch name := strings.TrimPrefix(string(body[5:]), string(body[5:min(7, len(body))])); name {
		case "", "serving":
			answer(w, "00000000020801", "0")
		case "down":
			answer(w, "00000000020802", "0")
		case "rubbish":
			answer(w, "0000000009080101", "0")
		case "failing":
			answer(w, "00000000020801", "13")
		case "html":
			io.WriteString(w, "<html>")
		default: // without a message
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "5")
			w.Header().Set("Grpc-Message", "unknown service")
		}
	}
	plain := protocolsService(t, false, handler, (*http.Protocols).SetUnencryptedHTTP2)
	secure := protocolsService(t, true, handler, (*http.Protocols).SetHTTP1, (*http.Protocols).SetHTTP2)
	old := protocolsService(t, true, handler, (*http.Protocols).SetHTTP1)
	trust := &tls.Config{RootCAs: secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	host := plain.Listener.Addr().String()
	for _, tt := range []struct {
		name     string
		listener Listener
		service  string
		want     string // "": passes
	}{
		{"the server", Listener{Addr: "grpc://" + host}, "", ""},
		{"a service", Listener{Addr: host}, "serving", ""},
		{"a service behind TCP", Listener{Addr: host, Protocol: "tcp"}, "serving", ""},
		{"a service behind TLS", Listener{Addr: strings.Replace(secure.URL, "https", "grpcs", 1), TLS: trust}, "serving", ""},
		{"a service that is down", Listener{Addr: host}, "down", "service is NOT_SERVING"},
		{"an unknown service", Listener{Addr: host}, "other", `grpc-status "5" "unknown service"`},
		{"a failure with a message", Listener{Addr: host}, "failing", `grpc-status "13"`},
		{"a message that is none", Listener{Addr: host}, "rubbish", "not one of grpc.health.v1"},
		{"a page", Listener{Addr: host}, "html", "content type"},
		{"a server without HTTP/2", Listener{Addr: old.URL, TLS: trust}, "", "HTTP/2"},
	} {
		tt.listener.HealthCheck = HealthCheck{Type: CheckGRPC, Service: tt.service}
		err := probeOf(t, tt.listener)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func FuzzGRPCHealthAnswer(f *testing.F) {
	for _, seed := range []string{"00000000020801", "0000000000", "00000000020802", "000000000408010802", "0100000002080100", "0000000009120568656c6c6f0801", "00000000031a0100"} {
		b, _ := hex.DecodeString(seed)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := grpcHealthAnswer(body); err == nil && len(body) < grpcHeaderLen+2 {
			t.Errorf("%x says SERVING", body)
		}
	})
}

func TestGRPCHealthMessages(t *testing.T) {
	t.Parallel()
	for service, want := range map[string]string{"": "0000000000", "abc": "00000000050a03616263"} {
		if got := hex.EncodeToString(grpcHealthRequest(service)); got != want {
			t.Errorf("request about %q is %s, want %s", service, got, want)
		}
	}
	for body, want := range map[string]string{
		"00000000020801":               "<nil>",
		"0000000009120568656c6c6f0801": "<nil>", // a field that we do not know, too
		"0000000000":                   "service is UNKNOWN",
		"00000000020803":               "service is SERVICE_UNKNOWN",
		"0000000002087f":               "service has the unknown status 127",
		"000000000408010802":           "service is NOT_SERVING", // the last one counts
		"01000000020801":               errGRPCMessage.Error(),   // compressed
		"00000000020a00":               errGRPCMessage.Error(),
		"0000000001":                   errGRPCMessage.Error(),
		"00000000031a0561":             errGRPCMessage.Error(),
		"":                             errGRPCMessage.Error(),
	} {
		b, _ := hex.DecodeString(body)
		if got := fmt.Sprint(grpcHealthAnswer(b)); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}

package certs

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"piko/certs/certstest"
)

func TestTheCertificateIsChosenByName(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	pairs := []Pair{
		files(ca.Issue([]string{"first.test"})),
		files(ca.Issue([]string{"*.example.test", "Example.Test"})),
		files(ca.Issue([]string{"one.example.test"})),
		files(ca.Issue([]string{"127.0.0.1"})),
	}
	s := newTestServer(t, ServerOptions{Pairs: pairs})
	for _, tt := range []struct{ asked, want string }{
		{"first.test", "first.test"},
		{"one.example.test", "one.example.test"}, // before the wildcard
		{"two.example.test", "*.example.test"},
		{"TWO.EXAMPLE.TEST", "*.example.test"},
		{"example.test", "*.example.test"}, // the second name of the same
		{"a.b.example.test", "first.test"}, // a wildcard is for one label
		{"other.test", "first.test"},       // the default
		{"", "127.0.0.1"},                  // by the address, which no client names
	} {
		t.Run(tt.asked, func(t *testing.T) {
			client := &tls.Config{InsecureSkipVerify: true, ServerName: tt.asked}
			cs, err := shake(t, s.Config(), client)
			if err != nil {
				t.Fatal(err)
			}
			if got := cs.PeerCertificates[0].Subject.CommonName; got != tt.want {
				t.Errorf("got the certificate of %q, want %q", got, tt.want)
			}
		})
	}
}

// Of two certificates with the same name it is the kind of key that decides.
func TestAClientGetsACertificateThatItCanUse(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	for _, names := range [][]string{{"a.test"}, {"default.test"}} {
		s := newTestServer(t, ServerOptions{Pairs: []Pair{files(ca.Issue(names)), files(ca.IssueRSA(names))}})
		only := trusting(ca, names[0])
		only.MaxVersion = tls.VersionTLS12
		only.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
		if _, err := shake(t, s.Config(), only); err != nil {
			t.Errorf("a client that knows RSA alone: %v", err)
		}
		if cs, err := shake(t, s.Config(), trusting(ca, names[0])); err != nil || cs.PeerCertificates[0].PublicKeyAlgorithm.String() != "ECDSA" {
			t.Errorf("a client that knows everything: %v", err)
		}
	}
}

func TestDirectoryOfCertificates(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	dir := t.TempDir()
	put := func(p certstest.Pair, cert, key string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, cert)), 0o700); err != nil {
			t.Fatal(err)
		}
		p.Write(filepath.Join(dir, cert), filepath.Join(dir, key))
	}
	put(ca.Issue([]string{"a.test"}), "a.crt", "a.key")
	put(ca.Issue([]string{"b.test"}), "b.pem", "b.key")
	put(ca.Issue([]string{"c.test"}), "c/tls.crt", "c/tls.key")
	put(ca.Issue([]string{"d.test"}), "d/fullchain.pem", "d/privkey.pem")
	put(ca.Issue([]string{"hidden.test"}), ".hidden.crt", ".hidden.key")
	put(ca.Issue([]string{"alone.test"}), "alone.crt", "alone.key")
	remove(t, filepath.Join(dir, "alone.key"))
	s := newTestServer(t, ServerOptions{Pairs: []Pair{files(ca.Issue([]string{"first.test"}))}, Dir: dir})
	for name, want := range map[string]string{
		"a.test": "a.test", "b.test": "b.test", "c.test": "c.test", "d.test": "d.test", "hidden.test": "first.test", "alone.test": "first.test",
	} {
		cs, err := shake(t, s.Config(), &tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err != nil || cs.PeerCertificates[0].Subject.CommonName != want {
			t.Errorf("%s: got %v, %v, want %s", name, cs.PeerCertificates, err, want)
		}
	}
	if _, err := NewServer(ServerOptions{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "NAME.crt") {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestOldVersionsOfTLSAreRefused(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	pair := files(ca.Issue([]string{"a.test"}))
	for _, tt := range []struct {
		name      string
		min       uint16
		client    uint16
		mayEnter  bool
		negotiate uint16
	}{
		{"1.0", 0, tls.VersionTLS10, false, 0},
		{"1.1", 0, tls.VersionTLS11, false, 0},
		{"1.1 though that was asked for", tls.VersionTLS11, tls.VersionTLS11, false, 0},
		{"1.2", 0, tls.VersionTLS12, true, tls.VersionTLS12},
		{"1.3", 0, tls.VersionTLS13, true, tls.VersionTLS13},
		{"1.2 where 1.3 is the least", tls.VersionTLS13, tls.VersionTLS12, false, 0},
		{"1.3 where 1.3 is the least", tls.VersionTLS13, tls.VersionTLS13, true, tls.VersionTLS13},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestServer(t, ServerOptions{Pairs: []Pair{pair}, MinVersion: tt.min})
			client := trusting(ca, "a.test")
			client.MinVersion, client.MaxVersion = tls.VersionTLS10, tt.client
			cs, err := shake(t, s.Config(), client)
			if (err == nil) != tt.mayEnter || cs.Version != tt.negotiate {
				t.Errorf("got version %x, %v", cs.Version, err)
			}
		})
	}
}

func TestProtocolsAreAgreedOnByALPN(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	pair := files(ca.Issue([]string{"a.test"}))
	for _, tt := range []struct {
		name            string
		server, client  []string
		want            string
		refusedOutright bool
	}{
		{"h2 first", []string{"h2", "http/1.1"}, []string{"h2", "http/1.1"}, "h2", false},
		{"h2 alone where HTTP/1.1 is spoken", []string{"http/1.1"}, []string{"h2"}, "", true},
		{"WebSocket", []string{"http/1.1"}, []string{"h2", "http/1.1"}, "http/1.1", false},
		{"a client without ALPN", []string{"http/1.1"}, nil, "", false},
		{"something else", []string{"h2", "http/1.1"}, []string{"acme-tls/1"}, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestServer(t, ServerOptions{Pairs: []Pair{pair}, NextProtos: tt.server})
			client := trusting(ca, "a.test")
			client.NextProtos = tt.client
			cs, err := shake(t, s.Config(), client)
			if (err != nil) != tt.refusedOutright || cs.NegotiatedProtocol != tt.want {
				t.Errorf("got %q, %v", cs.NegotiatedProtocol, err)
			}
		})
	}
}

func TestClientsNeedACertificateOfTheAuthority(t *testing.T) {
	ca, clients, others := certstest.NewCA(t, "ca"), certstest.NewCA(t, "clients"), certstest.NewCA(t, "clients")
	s := newTestServer(t, ServerOptions{Pairs: []Pair{files(ca.Issue([]string{"a.test"}))}, ClientCAs: clients.File()})
	for _, tt := range []struct {
		name   string
		shown  *certstest.Pair
		enters bool
	}{
		{"none", nil, false},
		{"of the authority", new(clients.Issue([]string{"agent"})), true},
		{"of the authority, for clients alone", new(clients.Issue([]string{"agent"}, certstest.ForClients)), true},
		{"of another of the same name", new(others.Issue([]string{"agent"})), false},
		{"of the authority of servers", new(ca.Issue([]string{"agent"})), false},
		{"expired", new(clients.Issue([]string{"agent"}, certstest.Expiring(time.Now().Add(-time.Minute)))), false},
		{"not valid yet", new(clients.Issue([]string{"agent"}, certstest.Expiring(time.Now().Add(25*time.Hour)))), false},
		{"for servers alone", new(clients.Issue([]string{"agent"}, certstest.ForServers)), false},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+" "+tls.VersionName(version), func(t *testing.T) {
				client := trusting(ca, "a.test")
				if tt.shown != nil {
					client = showing(ca, "a.test", *tt.shown)
				}
				client.MaxVersion = version
				if _, err := shake(t, s.Config(), client); (err == nil) != tt.enters {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

// A ticket of a session would speak for the certificate that was shown when it
// began: CVE-2025-68121 of Go, and after it the authority's removal.
func TestNoSessionOutlivesTheAuthority(t *testing.T) {
	ca, before, after := certstest.NewCA(t, "ca"), certstest.NewCA(t, "before"), certstest.NewCA(t, "after")
	opt := ServerOptions{Pairs: []Pair{files(ca.Issue([]string{"a.test"}))}, ClientCAs: before.File()}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			s := newTestServer(t, opt)
			client := showing(ca, "a.test", before.Issue([]string{"agent"}))
			client.MaxVersion = version
			client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
			for range 2 {
				if cs, err := shake(t, s.Config(), client); err != nil || cs.DidResume {
					t.Fatalf("resumed %v, %v; want a whole handshake each time", cs.DidResume, err)
				}
			}
			next := opt
			next.ClientCAs = after.File()
			if changed := mustPrepare(t, s, next); !changed.Authorities || changed.Pairs {
				t.Errorf("changed %+v", changed)
			}
			if _, err := shake(t, s.Config(), client); err == nil {
				t.Error("a client of the authority that is gone got in")
			}
			renewed := showing(ca, "a.test", after.Issue([]string{"agent"}))
			renewed.MaxVersion, renewed.ClientSessionCache = version, client.ClientSessionCache
			if _, err := shake(t, s.Config(), renewed); err != nil {
				t.Errorf("a client of the new authority: %v", err)
			}
		})
	}
}

// Nor does a session that began while nobody needed a certificate.
func TestNoSessionGetsRoundANewDemandForCertificates(t *testing.T) {
	ca, clients := certstest.NewCA(t, "ca"), certstest.NewCA(t, "clients")
	opt := ServerOptions{Pairs: []Pair{files(ca.Issue([]string{"a.test"}))}}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := newTestServer(t, opt)
		client := trusting(ca, "a.test")
		client.MaxVersion, client.ClientSessionCache = version, tls.NewLRUClientSessionCache(8)
		for i := range 2 {
			if cs, err := shake(t, s.Config(), client); err != nil || cs.DidResume != (i == 1) {
				t.Fatalf("%s: resumed %v, %v; sessions are resumed where nobody needs a certificate", tls.VersionName(version), cs.DidResume, err)
			}
		}
		next := opt
		next.ClientCAs = clients.File()
		mustPrepare(t, s, next)
		if _, err := shake(t, s.Config(), client); err == nil {
			t.Errorf("%s: a client without a certificate got in", tls.VersionName(version))
		}
	}
}

// oneByOne writes bytes as segments of their own, as far as the kernel lets.
type oneByOne struct{ net.Conn }

func (c oneByOne) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// inRecords splits the first record that is written, the ClientHello, into
// records of a few bytes each: RFC 8446, section 5.1. What decides by the name
// in the first record would see no name (CVE-2026-32305 of Traefik).
type inRecords struct {
	net.Conn
	done bool
}

func (c *inRecords) Write(p []byte) (int, error) {
	if c.done {
		return c.Conn.Write(p)
	}
	c.done = true
	head, body := p[:3], p[5:]
	for len(body) > 0 {
		n := min(len(body), 7)
		record := append(append(append([]byte{}, head...), 0, byte(n)), body[:n]...)
		if _, err := c.Conn.Write(record); err != nil {
			return 0, err
		}
		body = body[n:]
	}
	return len(p), nil
}

func TestAFragmentedClientHelloIsReadAsAWhole(t *testing.T) {
	ca, clients := certstest.NewCA(t, "ca"), certstest.NewCA(t, "clients")
	s := newTestServer(t, ServerOptions{
		Pairs:     []Pair{files(ca.Issue([]string{"first.test"})), files(ca.Issue([]string{"second.test"}))},
		ClientCAs: clients.File(),
	})
	for name, via := range map[string]func(net.Conn) net.Conn{
		"in segments": func(nc net.Conn) net.Conn { return oneByOne{nc} },
		"in records":  func(nc net.Conn) net.Conn { return &inRecords{Conn: nc} },
	} {
		if _, err := shakeVia(t, s.Config(), trusting(ca, "second.test"), via); err == nil {
			t.Errorf("%s: a client without a certificate got in", name)
		}
		cs, err := shakeVia(t, s.Config(), showing(ca, "second.test", clients.Issue([]string{"agent"})), via)
		if err != nil || cs.PeerCertificates[0].Subject.CommonName != "second.test" {
			t.Errorf("%s: got %v, %v", name, cs.PeerCertificates, err)
		}
	}
}

package certs

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"piko/certs/certstest"
)

// shake makes a connection to a port with the configuration server, and an
// exchange of a byte, since a server's refusal of a certificate comes behind the
// client's end of the handshake. It returns what the client knows then.
func shake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	return shakeVia(t, server, client, func(nc net.Conn) net.Conn { return nc })
}

// shakeVia is shake with something between the client and its connection.
func shakeVia(t *testing.T, server, client *tls.Config, via func(net.Conn) net.Conn) (tls.ConnectionState, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		conn := tls.Server(nc, server)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.Copy(conn, io.LimitReader(conn, 1))
	}()
	defer func() {
		ln.Close() // or who accepts would wait for a dial that has failed
		<-done
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	conn := tls.Client(via(nc), client)
	if err := conn.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), nil
}

// trusting is a client that knows one authority.
func trusting(ca *certstest.CA, name string, shown ...certstest.Pair) *tls.Config {
	c := &tls.Config{RootCAs: ca.Pool(), ServerName: name}
	for _, p := range shown {
		c.Certificates = append(c.Certificates, p.TLS())
	}
	return c
}

// showing is a client that shows the certificate whatever the server asks for.
func showing(ca *certstest.CA, name string, shown certstest.Pair) *tls.Config {
	c := trusting(ca, name)
	cert := shown.TLS()
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return c
}

// newTestServer fails the test if the files are not well.
func newTestServer(t *testing.T, opt ServerOptions) *Server {
	t.Helper()
	s, err := NewServer(opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// files is a pair in files.
func files(p certstest.Pair) Pair {
	cert, key := p.Files()
	return Pair{cert, key}
}

func mustPrepare(t *testing.T, s *Server, opt ServerOptions) Changed {
	t.Helper()
	commit, changed, err := s.Prepare(opt)
	if err != nil {
		t.Fatal(err)
	}
	commit()
	return changed
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// writeCached writes a certificate as autocert keeps it: key first.
func writeCached(t *testing.T, dir, name string, key crypto.PrivateKey, cert []byte) {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), cert...)
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"piko/certs"
)

// newCertificate returns a self-signed certificate and its key as PEM.
func newCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"node.test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

func TestClientTLS(t *testing.T) {
	certPEM, keyPEM := newCertificate(t)
	_, otherPEM := newCertificate(t)
	cert, key, other := writeFile(t, "cert.pem", certPEM), writeFile(t, "key.pem", keyPEM), writeFile(t, "other.pem", otherPEM)
	for _, tt := range []struct {
		name string
		cfg  clientTLSConfig
		want string // in the error; empty is none
	}{
		{"nothing", clientTLSConfig{}, ""},
		{"certificate and key", clientTLSConfig{Cert: cert, Key: key}, ""},
		{"authorities", clientTLSConfig{RootCAs: cert}, ""},
		{"trust everybody", clientTLSConfig{InsecureSkipVerify: true}, ""},
		{"certificate alone", clientTLSConfig{Cert: cert}, "--x.tls.key: missing; --x.tls.cert needs it"},
		{"key alone", clientTLSConfig{Key: key}, "--x.tls.cert: missing"},
		{"another's key", clientTLSConfig{Cert: cert, Key: other}, "does not match"},
		{"key for a certificate", clientTLSConfig{Cert: key, Key: key}, key},
		{"no such certificate", clientTLSConfig{Cert: "/nowhere", Key: key}, "/nowhere: no such file"},
		{"no such key", clientTLSConfig{Cert: cert, Key: "/nowhere"}, "/nowhere: no such file"},
		{"no such authorities", clientTLSConfig{RootCAs: "/nowhere"}, "--x.tls.root-cas: open /nowhere: no such file"},
		{"authorities without one", clientTLSConfig{RootCAs: key}, "holds no PEM certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			loaded, err := tt.cfg.load("--x.tls.")
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want %q", err, tt.want)
				}
				if _, ok := errors.AsType[*usageError](err); !ok {
					t.Error("it is no usage error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.cfg == (clientTLSConfig{}) {
				if loaded != nil {
					t.Error("a configuration came out of nothing")
				}
				return
			}
			cfg := loaded.Config()
			if cfg.MinVersion != tls.VersionTLS12 || (len(cfg.Certificates) > 0) != (tt.cfg.Cert != "") ||
				(cfg.RootCAs != nil) != (tt.cfg.RootCAs != "") || cfg.InsecureSkipVerify != tt.cfg.InsecureSkipVerify {
				t.Errorf("got %+v", cfg)
			}
		})
	}
}

func TestServerTLS(t *testing.T) {
	certPEM, keyPEM := newCertificate(t)
	_, otherPEM := newCertificate(t)
	cert, key, other := writeFile(t, "cert.pem", certPEM), writeFile(t, "key.pem", keyPEM), writeFile(t, "other.pem", otherPEM)
	for _, tt := range []struct {
		name string
		args []string
		want string // in the error; empty is none
	}{
		{"certificate and key", []string{"--proxy.tls.cert", cert, "--proxy.tls.key", key}, ""},
		{"enabled as well", []string{"--proxy.tls.enabled", "--proxy.tls.cert", cert, "--proxy.tls.key", key}, ""},
		{"enabled alone", []string{"--proxy.tls.enabled"}, "--proxy.tls.cert and --proxy.tls.key: missing; --proxy.tls.enabled needs them"},
		{"certificate alone", []string{"--proxy.tls.cert", cert}, "--proxy.tls.key: missing; --proxy.tls.cert needs it"},
		{"key alone", []string{"--proxy.tls.key", key}, "--proxy.tls.cert: missing"},
		{"another's key", []string{"--proxy.tls.cert", cert, "--proxy.tls.key", other}, "does not match"},
		{"no such certificate", []string{"--proxy.tls.cert", "/nowhere", "--proxy.tls.key", key}, "/nowhere: no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := parseServer(t, nil, tt.args...)
			if err == nil {
				err = cfg.check()
			}
			var loaded *certs.Server
			if err == nil {
				loaded, err = cfg.Proxy.TLS.load("--proxy.tls.")
			}
			if tt.want == "" {
				if err != nil || loaded == nil {
					t.Errorf("got %v, %v", loaded, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if _, ok := errors.AsType[*usageError](err); !ok {
				t.Error("it is no usage error")
			}
		})
	}
}

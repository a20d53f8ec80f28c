package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// clientTLSConfig is a tls section of something that piko dials.
type clientTLSConfig struct {
	Cert               string `type:"filepath" placeholder:"FILE" help:"PEM certificate to show to the other side, when it asks for one."`
	Key                string `type:"filepath" placeholder:"FILE" help:"PEM private key of the certificate."`
	RootCAs            string `name:"root-cas" placeholder:"FILE" help:"PEM certificates of the authorities to trust, in place of the system's."`
	InsecureSkipVerify bool   `help:"Trust whoever answers. For tests only: anybody on the way can read and change everything."`
}

// load reads the files. It returns nil when nothing is set. section is what
// errors put before the names of the options, such as "--connect.tls.".
func (c clientTLSConfig) load(section string) (*tls.Config, error) {
	if c == (clientTLSConfig{}) {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.InsecureSkipVerify}
	if (c.Cert == "") != (c.Key == "") {
		missing, given := "key", "cert"
		if c.Cert == "" {
			missing, given = "cert", "key"
		}
		return nil, &usageError{err: fmt.Errorf("%s%s: missing; %s%s needs it", section, missing, section, given)}
	}
	if c.Cert != "" {
		cert, err := loadKeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, &usageError{err: fmt.Errorf("%scert and key: %w", section, err)}
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	if c.RootCAs != "" {
		pool, err := loadCertPool(c.RootCAs)
		if err != nil {
			return nil, &usageError{err: fmt.Errorf("%sroot-cas: %w", section, err)}
		}
		cfg.RootCAs = pool
	}
	return cfg, nil
}

// serverTLSConfig is the tls section of a port.
type serverTLSConfig struct {
	Enabled bool   `help:"Speak TLS on this port; cert and key say so by themselves."`
	Cert    string `type:"filepath" placeholder:"FILE" help:"PEM certificate to show to clients, with those of intermediate authorities behind it. TLS is on when it is given."`
	Key     string `type:"filepath" placeholder:"FILE" help:"PEM private key of the certificate."`
}

// check says which option is missing. section is as for load.
func (c serverTLSConfig) check(section string) error {
	switch {
	case c.Cert == "" && c.Key != "":
		return fmt.Errorf("%scert: missing; %skey needs it", section, section)
	case c.Cert != "" && c.Key == "":
		return fmt.Errorf("%skey: missing; %scert needs it", section, section)
	case c.Cert == "" && c.Enabled:
		return fmt.Errorf("%scert and %skey: missing; %senabled needs them", section, section, section)
	}
	return nil
}

// load reads the files. It returns nil when the port speaks no TLS. section is
// what errors put before the names of the options, such as "--proxy.tls.".
func (c serverTLSConfig) load(section string) (*tls.Config, error) {
	if err := c.check(section); err != nil {
		return nil, &usageError{err: err}
	}
	if c.Cert == "" {
		return nil, nil
	}
	cert, err := loadKeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, &usageError{err: fmt.Errorf("%scert and key: %w", section, err)}
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}, nil
}

// loadKeyPair reads a certificate and its key and says which of them is wrong.
func loadKeyPair(certFile, keyFile string) (tls.Certificate, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return cert, fmt.Errorf("%s with %s: %w", certFile, keyFile, err)
	}
	return cert, nil
}

func loadCertPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: %w", file, errNoCertificate)
	}
	return pool, nil
}

var errNoCertificate = errors.New("holds no PEM certificate (-----BEGIN CERTIFICATE-----)")

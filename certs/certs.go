// Package certs is the certificates and authorities of TLS: it reads them from
// files, chooses among them, replaces them all at once while connections are
// made, and says before they expire. It is a ground package: main gives its
// configurations to whoever listens or dials.
//
// A Server is what a port shows and asks for, a Client what a dialler shows and
// trusts. Both hand out what holds now: a handshake that has begun goes on with
// what it began with, and connections that are there stay, also when the
// authority behind them is not trusted any longer.
//
// Replacing is in two steps, so that several ports change together or not at
// all: Prepare reads and checks everything and changes nothing, and the func
// that it returns cannot fail. Nothing here has a goroutine, but for Watch.
package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Pair names the files of a certificate and of its private key, both PEM.
type Pair struct{ Cert, Key string }

const (
	// maxFile bounds a file of certificates in bytes: all authorities of a
	// system are some 250 KiB.
	maxFile = 4 << 20

	// maxPairs bounds the certificates of one port.
	maxPairs = 4096
)

var errNoCertificate = errors.New("holds no PEM certificate (-----BEGIN CERTIFICATE-----)")

// ReadFile reads a file of certificates or keys, at most 4 MiB.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than 4 MiB; it must hold certificates or a key and nothing else", path)
	}
	return text, nil
}

// loadPair reads a certificate and its key and says which of them is wrong.
func loadPair(p Pair, digest io.Writer) (*tls.Certificate, error) {
	certPEM, err := readFile(p.Cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(p.Key)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", p.Cert, p.Key, err)
	}
	sum := sha256.New()
	sum.Write(certPEM)
	sum.Write([]byte{0})
	sum.Write(keyPEM)
	digest.Write(sum.Sum(nil))
	return &cert, nil
}

// loadPool reads the certificates of authorities. Each of them has to be one:
// of a file that is being written the rest would be missing without a word.
func loadPool(path string) (*x509.CertPool, []byte, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	n := 0
	for rest := text; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if bytes.Contains(rest, []byte("-----BEGIN CERTIFICATE-----")) {
				return nil, nil, fmt.Errorf("%s: certificate %d is not whole: its end is missing", path, n+1)
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			n--
			continue // as OpenSSL does
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: certificate %d: %w", path, n+1, err)
		}
		pool.AddCert(cert)
	}
	if n == 0 {
		return nil, nil, fmt.Errorf("%s: %w", path, errNoCertificate)
	}
	sum := sha256.Sum256(text)
	return pool, sum[:], nil
}

// pairNames are the names that a certificate and its key have in a directory
// of their own: Kubernetes' secrets, certbot's.
var pairNames = []Pair{{"tls.crt", "tls.key"}, {"fullchain.pem", "privkey.pem"}}

// PairsOf lists the pairs in a directory, in the order of their names: NAME.crt
// or NAME.pem with NAME.key beside it, and directories that hold tls.crt and
// tls.key, or fullchain.pem and privkey.pem. Names that begin with a dot are
// passed by.
func PairsOf(dir string) ([]Pair, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var pairs []Pair
	for _, e := range entries {
		name := e.Name()
		path := filepath.Join(dir, name)
		if strings.HasPrefix(name, ".") {
			continue
		}
		if info, err := os.Stat(path); err != nil {
			return nil, err
		} else if info.IsDir() {
			for _, n := range pairNames {
				if p := (Pair{filepath.Join(path, n.Cert), filepath.Join(path, n.Key)}); exists(p.Cert) && exists(p.Key) {
					pairs = append(pairs, p)
					break
				}
			}
			continue
		}
		for _, ext := range []string{".crt", ".pem"} {
			if stem, ok := strings.CutSuffix(path, ext); ok && exists(stem+".key") {
				pairs = append(pairs, Pair{path, stem + ".key"})
			}
		}
	}
	switch {
	case len(pairs) == 0:
		return nil, fmt.Errorf("%s holds no pair of certificate and key: name them NAME.crt and NAME.key", dir)
	case len(pairs) > maxPairs:
		return nil, fmt.Errorf("%s holds %d certificates; at most %d are fine", dir, len(pairs), maxPairs)
	}
	return pairs, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

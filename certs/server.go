package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync/atomic"
)

// ServerOptions is what a port shows to its clients, and what it asks of them.
type ServerOptions struct {
	// Pairs are the certificates; the first is for clients that name no host, or
	// one that no certificate is for.
	Pairs []Pair
	// Dir holds more of them, as PairsOf finds them; they come after Pairs.
	Dir string
	// ACME gets certificates for names that none of these is for; nil is nobody.
	ACME *ACME
	// ClientCAs is a file with the authorities of clients' certificates; with it
	// a client has to have one. Empty asks for none.
	ClientCAs string
	// MinVersion is the oldest version of TLS; 0 means TLS 1.2.
	MinVersion uint16
	// NextProtos are the protocols for ALPN, the best first.
	NextProtos []string
}

// Server is the TLS of a port. Safe for concurrent use.
type Server struct {
	config *tls.Config // what listeners have; static
	now    atomic.Pointer[serverState]
}

// serverState is what holds until the next reload. Immutable.
type serverState struct {
	opt      ServerOptions
	config   *tls.Config
	names    map[string][]*tls.Certificate // by name in lower case; "*.example.com" too
	all      []*tls.Certificate            // the first is the default
	pairsSum []byte
	caSum    []byte
}

// NewServer reads the files. Its errors name them.
func NewServer(opt ServerOptions) (*Server, error) {
	s := &Server{}
	s.config = &tls.Config{
		MinVersion: tls.VersionTLS12,
		// The whole configuration and not the certificate alone: authorities
		// change as well.
		GetConfigForClient: s.configFor,
	}
	state, err := loadServer(opt)
	if err != nil {
		return nil, err
	}
	s.now.Store(state)
	return s, nil
}

func (s *Server) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	now := s.now.Load()
	if now.opt.ACME != nil && isChallenge(hello) {
		return now.opt.ACME.challenge(), nil
	}
	return now.config, nil
}

// Config is what a listener needs. It is always the same: what it leads to
// changes. It must not be changed itself.
func (s *Server) Config() *tls.Config { return s.config }

// Changed says what a reload has changed.
type Changed struct{ Pairs, Authorities, Version bool }

// Prepare reads all that next names. Calling commit puts it in force for the
// handshakes that follow. On an error nothing changes.
func (s *Server) Prepare(next ServerOptions) (commit func(), changed Changed, err error) {
	was := s.now.Load()
	state, err := loadServer(next)
	if err != nil {
		return nil, Changed{}, err
	}
	changed = Changed{
		Pairs:       !bytes.Equal(was.pairsSum, state.pairsSum),
		Authorities: !bytes.Equal(was.caSum, state.caSum),
		Version:     was.config.MinVersion != state.config.MinVersion,
	}
	return func() { s.now.Store(state) }, changed, nil
}

func loadServer(opt ServerOptions) (*serverState, error) {
	s := &serverState{opt: opt, names: make(map[string][]*tls.Certificate)}
	if err := s.loadPairs(); err != nil {
		return nil, err
	}
	s.config = &tls.Config{
		MinVersion:     max(opt.MinVersion, tls.VersionTLS12),
		NextProtos:     opt.NextProtos,
		GetCertificate: s.choose,
	}
	if opt.ClientCAs == "" {
		return s, nil
	}
	pool, sum, err := loadPool(opt.ClientCAs)
	if err != nil {
		return nil, &AuthoritiesError{err}
	}
	s.caSum = sum
	s.requireClients(pool)
	return s, nil
}

// requireClients has clients show a certificate. A session that is resumed
// shows none: its ticket speaks for it, also when the authority is not trusted
// any longer (as in Go before 1.25.7: CVE-2025-68121). So there are no tickets;
// a full handshake costs a client some 0.3 ms of our time.
func (s *serverState) requireClients(pool *x509.CertPool) {
	s.config.ClientAuth = tls.RequireAndVerifyClientCert
	s.config.ClientCAs = pool
	s.config.SessionTicketsDisabled = true
}

func (s *serverState) loadPairs() error {
	pairs := s.opt.Pairs
	if s.opt.Dir != "" {
		more, err := PairsOf(s.opt.Dir)
		if err != nil {
			return err
		}
		pairs = append(pairs[:len(pairs):len(pairs)], more...)
	}
	digest := sha256.New()
	for _, p := range pairs {
		cert, err := loadPair(p, digest)
		if err != nil {
			return err
		}
		s.add(cert)
	}
	if len(s.all) == 0 && s.opt.ACME == nil {
		return errors.New("no certificate is given")
	}
	s.pairsSum = digest.Sum(nil)
	return nil
}

// add notes the names of a certificate.
func (s *serverState) add(cert *tls.Certificate) {
	s.all = append(s.all, cert)
	names := cert.Leaf.DNSNames
	if len(names) == 0 && cert.Leaf.Subject.CommonName != "" {
		names = []string{cert.Leaf.Subject.CommonName} // as OpenSSL's servers do; clients judge it
	}
	for _, ip := range cert.Leaf.IPAddresses {
		names = append(names[:len(names):len(names)], ip.String())
	}
	for _, name := range names {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		s.names[name] = append(s.names[name], cert)
	}
}

// choose is tls.Config.GetCertificate: the certificate for the host that the
// client names, else one for all names of its domain, else one that ACME gets,
// else the default; of several, the first whose kind of key the client
// understands.
func (s *serverState) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name == "" && hello.Conn != nil {
		// Clients name no address: RFC 6066, section 3.
		name, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String())
	}
	candidates := s.names[name]
	if len(candidates) == 0 {
		if _, domain, ok := strings.Cut(name, "."); ok {
			candidates = s.names["*."+domain]
		}
	}
	if len(candidates) == 0 && s.opt.ACME != nil {
		cert, err := s.opt.ACME.certificate(hello)
		if err == nil || len(s.all) == 0 {
			return cert, err
		}
	}
	if len(candidates) == 0 {
		candidates = s.all
	}
	for _, cert := range candidates {
		if supports(hello, cert) {
			return cert, nil
		}
	}
	return candidates[0], nil // and let the handshake say what is wrong
}

// supports says whether the client can use the certificate's kind of key. Its
// name is none of the question.
func supports(hello *tls.ClientHelloInfo, cert *tls.Certificate) bool {
	h := *hello
	h.ServerName = ""
	return h.SupportsCertificate(cert) == nil
}

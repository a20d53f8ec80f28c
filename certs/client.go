package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"sync/atomic"
)

// ClientOptions is what a dialler shows, and whom it trusts.
type ClientOptions struct {
	// Pair is shown to servers that ask for a certificate; empty is none.
	Pair Pair
	// RootCAs is a file with the authorities to trust in place of the system's.
	RootCAs string
	// ServerName is the name that the server's certificate has to be for, in
	// place of the one that is dialled.
	ServerName string
	// InsecureSkipVerify trusts whoever answers.
	InsecureSkipVerify bool
	// MinVersion is the oldest version of TLS; 0 means TLS 1.2.
	MinVersion uint16
}

// Client is the TLS of a dialler. Safe for concurrent use.
type Client struct {
	now atomic.Pointer[clientState]
}

// clientState is what holds until the next reload. Immutable.
type clientState struct {
	config  *tls.Config
	pairSum []byte
	caSum   []byte
}

// NewClient reads the files. Its errors name them.
func NewClient(opt ClientOptions) (*Client, error) {
	c := &Client{}
	state, err := loadClient(opt)
	if err != nil {
		return nil, err
	}
	c.now.Store(state)
	return c, nil
}

// Config is that of the next connection: ask for each. It must not be changed.
func (c *Client) Config() *tls.Config { return c.now.Load().config }

// Prepare is Server.Prepare.
func (c *Client) Prepare(next ClientOptions) (commit func(), changed Changed, err error) {
	was := c.now.Load()
	state, err := loadClient(next)
	if err != nil {
		return nil, Changed{}, err
	}
	changed = Changed{
		Pairs:       !bytes.Equal(was.pairSum, state.pairSum),
		Authorities: !bytes.Equal(was.caSum, state.caSum),
		Version:     was.config.MinVersion != state.config.MinVersion,
	}
	return func() { c.now.Store(state) }, changed, nil
}

func loadClient(opt ClientOptions) (*clientState, error) {
	s := &clientState{config: &tls.Config{
		MinVersion:         max(opt.MinVersion, tls.VersionTLS12),
		ServerName:         opt.ServerName,
		InsecureSkipVerify: opt.InsecureSkipVerify,
	}}
	if opt.Pair != (Pair{}) {
		digest := sha256.New()
		cert, err := loadPair(opt.Pair, digest)
		if err != nil {
			return nil, err
		}
		s.pairSum = digest.Sum(nil)
		s.config.Certificates = []tls.Certificate{*cert}
	}
	if opt.RootCAs != "" {
		pool, sum, err := loadPool(opt.RootCAs)
		if err != nil {
			return nil, &AuthoritiesError{err}
		}
		s.config.RootCAs, s.caSum = pool, sum
	}
	return s, nil
}

// AuthoritiesError is what is wrong with a file of authorities, and not with a
// certificate or key.
type AuthoritiesError struct{ err error }

// Error implements error.
func (e *AuthoritiesError) Error() string { return e.err.Error() }

// Unwrap returns what is wrong.
func (e *AuthoritiesError) Unwrap() error { return e.err }

// IsAuthorities says whether err is about a file of authorities.
func IsAuthorities(err error) bool {
	_, ok := errors.AsType[*AuthoritiesError](err)
	return ok
}

package main

import (
	"crypto/tls"
	"errors"
	"fmt"

	"piko/certs"
	"piko/peer"
)

// clusterTLS is the cluster.tls.* section.
type clusterTLS struct {
	Cert       string `placeholder:"FILE" help:"PEM certificate that this node shows to others, for servers and for clients. With it, key and cas, nodes prove themselves to each other by certificates besides what --cluster.secret proves, and nodes without one are refused. All nodes of a cluster have them or none."`
	Key        string `placeholder:"FILE" help:"PEM private key of the certificate."`
	CAs        string `name:"cas" placeholder:"FILE" help:"PEM certificates of the authorities of nodes' certificates: best one of the cluster's own, since every certificate of theirs is a node's."`
	ServerName string `placeholder:"HOST" help:"Name that other nodes' certificates have to be for, in place of the host at which each is reached."`
}

// clusterCerts are what the section names. The zero value is nothing.
type clusterCerts struct {
	server *certs.Server
	client *certs.Client
}

func (c clusterTLS) on() bool { return c != (clusterTLS{}) }

// check says which option is missing.
func (c clusterTLS) check() error {
	var errs []error
	for _, o := range []struct{ option, value string }{{"cert", c.Cert}, {"key", c.Key}, {"cas", c.CAs}} {
		if c.on() && o.value == "" {
			errs = append(errs, fmt.Errorf("--cluster.tls.%s: missing; nodes need a certificate, its key and the authorities of the others", o.option))
		}
	}
	return errors.Join(errs...)
}

func (c clusterTLS) serverOptions() certs.ServerOptions {
	return certs.ServerOptions{
		Pairs: []certs.Pair{{Cert: c.Cert, Key: c.Key}}, ClientCAs: c.CAs,
		MinVersion: tls.VersionTLS13, NextProtos: []string{peer.AuthorityProtocol},
	}
}

func (c clusterTLS) clientOptions() certs.ClientOptions {
	return certs.ClientOptions{
		Pair: certs.Pair{Cert: c.Cert, Key: c.Key}, RootCAs: c.CAs, ServerName: c.ServerName, MinVersion: tls.VersionTLS13,
	}
}

// load reads the files.
func (c clusterTLS) load() (loaded clusterCerts, err error) {
	if !c.on() {
		return clusterCerts{}, nil
	}
	if loaded.server, err = certs.NewServer(c.serverOptions()); err == nil {
		loaded.client, err = certs.NewClient(c.clientOptions())
	}
	return loaded, clusterTLSError(err)
}

func clusterTLSError(err error) error {
	if err == nil {
		return nil
	}
	option := "cert and key"
	if certs.IsAuthorities(err) {
		option = "cas"
	}
	return &usageError{err: fmt.Errorf("--cluster.tls.%s: %w", option, err)}
}

// authority is what the package peer calls it.
func (c clusterCerts) authority() *peer.Authority {
	if c.server == nil {
		return nil
	}
	return &peer.Authority{Server: c.server.Config(), Client: c.client.Config}
}

// files are those that the section names.
func (c clusterTLS) files() []string { return named(c.Cert, c.Key, c.CAs) }

// prepareClusterTLS is a part of prepare. Connections that are there stay.
func (s *server) prepareClusterTLS(next *serverConfig) (p reloadPart, err error) {
	was, to := s.was().Cluster.TLS, next.Cluster.TLS
	if s.clusterTLS.server == nil || !to.on() {
		return p, nil // whether nodes show certificates is for a restart
	}
	takeServer, changed, err := s.clusterTLS.server.Prepare(to.serverOptions())
	if err != nil {
		return p, clusterTLSError(err)
	}
	takeClient, _, err := s.clusterTLS.client.Prepare(to.clientOptions())
	if err != nil {
		return p, clusterTLSError(err)
	}
	p.commit = func() { all([]func(){takeServer, takeClient}) }
	for _, o := range []struct {
		option string
		is     bool
	}{
		{"cert", changed.Pairs || was.Cert != to.Cert}, {"key", was.Key != to.Key},
		{"cas", changed.Authorities || was.CAs != to.CAs}, {"server-name", was.ServerName != to.ServerName},
	} {
		if o.is {
			p.applied = append(p.applied, "cluster.tls."+o.option)
		}
	}
	return p, nil
}

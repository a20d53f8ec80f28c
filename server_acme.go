package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"piko/certs"
	"piko/fault"
	"piko/listen"
)

// acmeConfig is the proxy.tls.acme.* section.
type acmeConfig struct {
	Enabled      bool     `help:"Get certificates for the proxy port from an authority that speaks ACME, such as Let's Encrypt, and renew them: for direct subdomains of --proxy.domain and of tenants' domains, when the first client comes for an endpoint that exists, and for --proxy.tls.acme.domain. The authority must reach this port as port 443 of these names, or --proxy.tls.acme.http-addr as port 80. It gives no certificate for a wildcard this way. Certificates in files go before."`
	AcceptTerms  bool     `help:"You accept the authority's terms of service. It wants that."`
	Domain       []domain `placeholder:"NAME" help:"Name to get a certificate for at once. May be repeated."`
	Email        string   `placeholder:"ADDRESS" help:"Address at which the authority may reach you."`
	DirectoryURL httpURL  `name:"directory-url" default:"https://acme-v02.api.letsencrypt.org/directory" placeholder:"URL" help:"The authority's directory."`
	RootCAs      string   `name:"root-cas" placeholder:"FILE" help:"PEM certificates of the authorities to trust for the directory itself, in place of the system's."`
	CacheDir     string   `placeholder:"DIR" help:"Directory for keys and certificates, which nobody else may read. Keep it over restarts: authorities limit how many certificates they issue. Nodes that share it, as over NFS, share the certificates and answer each other's challenges; without that each node gets its own, and the authority must reach the node that asks."`
	HTTPAddr     bindAddr `name:"http-addr" placeholder:"HOST:PORT" help:"Address to listen on for challenges over plain HTTP, as :80. Other requests are sent to https there. When not given, challenges are answered on the proxy port alone."`
	PerWeek      int      `default:"40" placeholder:"N" help:"How many certificates for endpoints may be asked for in a week. Let's Encrypt issues 50 for a domain and all below it."`
}

// check finds what no single value shows.
func (c *acmeConfig) check(proxy *proxyConfig) error {
	if !c.Enabled {
		return nil
	}
	var errs []error
	if !c.AcceptTerms {
		errs = append(errs, errors.New("--proxy.tls.acme.accept-terms: missing; read the terms of service of the authority, and say that you accept them"))
	}
	if c.CacheDir == "" {
		errs = append(errs, errors.New("--proxy.tls.acme.cache-dir: missing; name a directory that lasts, such as /var/lib/piko/acme"))
	}
	if len(c.Domain) == 0 && len(acmeDomains(proxy)) == 0 {
		errs = append(errs, errors.New("--proxy.tls.acme.domain: missing, and so is --proxy.domain; name what certificates are for"))
	}
	if c.PerWeek < 0 {
		errs = append(errs, fmt.Errorf("--proxy.tls.acme.per-week: %d; use 0 or more", c.PerWeek))
	}
	return errors.Join(errs...)
}

// acmeDomains are those whose direct subdomains are endpoints.
func acmeDomains(proxy *proxyConfig) []string {
	domains, tenants := proxy.routing()
	for _, t := range tenants {
		domains = append(domains, t.Domains...)
	}
	return domains
}

// load reads the files that the section names. exists says whether a host names
// an endpoint that is there. It returns nil when nothing is to be got.
func (c *acmeConfig) load(proxy *proxyConfig, exists func(host string) bool, log *slog.Logger) (*certs.ACME, error) {
	if !c.Enabled {
		return nil, nil
	}
	opt := certs.ACMEOptions{
		DirectoryURL: string(c.DirectoryURL),
		Email:        c.Email,
		RootCAs:      c.RootCAs,
		CacheDir:     c.CacheDir,
		Domains:      acmeDomains(proxy),
		Exists:       exists,
		PerWeek:      c.PerWeek,
		Logger:       log,
	}
	for _, d := range c.Domain {
		opt.Names = append(opt.Names, string(d))
	}
	acme, err := certs.NewACME(opt)
	if err != nil {
		return nil, &usageError{err: fmt.Errorf("--proxy.tls.acme.root-cas: %w", err)}
	}
	return acme, nil
}

// endpointExists says whether a host names an endpoint that some node serves.
func (s *server) endpointExists(host string) bool {
	name, ok := s.public.NameOfHost(host)
	return ok && s.table.Lookup(name) != nil
}

// openACME opens the port for challenges over plain HTTP, if there is to be one.
func (s *server) openACME(log *slog.Logger) (err error) {
	if s.acme == nil {
		return nil
	}
	if err := s.acme.CheckCache(); err != nil {
		return fmt.Errorf("--proxy.tls.acme.cache-dir: %w; the user that piko runs as must be able to write there", err)
	}
	cfg := &s.cfg.Proxy
	if cfg.TLS.ACME.HTTPAddr == "" {
		return nil
	}
	srv := newHTTPServer(s.acme.Handler(toHTTPS(s.acme.MayHave)), subsystem(log, "proxy"))
	srv.ReadTimeout = readHeaderTimeout
	opt := s.portOptions("acme", &connsConfig{}, nil, log)
	opt.HandshakeTimeout = listen.DefaultHandshakeTimeout
	s.challenges, err = openPort("--proxy.tls.acme.http-addr", cfg.TLS.ACME.HTTPAddr, srv, opt)
	return err
}

// toHTTPS sends clients to where TLS is spoken, but only to hosts that are ours.
func toHTTPS(ours func(host string) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		host, _ := splitHostPort(r.Host)
		if r.Method != http.MethodGet && r.Method != http.MethodHead || !ours(host) {
			fault.Write(w, r, &fault.Error{Code: fault.NotFound, Detail: "nothing is served here without TLS"})
			return
		}
		http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusFound)
	})
}

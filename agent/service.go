package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultDialTimeout = 10 * time.Second
	defaultKeepAlive   = 30 * time.Second
)

// schemes are those that a service's URL may have. The last three are for
// services that speak nothing but HTTP/2, as those of gRPC do.
var schemes = []string{"http", "https", "h2c", "grpc", "grpcs"}

// service is where a listener forwards to: the parsed Addr, and how to dial it.
// Nothing of it changes after construction.
type service struct {
	scheme string // http or https
	speaks string // auto, http1 or h2; empty for TCP
	host   string // as in the URL; what the connection pool and the log call it
	dialTo string // host:port
	prefix string // path put before the request's, without a slash at its end
	query  string // put before the request's query

	dialer net.Dialer
	tls    func() *tls.Config // for HTTP/1.1; nil for cleartext
	tls2   func() *tls.Config // for HTTP/2; likewise
}

// newService parses l.Addr: 3000 is localhost:3000, and host:port is http.
func newService(l *Listener) (*service, error) {
	s, err := parseAddr(l.Addr)
	if err != nil {
		return nil, err
	}
	s.dialer = net.Dialer{
		Timeout:         orDefault(l.DialTimeout, defaultDialTimeout),
		KeepAliveConfig: keepAlive(l.KeepAlive),
	}
	if s.speaks, err = speaks(s.scheme, l.UpstreamProtocol); err != nil {
		return nil, fmt.Errorf("address of the service %q: %w", l.Addr, err)
	}
	switch s.scheme {
	case "h2c", "grpc":
		s.scheme = "http"
	case "grpcs":
		s.scheme = "https"
	}
	if s.scheme == "https" {
		s.tls = serviceTLS(l, s.dialTo, "http/1.1")
		s.tls2 = serviceTLS(l, s.dialTo, "h2", "http/1.1")
	}
	return s, nil
}

// speaks is what the service is spoken to, by the scheme of its address and by
// what the listener says.
func speaks(scheme, protocol string) (string, error) {
	only2 := scheme == "h2c" || scheme == "grpc" || scheme == "grpcs"
	switch protocol {
	case "", UpstreamAuto:
		if only2 {
			return UpstreamHTTP2, nil
		}
		return UpstreamAuto, nil
	case UpstreamHTTP1:
		if only2 {
			return "", fmt.Errorf("scheme %q means HTTP/2, and the upstream protocol is %s: use http or https", scheme, protocol)
		}
		return protocol, nil
	case UpstreamHTTP2:
		return protocol, nil
	}
	return "", fmt.Errorf("unknown upstream protocol %q: use %s, %s or %s", protocol, UpstreamAuto, UpstreamHTTP1, UpstreamHTTP2)
}

// orDefault is def for 0.
func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

func keepAlive(interval time.Duration) net.KeepAliveConfig {
	interval = orDefault(interval, defaultKeepAlive)
	if interval < 0 {
		return net.KeepAliveConfig{}
	}
	return net.KeepAliveConfig{Enable: true, Idle: interval, Interval: interval, Count: 3}
}

// serviceTLS is what a connection is made with: l's own configuration with the
// host of the address as the name to verify, unless it has another, and with the
// protocols that may be spoken.
func serviceTLS(l *Listener, addr string, protocols ...string) func() *tls.Config {
	get := l.GetTLS
	if get == nil {
		fixed := l.TLS.Clone() // nil stays nil
		get = func() *tls.Config { return fixed }
	}
	host, _, _ := net.SplitHostPort(addr)
	return func() *tls.Config {
		c := get().Clone()
		if c == nil {
			c = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		if c.ServerName == "" {
			c.ServerName = host
		}
		c.NextProtos = protocols
		return c
	}
}

// parseAddr understands a port, host:port, and a URL of HTTP.
func parseAddr(addr string) (*service, error) {
	if addr == "" {
		return nil, fmt.Errorf("missing address of the service: give a port, host:port or a URL")
	}
	if !strings.Contains(addr, "://") {
		hostport, err := parseHostPort(addr)
		if err != nil {
			return nil, err
		}
		return &service{scheme: "http", host: hostport, dialTo: hostport}, nil
	}
	u, err := url.Parse(addr)
	if err != nil {
		if parse, ok := errors.AsType[*url.Error](err); ok {
			err = parse.Err // without the URL, which may hold a password
		}
		return nil, fmt.Errorf("parse address of the service: %w", err)
	}
	if err := checkURL(u); err != nil {
		return nil, fmt.Errorf("address of the service %q: %w", u.Redacted(), err)
	}
	s := &service{scheme: u.Scheme, host: u.Host, query: u.RawQuery}
	s.prefix = strings.TrimRight(u.EscapedPath(), "/")
	s.dialTo = net.JoinHostPort(u.Hostname(), portOf(u))
	return s, nil
}

func parseHostPort(addr string) (string, error) {
	if isPort(addr) {
		return net.JoinHostPort("localhost", addr), nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || !isPort(port) {
		return "", fmt.Errorf("invalid address of the service %q: give a port, host:port or a URL, such as 3000, 10.0.0.5:3000 or https://10.0.0.5/api", addr)
	}
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func checkURL(u *url.URL) error {
	switch {
	case !slices.Contains(schemes, u.Scheme):
		return fmt.Errorf("scheme %q is none of %s", u.Scheme, strings.Join(schemes, ", "))
	case u.Hostname() == "":
		return fmt.Errorf("the host is missing")
	case u.Port() != "" && !isPort(u.Port()):
		return fmt.Errorf("port %q is not between 1 and 65535", u.Port())
	case u.User != nil:
		return fmt.Errorf("a user name or password is not passed on: take it out")
	case u.Fragment != "":
		return fmt.Errorf("a fragment (#%s) never reaches a service: take it out", u.Fragment)
	}
	return nil
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https", u.Scheme == "grpcs":
		return "443"
	}
	return "80"
}

// dialError says that there is no connection to the service.
type dialError struct{ err error }

func (e *dialError) Error() string { return "connect to service: " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dial opens a connection to the service for HTTP/1.1, or TCP.
func (s *service) dial(ctx context.Context) (net.Conn, error) {
	conn, _, err := s.open(ctx, s.tls)
	return conn, err
}

// open opens a connection to the service, encrypted if config is not nil, and
// returns what protocol was agreed on; the dial time-out covers the TLS
// handshake too.
func (s *service) open(ctx context.Context, config func() *tls.Config) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.dialer.Timeout)
	defer cancel()
	conn, err := s.dialer.DialContext(ctx, "tcp", s.dialTo)
	if err != nil {
		return nil, "", &dialError{err}
	}
	if config == nil {
		return conn, "", nil
	}
	secure := tls.Client(conn, config())
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, "", &dialError{fmt.Errorf("handshake with %s: %w", s.dialTo, err)}
	}
	return secure, secure.ConnectionState().NegotiatedProtocol, nil
}

// target is what goes into the request line: the client's bytes as they are,
// behind the prefix of the service's URL if it has one.
func (s *service) target(r *http.Request) string {
	target := r.RequestURI
	if target == "" || target[0] != '/' {
		if target == "*" {
			return target
		}
		target = r.URL.RequestURI() // absolute form
	}
	if s.prefix != "" {
		target = s.prefix + target
	}
	if s.query == "" {
		return target
	}
	path, query, _ := strings.Cut(target, "?")
	if query != "" {
		query = "&" + query
	}
	return path + "?" + s.query + query
}

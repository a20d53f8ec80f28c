package tunnel

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"

	"piko/fault"
)

// parseServerURL checks the URL that a user gave for the server, and returns it
// with http or https as the scheme. Its errors never repeat credentials.
func parseServerURL(s string) (*url.URL, error) {
	if s == "" {
		return nil, errors.New("server url is missing: such as https://piko.example.com")
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("parse server url: %w", withoutURL(err))
	}
	switch u.Scheme {
	case "http", "https":
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	default:
		return nil, fmt.Errorf("server url has the scheme %s: want http, https, ws or wss, such as https://piko.example.com", quoteShort(u.Scheme))
	}
	switch {
	case u.Hostname() == "":
		return nil, errors.New("server url has no host: want such as https://piko.example.com")
	case u.User != nil:
		return nil, errors.New("server url has credentials: use a token instead")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("server url has a query or a fragment: only a path may follow the host")
	}
	return u, nil
}

// withoutURL is what is wrong with a URL, without the URL: it may hold a password.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// connect dials the server, through a proxy if there is one, and speaks TLS
// with it if the URL says so.
func (d *Dialer) connect(ctx context.Context, server *url.URL) (net.Conn, error) {
	via, err := d.proxyFor(server)
	if err != nil {
		return nil, err
	}
	nc, err := d.dialVia(ctx, via, hostPort(server))
	if err != nil {
		return nil, err
	}
	if server.Scheme != "https" {
		return nc, nil
	}
	return startTLS(ctx, nc, d.tls(), server.Hostname())
}

// proxyFor is the proxy to use, nil for none.
func (d *Dialer) proxyFor(server *url.URL) (*url.URL, error) {
	if d.ProxyURL == "" {
		via, err := httpproxy.FromEnvironment().ProxyFunc()(server)
		if err != nil {
			return nil, fmt.Errorf("parse proxy url of the environment: %w", withoutURL(err))
		}
		return via, nil
	}
	via, err := url.Parse(d.ProxyURL)
	if err != nil {
		return nil, fmt.Errorf("parse proxy url: %w", withoutURL(err))
	}
	if via.Hostname() == "" {
		return nil, errors.New("proxy url has no host: want such as http://proxy.example.com:3128")
	}
	return via, nil
}

// dialVia connects to target through the proxy, if there is one.
func (d *Dialer) dialVia(ctx context.Context, via *url.URL, target string) (net.Conn, error) {
	direct := net.Dialer{KeepAlive: -1} // tuneSocket sets it
	if via == nil {
		nc, err := direct.DialContext(ctx, "tcp", target)
		if err != nil {
			return nil, fmt.Errorf("connect to server: %w", err)
		}
		return nc, nil
	}
	var nc net.Conn
	var err error
	switch via.Scheme {
	case "http", "https":
		nc, err = d.dialConnect(ctx, via, target)
	case "socks5", "socks5h":
		nc, err = dialSOCKS(ctx, via, target)
	default:
		err = fmt.Errorf("scheme %s: want http, https, socks5 or socks5h", quoteShort(via.Scheme))
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s through proxy %s: %w", target, via.Host, err)
	}
	return nc, nil
}

// dialSOCKS lets a SOCKS5 proxy connect; names are resolved by the proxy.
func dialSOCKS(ctx context.Context, via *url.URL, target string) (net.Conn, error) {
	var auth *proxy.Auth
	if via.User != nil {
		password, _ := via.User.Password()
		auth = &proxy.Auth{User: via.User.Username(), Password: password}
	}
	dialer, err := proxy.SOCKS5("tcp", hostPort(via), auth, &net.Dialer{})
	if err != nil {
		return nil, err
	}
	nc, err := dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", target)
	// Its own errors only say that a read timed out; it has ctx's deadline on
	// the connection, which may be noticed before ctx itself.
	switch {
	case err == nil:
		return nc, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, context.DeadlineExceeded
	}
	return nil, err
}

// dialConnect lets an HTTP proxy connect: RFC 9110, section 9.3.6.
func (d *Dialer) dialConnect(ctx context.Context, via *url.URL, target string) (net.Conn, error) {
	var direct net.Dialer
	nc, err := direct.DialContext(ctx, "tcp", hostPort(via))
	if err != nil {
		return nil, err
	}
	if via.Scheme == "https" {
		var config tls.Config
		if own := d.tls(); own != nil {
			config.RootCAs = own.RootCAs // but not the certificate that is for the server
		}
		if nc, err = startTLS(ctx, nc, &config, via.Hostname()); err != nil {
			return nil, err
		}
	}
	if err := underContext(ctx, nc, func() error { return askConnect(nc, via, target) }); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// askConnect asks the proxy at the other end of nc for a way to target.
func askConnect(nc net.Conn, via *url.URL, target string) error {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	req.Header.Set("User-Agent", "piko")
	if via.User != nil {
		password, _ := via.User.Password()
		basic := base64.StdEncoding.EncodeToString([]byte(via.User.Username() + ":" + password))
		req.Header.Set("Proxy-Authorization", "Basic "+basic)
	}
	if err := req.Write(nc); err != nil {
		return err
	}
	res, br, err := readAnswer(nc, req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		refused := fault.ReadRefused(res)
		refused.Code = "" // whatever it says, no node of ours said it
		return refused
	}
	if br.Buffered() > 0 {
		return errors.New("the server spoke before it was spoken to")
	}
	return nil
}

// tls is what the next connection is made with, nil for the defaults.
func (d *Dialer) tls() *tls.Config {
	if d.GetTLS != nil {
		return d.GetTLS()
	}
	return d.TLS
}

// startTLS is the client's side of a TLS handshake on nc, which is closed if it
// fails. WebSockets are spoken over HTTP/1.1 alone: offered HTTP/2 as well, a
// load balancer would choose that.
func startTLS(ctx context.Context, nc net.Conn, config *tls.Config, host string) (net.Conn, error) {
	if config == nil {
		config = &tls.Config{}
	}
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	if config.ServerName == "" {
		config.ServerName = host
	}
	conn := tls.Client(nc, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("tls handshake with %s: %w", host, err)
	}
	return conn, nil
}

// hostPort is the address to dial for a URL.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// userAgent is who checks, for the service's log.
const userAgent = "piko-health-check"

const (
	maxProbeHeader = 64 << 10
	maxProbeBody   = 4 << 10 // that is looked at
)

// newProbe is one check of the service, over a connection of its own: that new
// ones are taken is a part of what is to be known.
func newProbe(c HealthCheck, s *service) func(context.Context) error {
	switch c.Type {
	case CheckHTTP:
		return s.probeHTTP(c)
	case CheckGRPC:
		return s.probeGRPC(c)
	}
	return s.probeTCP
}

// probeTCP connects, and says good-bye, with TLS if the service has it.
func (s *service) probeTCP(ctx context.Context) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// probeTransport sends requests to the service as the listener does: by TLS if
// it has it, by HTTP/1.1 or HTTP/2 as it is known to speak, each over a new
// connection.
func (s *service) probeTransport(only2 bool) *http.Transport {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.probeDial(ctx, false) },
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return s.probeDial(ctx, !only2 && s.speaks == UpstreamHTTP1)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxProbeHeader,
		Protocols:              new(http.Protocols),
	}
	only2 = only2 || s.speaks == UpstreamHTTP2
	t.Protocols.SetHTTP1(!only2)
	t.Protocols.SetHTTP2(s.tls != nil && s.speaks != UpstreamHTTP1 || only2)
	t.Protocols.SetUnencryptedHTTP2(s.tls == nil && only2)
	return t
}

func (s *service) probeDial(ctx context.Context, only1 bool) (net.Conn, error) {
	config := s.tls2
	if only1 {
		config = s.tls
	}
	conn, _, err := s.open(ctx, config)
	return conn, err
}

// probeURL is that of a path of the service, behind the prefix that it has.
func (s *service) probeURL(path string) string {
	scheme := "http"
	if s.tls != nil {
		scheme = "https"
	}
	path, query, _ := strings.Cut(s.prefix+path, "?")
	if all := strings.Trim(s.query+"&"+query, "&"); all != "" {
		path += "?" + all
	}
	return scheme + "://" + s.dialTo + path
}

// send sends a request and hands the answer to judge.
func (s *service) send(t *http.Transport, req *http.Request, host string, judge func(*http.Response) error) error {
	defer t.CloseIdleConnections() // also those of HTTP/2
	req.Host = s.host
	if host != "" {
		req.Host = host
	}
	req.Header.Set("User-Agent", userAgent)
	res, err := t.RoundTrip(req) // follows no redirect: that is an answer
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return judge(res)
}

// probeHTTP gets the path and looks at the status.
func (s *service) probeHTTP(c HealthCheck) func(context.Context) error {
	t, target := s.probeTransport(false), s.probeURL(c.Path)
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return err
		}
		return s.send(t, req, c.Host, func(res *http.Response) error {
			// A short body is read, so that the service does not see a reset.
			_, _ = io.CopyN(io.Discard, res.Body, maxProbeBody)
			if res.StatusCode < c.MinStatus || res.StatusCode > c.MaxStatus {
				return fmt.Errorf("status %d, want %d to %d", res.StatusCode, c.MinStatus, c.MaxStatus)
			}
			return nil
		})
	}
}

// healthMethod is what servers of gRPC answer that have a health service, see
// https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
const healthMethod = "/grpc.health.v1.Health/Check"

// probeGRPC asks the health service. It is one unary call: a message each way
// with five bytes in front, and the status in trailers.
func (s *service) probeGRPC(c HealthCheck) func(context.Context) error {
	t, message := s.probeTransport(true), string(grpcHealthRequest(c.Service))
	target := s.probeURL(healthMethod)
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(message))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		return s.send(t, req, c.Host, judgeGRPC)
	}
}

func judgeGRPC(res *http.Response) error {
	switch contentType := res.Header.Get("Content-Type"); {
	case res.ProtoMajor != 2:
		return errors.New("service does not speak HTTP/2")
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("status %d, want 200", res.StatusCode)
	case !strings.HasPrefix(contentType, "application/grpc"):
		return fmt.Errorf("content type %.80q, want application/grpc", contentType)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxProbeBody))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	status, text := res.Trailer.Get("Grpc-Status"), res.Trailer.Get("Grpc-Message")
	if status == "" { // an answer without a message has it in front
		status, text = res.Header.Get("Grpc-Status"), res.Header.Get("Grpc-Message")
	}
	if status != "0" {
		return fmt.Errorf("grpc-status %.20q %.200q", status, text)
	}
	return grpcHealthAnswer(body)
}

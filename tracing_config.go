package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"piko/certs"
	"piko/tracing"
)

// tracingConfig is the tracing.* section, of a server and of an agent.
type tracingConfig struct {
	Endpoint    collectorURL  `placeholder:"URL" help:"Where to send spans of requests: a collector of OpenTelemetry that takes OTLP over HTTP, such as http://collector:4318. A URL without a path gets /v1/traces. When not given, no spans are made, and traceparent passes as it came."`
	SampleRatio float64       `default:"1" placeholder:"N" help:"How much of the requests is traced that come without a traceparent, 0 to 1. One that comes with it is traced if that says so."`
	MaxRate     int           `default:"100" placeholder:"N" help:"Requests that are traced, each second, at most, whatever the ratio and traceparent say. 0 is no limit."`
	ServiceName string        `placeholder:"NAME" help:"What the spans call this process. When not given, piko-server or piko-agent."`
	Headers     []traceHeader `list:"" sep:"none" placeholder:"NAME: VALUE" help:"Header to send with the spans, such as \"Authorization: Bearer ...\". May be repeated. Prefer the file: other users of the machine see command lines."`
	HeadersFile string        `placeholder:"PATH" help:"File with such headers, one a line."`

	TLS clientTLSConfig `embed:"" prefix:"tls."`
}

// collectorURL is where spans are sent: http or https, or nowhere.
type collectorURL string

// UnmarshalText accepts a URL with a host, and the empty string.
func (u *collectorURL) UnmarshalText(text []byte) error {
	if len(text) != 0 {
		if err := checkURL(string(text), "http", "https"); err != nil {
			return err
		}
		if parsed, err := url.Parse(string(text)); err != nil || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" {
			return errors.New("a URL with a user, a query or a fragment; take that away, and give credentials by --tracing.headers-file")
		}
	}
	*u = collectorURL(text)
	return nil
}

// traceHeader is a line of a header, which no output shows.
type traceHeader string

// UnmarshalText accepts "Name: value".
func (h *traceHeader) UnmarshalText(text []byte) error {
	name, value, ok := strings.Cut(string(text), ":")
	ok = ok && name != ""
	for _, c := range []byte(name) {
		ok = ok && ('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_')
	}
	for _, c := range []byte(value) {
		ok = ok && (c >= ' ' && c != 0x7f || c == '\t')
	}
	if !ok {
		return errors.New("not a header; write it like Authorization: Bearer TOKEN")
	}
	*h = traceHeader(text)
	return nil
}

// String hides the header.
func (traceHeader) String() string { return hidden }

// GoString hides the header.
func (traceHeader) GoString() string { return hidden }

// MarshalText hides the header from JSON, too.
func (traceHeader) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// headers are those of the flags, or those of the file.
func (c *tracingConfig) headers() (http.Header, error) {
	list := c.Headers
	if c.HeadersFile != "" {
		f, err := os.Open(c.HeadersFile)
		if err != nil {
			return nil, fmt.Errorf("--tracing.headers-file: %w", err)
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
		if err != nil {
			return nil, fmt.Errorf("--tracing.headers-file: %w", err)
		}
		for i, line := range bytes.Split(text, []byte("\n")) {
			if line = bytes.TrimSpace(line); len(line) == 0 {
				continue
			}
			var h traceHeader
			if err := h.UnmarshalText(line); err != nil {
				return nil, fmt.Errorf("--tracing.headers-file: %s:%d: %w", c.HeadersFile, i+1, err)
			}
			list = append(list, h)
		}
	}
	header := http.Header{}
	for _, h := range list {
		name, value, _ := strings.Cut(string(h), ":")
		header.Add(name, strings.TrimSpace(value))
	}
	return header, nil
}

// check finds what no single value shows.
func (c *tracingConfig) check() error {
	var errs []error
	if !(c.SampleRatio >= 0 && c.SampleRatio <= 1) {
		errs = append(errs, fmt.Errorf("--tracing.sample-ratio: %v is no part of the requests; use 0 to 1, such as 0.1", c.SampleRatio))
	}
	if c.MaxRate < 0 {
		errs = append(errs, fmt.Errorf("--tracing.max-rate: %d requests a second; use 1 or more, or 0 for no limit", c.MaxRate))
	}
	if len(c.Headers) > 0 && c.HeadersFile != "" {
		errs = append(errs, errors.New("--tracing.headers-file: give it or --tracing.headers, not both"))
	}
	if c.Endpoint == "" && (len(c.Headers) > 0 || c.HeadersFile != "" || c.TLS != (clientTLSConfig{})) {
		errs = append(errs, errors.New("--tracing.endpoint: missing; headers and TLS of tracing are for nothing else"))
	}
	_, err := c.headers()
	return errors.Join(append(errs, c.TLS.check("--tracing.tls."), err)...)
}

// tracer makes what makes spans, and the TLS that it sends them with; nil if nothing is traced. service and instance are
// how the spans call the process, unless the configuration says otherwise.
func (c *tracingConfig) tracer(service, instance string, log *slog.Logger, reg prometheus.Registerer) (*tracing.Tracer, *certs.Client, error) {
	if c.Endpoint == "" {
		return nil, nil, nil
	}
	header, err := c.headers()
	if err != nil {
		return nil, nil, &usageError{err: err}
	}
	tls, err := c.TLS.load("--tracing.tls.")
	if err != nil {
		return nil, nil, err
	}
	if c.ServiceName != "" {
		service = c.ServiceName
	}
	t, err := tracing.New(tracing.Options{
		URL: string(c.Endpoint), Header: header, GetTLS: tlsSource(tls),
		Service: service, Version: version(), Instance: instance,
		Ratio: c.SampleRatio, MaxRate: c.MaxRate,
		Logger: subsystem(log, "tracing"), Registerer: reg,
	})
	return t, tls, err
}

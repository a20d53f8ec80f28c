package tracing

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// tracesPath is where collectors take spans unless the URL says otherwise.
	tracesPath = "/v1/traces"
	// sendTime bounds one attempt, and attempts how many there are.
	sendTime = 10 * time.Second
	attempts = 4
	// firstPause is between the first two attempts; each further one is twice as long, unless the collector says how long.
	firstPause = time.Second
	maxPause   = 30 * time.Second
	// maxAnswer is how much of an answer is read.
	maxAnswer = 64 << 10
)

// client sends spans: an otlptrace.Client. The SDK's own one for HTTP brings gRPC and its gateway with it, 5.5 MB of
// binary, for the one message that is sent here.
type client struct {
	// Static after construction.
	url     string
	header  http.Header
	http    *http.Client
	metrics *metrics
}

func newClient(opt *Options, m *metrics) (*client, error) {
	u, err := url.Parse(opt.URL)
	if err != nil {
		return nil, fmt.Errorf("URL for spans: %w", withoutURL(err))
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("URL for spans: neither http nor https, or without a host")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = tracesPath
	}
	header := opt.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	header.Set("Content-Type", "application/x-protobuf")
	header.Set("User-Agent", "piko/"+opt.Version)
	dialer := &net.Dialer{Timeout: sendTime}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: sendTime,
		MaxIdleConns:        1,
		IdleConnTimeout:     30 * time.Second,
		ForceAttemptHTTP2:   opt.GetTLS == nil,
	}
	if opt.GetTLS != nil {
		t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialTLS(ctx, dialer, network, addr, opt.GetTLS())
		}
	}
	return &client{url: u.String(), header: header, metrics: m, http: &http.Client{
		Transport: t, Timeout: sendTime,
		// A collector that moves is a mistake to be seen, and the header is for nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func dialTLS(ctx context.Context, d *net.Dialer, network, addr string, cfg *tls.Config) (net.Conn, error) {
	if cfg = cfg.Clone(); cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(addr)
	}
	return (&tls.Dialer{NetDialer: d, Config: cfg}).DialContext(ctx, network, addr)
}

// Start implements otlptrace.Client.
func (c *client) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (c *client) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client: it tries for a while.
func (c *client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// TracesData and ExportTraceServiceRequest are the same bytes; the latter's package has a service of gRPC.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	pause := firstPause
	for n := 1; ; n++ {
		again, wait, err := c.send(ctx, body)
		if err == nil || !again || n == attempts {
			return err
		}
		timer := time.NewTimer(min(max(wait, pause), maxPause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		pause *= 2
	}
}

// send makes one attempt. again says that another makes sense, after a wait.
func (c *client) send(ctx context.Context, body []byte) (again bool, wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return false, 0, withoutURL(err)
	}
	req.Header = c.header.Clone()
	res, err := c.http.Do(req)
	if err != nil {
		return true, 0, withoutURL(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	switch {
	case res.StatusCode/100 == 2:
		c.metrics.rejected.Add(float64(rejected(answer)))
		return false, 0, nil // whatever became of the answer, the spans are there
	case err != nil:
		return true, 0, err
	}
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		again = true
		if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil {
			wait = time.Duration(min(max(s, 0), 3600)) * time.Second
		}
	}
	return again, wait, fmt.Errorf("collector answers %s", res.Status)
}

// withoutURL is the error without the URL, which may hold a key.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// rejected reads how many spans the collector has rejected: ExportTraceServiceResponse.partial_success.rejected_spans, both
// of which are field 1.
func rejected(answer []byte) int64 {
	partial, ok := field1(answer, protowire.BytesType)
	if !ok {
		return 0
	}
	b, n := protowire.ConsumeBytes(partial)
	if n < 0 {
		return 0
	}
	value, ok := field1(b, protowire.VarintType)
	if !ok {
		return 0
	}
	v, n := protowire.ConsumeVarint(value)
	if n < 0 || v > 1<<31 {
		return 0
	}
	return int64(v)
}

// field1 is what follows the tag of field 1, if that has the type.
func field1(b []byte, want protowire.Type) ([]byte, bool) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, false
		}
		b = b[n:]
		if num == 1 && typ == want {
			return b, true
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return nil, false
		}
		b = b[n:]
	}
	return nil, false
}

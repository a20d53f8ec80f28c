package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"time"

	"piko/client"
)

// benchCmd is `piko bench`.
type benchCmd struct {
	HTTP benchHTTPCmd `cmd:"" name:"http" help:"Measure a server: register echo upstreams, send requests through the proxy, compare what comes back."`
}

// benchHTTPCmd is `piko bench http`.
type benchHTTPCmd struct {
	Requests  int           `default:"100000" help:"Requests to send; ignored with --duration."`
	Duration  time.Duration `default:"0s" help:"Send requests for this long instead of counting them."`
	Clients   int           `default:"100" help:"Requests in flight at once, each on a connection of its own."`
	Endpoints int           `default:"100" help:"Endpoints to spread the requests over, by chance."`
	Upstreams int           `default:"100" help:"Echo upstreams to register, in turn on the endpoints."`
	Size      int           `default:"1024" help:"Bytes of random body in each request and its answer."`
	Rate      float64       `default:"0" help:"Requests per second to start (open loop: latency counts from the intended start). 0 starts each when the one before has ended."`
	Timeout   time.Duration `default:"60s" help:"A request that took longer has failed."`
	JSON      bool          `name:"json" flagonly:"" help:"Print the result as JSON."`

	Connect benchConnect `embed:"" prefix:"connect." group:"Server to measure"`
	Log     benchLog     `embed:"" prefix:"log." group:"Log"`
	Config  configFlags  `embed:"" prefix:"config."`
}

// benchConnect is where the server to measure is.
type benchConnect struct {
	ProxyURL    httpURL       `name:"proxy-url" default:"http://localhost:8000" help:"URL of the server's proxy port."`
	UpstreamURL serverURL     `name:"upstream-url" default:"http://localhost:8001" help:"URL of the server's upstream port."`
	Timeout     time.Duration `default:"5s" help:"How long connecting the upstreams, and each connection to the proxy, may take."`
}

// benchLog is logConfig for somebody who watches: a hundred upstreams that
// connect are no news, and a hundred that cannot are one error.
type benchLog struct {
	Level  string `default:"error" enum:"debug,info,warn,error" help:"Lowest level to log: debug, info, warn or error."`
	Format string `default:"text" enum:"json,text" help:"Format of log lines: json for machines, text for people."`
}

// httpURL is where requests go: http or https.
type httpURL string

// UnmarshalText accepts a URL with a host.
func (u *httpURL) UnmarshalText(text []byte) error {
	if err := checkURL(string(text), "http", "https"); err != nil {
		return err
	}
	*u = httpURL(text)
	return nil
}

// Help is the long help.
func (*benchHTTPCmd) Help() string {
	return `
Examples:
  piko bench http --requests 20000 --clients 64
  piko bench http --duration 1m --rate 500 --size 65536
  piko bench http --connect.proxy-url http://piko:8000 --connect.upstream-url http://piko:8001 --json

Upstreams and clients run in this process: what it spends is in the latencies.
Exit status: 0 if all requests worked, 1 if one failed or was answered wrongly.`
}

// Validate is called by the command line's parser.
func (c *benchHTTPCmd) Validate() error {
	for _, n := range []struct {
		flag  string
		value int
		least int
	}{
		{"requests", c.Requests, 1}, {"clients", c.Clients, 1}, {"endpoints", c.Endpoints, 1}, {"upstreams", c.Upstreams, 1}, {"size", c.Size, 0},
	} {
		if n.value < n.least {
			return fmt.Errorf("--%s must be at least %d", n.flag, n.least)
		}
	}
	switch {
	case c.Duration < 0:
		return errors.New("--duration must not be negative")
	case c.Rate < 0 || math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0):
		return errors.New("--rate must be a number of requests per second, or 0")
	case c.Timeout <= 0 || c.Connect.Timeout <= 0:
		return errors.New("--timeout and --connect.timeout must be positive")
	case c.Upstreams < c.Endpoints:
		return fmt.Errorf("--upstreams (%d) must be at least --endpoints (%d), or some endpoints have no upstream", c.Upstreams, c.Endpoints)
	}
	return nil
}

// Run measures and prints; it fails if any request failed, or if a signal cut
// the measurement short.
func (c *benchHTTPCmd) Run(p *process) error {
	log := p.logger(logConfig{Level: c.Log.Level, Format: c.Log.Format})
	l := c.load()
	defer l.client.CloseIdleConnections()

	ctx, cancel := context.WithTimeout(p.ctx, c.Connect.Timeout)
	defer cancel()
	sdk := &client.Client{URL: string(c.Connect.UpstreamURL), Logger: log}
	upstreams, err := startUpstreams(ctx, sdk, c.Upstreams, func(i int) string { return l.endpoints[i%len(l.endpoints)] }, log)
	if err != nil {
		return err
	}
	defer upstreams.stop()
	if err := l.awaitEndpoints(ctx); err != nil {
		return err
	}
	took := l.measure(p, c.Clients)
	if err := c.result(l, took).write(p.stdout, c.JSON); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return l.verdict(p.ctx)
}

// load is what the flags ask for.
func (c *benchHTTPCmd) load() *load {
	l := &load{
		client: &http.Client{Transport: loadTransport(c.Clients, c.Connect.Timeout)},
		url:    string(c.Connect.ProxyURL), size: c.Size, rate: c.Rate, timeout: c.Timeout,
	}
	if l.duration = c.Duration; l.duration == 0 {
		l.requests = int64(c.Requests)
	}
	for i := range c.Endpoints {
		l.endpoints = append(l.endpoints, fmt.Sprintf("endpoint-%d", i))
	}
	return l
}

// measure runs the load, with a progress line if somebody is there to read it.
func (l *load) measure(p *process, clients int) time.Duration {
	if !isTerminal(p.stderr) {
		return l.run(p.ctx, clients)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		l.progress(p.stderr, stop)
	}()
	took := l.run(p.ctx, clients)
	close(stop)
	<-stopped
	return took
}

// verdict turns what happened into the exit status.
func (l *load) verdict(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("measurement cut short: %w", context.Cause(ctx))
	case l.failed > 0:
		return fmt.Errorf("%d requests failed", l.failed)
	}
	return nil
}

// isTerminal says whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"piko/bench"
	"piko/client"
)

// benchCmd is `piko bench`.
type benchCmd struct {
	HTTP    benchHTTPCmd    `cmd:"" name:"http" help:"HTTP requests: register echo upstreams, send requests through the proxy, compare what comes back."`
	GRPC    benchGRPCCmd    `cmd:"" name:"grpc" help:"Unary calls of gRPC, in the same way."`
	TCP     benchTCPCmd     `cmd:"" name:"tcp" help:"Bytes there and back over TCP connections, in the same way."`
	Idle    benchIdleCmd    `cmd:"" help:"Tunnels that nobody uses: what they cost the server."`
	Connect benchConnectCmd `cmd:"" help:"A reconnect storm: cut many tunnels at once, see when all are back."`
	Cluster benchClusterCmd `cmd:"" help:"New endpoints: how long it takes until each is reachable through every node."`
}

// benchConnect is where the server to measure is.
type benchConnect struct {
	ProxyURL    httpURL       `name:"proxy-url" default:"http://localhost:8000" help:"URL of the server's proxy port."`
	UpstreamURL serverURL     `name:"upstream-url" default:"http://localhost:8001" help:"URL of the server's upstream port."`
	Timeout     time.Duration `default:"5s" help:"How long connecting the upstreams, and each connection to the proxy, may take."`

	TLS clientTLSConfig `embed:"" prefix:"tls."`
}

// benchTLS is what ports are dialled with; nil is for the defaults.
func benchTLS(c clientTLSConfig) (*tls.Config, error) {
	loaded, err := c.load("--connect.tls.")
	if loaded == nil {
		return nil, err
	}
	return loaded.Config(), nil
}

// benchLog is logConfig for somebody who watches: a hundred upstreams that
// connect are no news, and a hundred that cannot are one error.
type benchLog struct {
	Level  string `default:"error" enum:"debug,info,warn,error" help:"Lowest level to log: debug, info, warn or error."`
	Format string `default:"text" enum:"json,text" help:"Format of log lines: json for machines, text for people."`
}

// config is the logConfig that it stands for.
func (l benchLog) config() logConfig { return logConfig{Level: l.Level, Format: l.Format} }

// benchProcess is a process whose CPU time and memory are reported.
type benchProcess bench.Process

// UnmarshalText accepts NAME=PID or PID.
func (p *benchProcess) UnmarshalText(text []byte) error {
	parsed, err := bench.ParseProcess(string(text))
	*p = benchProcess(parsed)
	return err
}

func processList(list []benchProcess) []bench.Process {
	var out []bench.Process
	for _, p := range list {
		out = append(out, bench.Process(p))
	}
	return out
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

// benchLoad is what benchmarks that send requests have in common.
type benchLoad struct {
	Requests  int            `default:"100000" help:"Requests to send; ignored with --duration."`
	Duration  time.Duration  `default:"0s" help:"Send requests for this long instead of counting them."`
	Warmup    time.Duration  `default:"0s" help:"Send requests for this long before, which count for nothing."`
	Clients   int            `default:"100" help:"Requests in flight at once."`
	Endpoints int            `default:"100" help:"Endpoints to spread the requests over, by chance."`
	Upstreams int            `default:"100" help:"Echo upstreams to register, in turn on the endpoints."`
	Endpoint  []string       `placeholder:"ID" help:"An endpoint that others serve already, with an echo service such as that of --serve; then none is registered. May be repeated."`
	Serve     string         `placeholder:"HOST:PORT" help:"Run the echo service at this address of this machine, for an agent or another tunnel to forward to."`
	Rate      float64        `default:"0" help:"Requests per second to start (open loop: latency counts from the intended start). 0 starts each when the one before has ended."`
	Timeout   time.Duration  `default:"60s" help:"A request that took longer has failed."`
	PID       []benchProcess `name:"pid" sep:"none" placeholder:"NAME=PID" help:"A process of the server's or an agent's, whose CPU time and memory to report. May be repeated. Linux only."`
	JSON      bool           `name:"json" flagonly:"" help:"Print the result as JSON."`

	AgainstPID []benchProcess `name:"against-pid" sep:"none" placeholder:"NAME=PID" help:"The same for what --against measures."`
	Rounds     int            `default:"5" help:"With --against, how often each of both is measured, by turns."`

	Connect benchConnect `embed:"" prefix:"connect." group:"Server to measure"`
	Log     benchLog     `embed:"" prefix:"log." group:"Log"`
	Config  configFlags  `embed:"" prefix:"config."`
}

// check is what all of their Validates do.
func (c *benchLoad) check(size, leastSize int) error {
	for _, n := range []struct {
		flag         string
		value, least int
	}{
		{"requests", c.Requests, 1}, {"clients", c.Clients, 1}, {"endpoints", c.Endpoints, 1}, {"upstreams", c.Upstreams, 1},
		{"size", size, leastSize}, {"rounds", c.Rounds, 1},
	} {
		if n.value < n.least {
			return fmt.Errorf("--%s must be at least %d", n.flag, n.least)
		}
	}
	switch {
	case c.Duration < 0:
		return errors.New("--duration must not be negative")
	case c.Warmup < 0:
		return errors.New("--warmup must not be negative")
	case c.Rate < 0 || math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0):
		return errors.New("--rate must be a number of requests per second, or 0")
	case c.Timeout <= 0 || c.Connect.Timeout <= 0:
		return errors.New("--timeout and --connect.timeout must be positive")
	case len(c.Endpoint) == 0 && c.Upstreams < c.Endpoints:
		return fmt.Errorf("--upstreams (%d) must be at least --endpoints (%d), or some endpoints have no upstream", c.Upstreams, c.Endpoints)
	}
	return nil
}

func (c *benchLoad) load() bench.Load {
	l := bench.Load{Clients: c.Clients, Duration: c.Duration, Warmup: c.Warmup, Rate: c.Rate, Timeout: c.Timeout}
	if c.Duration == 0 {
		l.Requests = int64(c.Requests)
	}
	return l
}

// names are the endpoints.
func (c *benchLoad) names() []string {
	if len(c.Endpoint) > 0 {
		return c.Endpoint
	}
	names := make([]string, c.Endpoints)
	for i := range names {
		names[i] = fmt.Sprintf("endpoint-%d", i)
	}
	return names
}

// measured is a kind of target, as far as benchLoad has to know it.
type measured interface {
	// Await returns when all endpoints answer.
	Await(ctx context.Context) error
	Target(name string, processes ...bench.Process) bench.Target
}

// run sets up services and measures them: through piko, and if against is not nil
// by turns what that is.
func (c *benchLoad) run(p *process, kind bench.Kind, http2 bool, size int, piko, against measured) error {
	log := p.logger(c.Log.config())
	services := bench.NewServices(kind, log)
	defer services.Stop()
	ctx, cancel := context.WithTimeout(p.ctx, c.Connect.Timeout)
	defer cancel()
	if c.Serve != "" {
		addr, err := services.Listen(c.Serve)
		if err != nil {
			return fmt.Errorf("--serve: %w", err)
		}
		fmt.Fprintf(p.stderr, "echo service at %s\n", addr)
	}
	names := c.names()
	if len(c.Endpoint) == 0 {
		config, err := benchTLS(c.Connect.TLS)
		if err != nil {
			return err
		}
		sdk := &client.Client{URL: string(c.Connect.UpstreamURL), Protocol: string(kind), HTTP2: http2, TLS: config, Logger: log}
		if err := services.Upstreams(ctx, sdk, c.Upstreams, func(i int) string { return names[i%len(names)] }); err != nil {
			return err
		}
	}
	if err := piko.Await(ctx); err != nil {
		return err
	}
	progress, done := progressLine(p)
	load, target := c.load(), piko.Target("piko", processList(c.PID)...)
	if against != nil {
		cmp, err := load.Compare(p.ctx, [2]bench.Target{target, against.Target("against", processList(c.AgainstPID)...)}, c.Rounds, progress)
		done()
		if err != nil {
			return err
		}
		return c.verdict(p, cmp.Failed(), cmp, func(w io.Writer) error { return cmp.Write(w) })
	}
	target.Name = ""
	res, err := load.Run(p.ctx, target, progress)
	done()
	if err != nil {
		return err
	}
	about := fmt.Sprintf("%d endpoints, %d upstreams, ", len(names), c.Upstreams)
	if len(c.Endpoint) > 0 {
		about = fmt.Sprintf("%d endpoints, ", len(names))
	}
	return c.verdict(p, res.Failed, res, func(w io.Writer) error { return res.Write(w, size, about) })
}

// verdict prints, and turns what happened into the exit status.
func (c *benchLoad) verdict(p *process, failed int64, result any, text func(io.Writer) error) error {
	if err := printResult(p, c.JSON, result, text); err != nil {
		return err
	}
	switch {
	case p.ctx.Err() != nil:
		return fmt.Errorf("measurement cut short: %w", context.Cause(p.ctx))
	case failed > 0:
		return fmt.Errorf("%d requests failed", failed)
	}
	return nil
}

// printResult prints for a program or a person.
func printResult(p *process, asJSON bool, result any, text func(io.Writer) error) error {
	var err error
	if asJSON {
		e := json.NewEncoder(p.stdout)
		e.SetIndent("", "  ")
		err = e.Encode(result)
	} else {
		err = text(p.stdout)
	}
	if err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return nil
}

// progressLine keeps a line on a terminal up to date, if somebody is there to
// read it, until done is called.
func progressLine(p *process) (progress func(bench.Progress), done func()) {
	if !isTerminal(p.stderr) {
		return nil, func() {}
	}
	return func(now bench.Progress) { fmt.Fprintf(p.stderr, "\r\x1b[K%v", now) },
		func() { fmt.Fprint(p.stderr, "\r\x1b[K") }
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

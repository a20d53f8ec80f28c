package main

import (
	"errors"
	"time"
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
	JSON      bool          `name:"json" help:"Print the result as JSON."`

	Connect benchConnect `embed:"" prefix:"connect."`
	Log     logConfig    `embed:"" prefix:"log."`
}

// benchConnect is where the server to measure is.
type benchConnect struct {
	ProxyURL    string        `name:"proxy-url" default:"http://localhost:8000" help:"URL of the server's proxy port."`
	UpstreamURL string        `name:"upstream-url" default:"http://localhost:8001" help:"URL of the server's upstream port."`
	Timeout     time.Duration `default:"5s" help:"How long connecting the upstreams, and each connection to the proxy, may take."`
}

// Run measures and prints; it fails if any request failed.
func (c *benchHTTPCmd) Run(p *process) error {
	return errors.ErrUnsupported
}

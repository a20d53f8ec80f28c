package main

import (
	"io"
	"time"

	"github.com/alecthomas/kong"
)

// serverConfig is everything that one node can be told; defaultServerConfig
// gives the defaults.
type serverConfig struct {
	Proxy    proxyConfig    `embed:"" prefix:"proxy."`
	Upstream upstreamConfig `embed:"" prefix:"upstream."`
	Admin    adminConfig    `embed:"" prefix:"admin."`
	Log      logConfig      `embed:"" prefix:"log."`

	GracePeriod   time.Duration `default:"1m" help:"..."`
	ShutdownDelay time.Duration `default:"0s" help:"..."`

	// AccessOut is where access-log lines go; nil is nowhere.
	AccessOut io.Writer `kong:"-"`
}

type proxyConfig struct {
	BindAddr string        `default:":8000" help:"..."`
	Timeout  time.Duration `default:"30s" help:"..."`
}

type upstreamConfig struct {
	BindAddr string `default:":8001" help:"..."`
}

type adminConfig struct {
	BindAddr string `default:":8002" help:"..."`
}

// defaultServerConfig is the configuration of `piko server` without flags,
// environment and file. Tests and the demo start from it and bind to port 0.
func defaultServerConfig() serverConfig {
	var cfg serverConfig
	if _, err := kong.Must(&cfg).Parse(nil); err != nil {
		panic(err) // the defaults are constants of this package
	}
	return cfg
}

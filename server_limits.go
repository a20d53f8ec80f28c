package main

import (
	"errors"
	"fmt"
	"math"

	"piko/limit"
)

// limitsConfig is the proxy.limits.* section.
type limitsConfig struct {
	Requests            int     `placeholder:"N" help:"Requests of clients that this node takes at once; beyond it they get 503 overloaded. Here and below, WebSockets and TCP connections count until they end. 0 is no limit."`
	RequestsPerTunnel   int     `placeholder:"N" help:"Requests that one tunnel is given at once; beyond it other tunnels of the endpoint are tried, then the client gets 503. 0 is no limit but the 4,096 streams that a tunnel may have."`
	RequestsPerEndpoint int     `placeholder:"N" help:"Requests for one endpoint that this node takes at once; beyond it they get 503. 0 is no limit."`
	RequestsPerTenant   int     `placeholder:"N" help:"Requests for the endpoints of one tenant that this node takes at once; beyond it they get 503. 0 is no limit."`
	RatePerEndpoint     float64 `placeholder:"N" help:"Requests a second for one endpoint that this node takes; beyond it they get 429 rate-limited, and Retry-After. 0 is no limit."`
	BurstPerEndpoint    int     `placeholder:"N" help:"Requests for one endpoint that may come at once after a rest. 0 is those of a second."`
	RatePerTenant       float64 `placeholder:"N" help:"Requests a second for the endpoints of one tenant that this node takes; beyond it they get 429. 0 is no limit."`
	BurstPerTenant      int     `placeholder:"N" help:"Requests for one tenant that may come at once after a rest. 0 is those of a second."`
}

// limits is what package limit calls them.
func (c *limitsConfig) limits() limit.Limits {
	return limit.Limits{
		Requests: c.Requests, PerEndpoint: c.RequestsPerEndpoint, PerTenant: c.RequestsPerTenant,
		EndpointRate: limit.Rate{PerSecond: c.RatePerEndpoint, Burst: c.BurstPerEndpoint},
		TenantRate:   limit.Rate{PerSecond: c.RatePerTenant, Burst: c.BurstPerTenant},
	}
}

// check finds what cannot be meant.
func (c *limitsConfig) check() error {
	const prefix = "--proxy.limits."
	var errs []error
	for _, f := range []struct {
		name  string
		value float64
	}{
		{"requests", float64(c.Requests)}, {"requests-per-tunnel", float64(c.RequestsPerTunnel)},
		{"requests-per-endpoint", float64(c.RequestsPerEndpoint)}, {"requests-per-tenant", float64(c.RequestsPerTenant)},
		{"rate-per-endpoint", c.RatePerEndpoint}, {"burst-per-endpoint", float64(c.BurstPerEndpoint)},
		{"rate-per-tenant", c.RatePerTenant}, {"burst-per-tenant", float64(c.BurstPerTenant)},
	} {
		if !(f.value >= 0) || math.IsInf(f.value, 0) {
			errs = append(errs, fmt.Errorf("%s%s: %v is no number of requests; use 0 for no limit, or more", prefix, f.name, f.value))
		}
	}
	if c.BurstPerEndpoint > 0 && c.RatePerEndpoint == 0 {
		errs = append(errs, fmt.Errorf("%sburst-per-endpoint: %d means nothing without a rate; set %srate-per-endpoint", prefix, c.BurstPerEndpoint, prefix))
	}
	if c.BurstPerTenant > 0 && c.RatePerTenant == 0 {
		errs = append(errs, fmt.Errorf("%sburst-per-tenant: %d means nothing without a rate; set %srate-per-tenant", prefix, c.BurstPerTenant, prefix))
	}
	return errors.Join(errs...)
}

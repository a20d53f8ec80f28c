package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"piko/agent"
)

// healthCheckConfig is the health_check section of a listener.
type healthCheckConfig struct {
	Type      string        `default:"none" enum:"none,http,tcp,grpc" help:"How to find out whether the service works: http asks for a path, tcp connects, grpc asks grpc.health.v1. As long as it does not, servers send requests to other agents of the endpoint, if there are any."`
	Path      string        `default:"/" placeholder:"PATH" help:"Path of an http check, as a client would ask for it."`
	Status    statusRange   `default:"200-399" placeholder:"RANGE" help:"Statuses that pass an http check, such as 200 or 200-299."`
	Host      string        `placeholder:"HOST" help:"Host header of an http or grpc check, in place of the service's address."`
	Service   string        `placeholder:"NAME" help:"Service that a grpc check asks about. When not given, the whole server."`
	Interval  time.Duration `default:"5s" help:"Time from one check to the next, 100ms or more. A result that may be the beginning of a change is followed by quicker ones, all that are needed within an interval."`
	Timeout   time.Duration `default:"2s" help:"How long a check may take. More than an interval is an interval."`
	Rise      int           `default:"2" help:"Checks in a row that have to pass for a service that did not work."`
	Fall      int           `default:"3" help:"Checks in a row that have to fail for a service that did work."`
	Jitter    float64       `default:"0.1" help:"Part of the interval, 0 to 1, that it may be shorter, at random, so that many agents do not check at once."`
	StartGate bool          `help:"Do not listen on the endpoint before the first check has passed. Otherwise the service is taken to work at first."`
}

// statusRange is a status of HTTP or two with a dash between.
type statusRange struct{ min, max int }

// UnmarshalText parses 200 or 200-399.
func (r *statusRange) UnmarshalText(text []byte) error {
	from, to, both := strings.Cut(string(text), "-")
	if !both {
		to = from
	}
	low, err1 := strconv.ParseUint(from, 10, 16)
	high, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || low < 100 || high > 599 || low > high {
		return fmt.Errorf("%q is no range of statuses; write it like 200-399", text)
	}
	r.min, r.max = int(low), int(high)
	return nil
}

// String is the range as it is written.
func (r statusRange) String() string { return fmt.Sprintf("%d-%d", r.min, r.max) }

// check finds what no single value shows. Errors begin with the option below
// prefix.
func (c *healthCheckConfig) check(prefix string) error {
	if c.off() {
		return nil
	}
	switch {
	case !strings.HasPrefix(c.Path, "/"):
		return fmt.Errorf("%spath: %q does not begin with a slash; give one such as /healthz", prefix, c.Path)
	case c.Interval < 100*time.Millisecond:
		return fmt.Errorf("%sinterval: %v is too often; use 100ms or more", prefix, c.Interval)
	case c.Timeout <= 0:
		return fmt.Errorf("%stimeout: %v leaves no time to answer; use a second or more", prefix, c.Timeout)
	case c.Rise < 1:
		return fmt.Errorf("%srise: %d is no number of checks; use 1 or more", prefix, c.Rise)
	case c.Fall < 1:
		return fmt.Errorf("%sfall: %d is no number of checks; use 1 or more", prefix, c.Fall)
	case !(c.Jitter >= 0 && c.Jitter <= 1):
		return fmt.Errorf("%sjitter: %v is no part of an interval; use 0 to 1", prefix, c.Jitter)
	}
	return nil
}

func (c *healthCheckConfig) off() bool { return c.Type == "" || c.Type == "none" }

// healthCheck is what the agent calls it.
func (c *healthCheckConfig) healthCheck() agent.HealthCheck {
	if c.off() {
		return agent.HealthCheck{}
	}
	return agent.HealthCheck{
		Type: c.Type, Path: c.Path, Host: c.Host, Service: c.Service,
		MinStatus: c.Status.min, MaxStatus: c.Status.max,
		Interval: c.Interval, Timeout: min(c.Timeout, c.Interval), Rise: c.Rise, Fall: c.Fall, Jitter: c.Jitter, StartGate: c.StartGate,
	}
}

package main

import (
	"context"
	"errors"
	"time"

	"piko/admin"
	"piko/fault"
)

// askTime bounds a reload that somebody waits for: the file may be one that
// takes for ever to read.
const askTime = 30 * time.Second

var errNotStarted = errors.New("the command has not started yet")

// reloadAnswer is how a reload went.
type reloadAnswer struct {
	result *admin.Reloaded
	err    error
}

// ask has everything read again, as SIGHUP does, and says what came of it. Any
// goroutine may call it.
func (r *reloader) ask(ctx context.Context) (*admin.Reloaded, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answer := make(chan reloadAnswer, 1)
	select {
	case r.asks <- answer:
	case <-ctx.Done():
		return nil, fault.Overloaded
	}
	select {
	case a := <-answer:
		if a.err != nil {
			return nil, &fault.Error{Code: fault.InvalidConfig, Detail: "configuration not reloaded, the old one stays: " + logText(a.err.Error()), Err: a.err}
		}
		return a.result, nil
	case <-ctx.Done():
		return nil, fault.New(fault.UpstreamTimeout, context.Cause(ctx))
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// demoPart is something that runs until it is stopped.
type demoPart struct {
	// Static after construction.
	name   string
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended; then err is set
	err    error

	stopping atomic.Bool
}

// startPart runs a part. If it ends by itself, ended, which has room for one
// value, gets one.
func startPart(ctx context.Context, ended chan<- struct{}, name string, run func(context.Context) error) *demoPart {
	ctx, cancel := context.WithCancel(ctx)
	p := &demoPart{name: name, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = run(ctx)
		if p.stopping.Load() {
			return
		}
		select {
		case ended <- struct{}{}:
		default: // another one did
		}
	}()
	return p
}

// begin asks the part to stop.
func (p *demoPart) begin() {
	p.stopping.Store(true)
	p.cancel()
}

// stop stops the part and returns why it had failed, if it had.
func (p *demoPart) stop() error {
	p.begin()
	<-p.done
	if p.err != nil {
		return fmt.Errorf("run %s of the demo: %w", p.name, p.err)
	}
	return nil
}

// stopParts stops all of them at once.
func stopParts(parts []*demoPart) error {
	for _, p := range parts {
		p.begin()
	}
	var errs []error
	for _, p := range parts {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

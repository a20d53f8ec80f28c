package client

import (
	"context"
	"net"
	"sync"
	"time"
)

// How a listener ends.

// unclaimedTime is how long connections that came before a listener was closed
// wait for Accept.
const unclaimedTime = 5 * time.Second

// Close ends the listening at once: it returns when the server has confirmed
// that it opens no connection to this listener any more, which takes a round
// trip, and 2 s at most; those that were on their way by then can still be
// accepted, after which Accept returns net.ErrClosed.
//
// Connections that have been accepted go on, as with any net.Listener: whoever
// accepted them closes them, and the tunnels end when the last one has. So
// http.Server.Shutdown and grpc.Server.GracefulStop, which call Close, let the
// requests under way end, and http.Server.Close and grpc.Server.Stop cut them.
// But an http.Server that shuts down answers none of the requests that come
// meanwhile on connections that it has. Shutdown of the listener, before that
// of the server, loses none of them, and waits until the answers are sent.
func (l *Listener) Close() error {
	l.leaveAll()
	return nil
}

// Shutdown is Close, and waits until all connections have ended, all of what
// was written to them is sent, and nothing of the listener is left. The server
// sends no new requests on connections that it keeps for them, and ends these.
// If ctx ends first, the connections that are left are cut and its error is
// returned: a ctx that has ended already cuts all of them at once. Go on
// calling Accept meanwhile.
func (l *Listener) Shutdown(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.cancel)() // leaveAll does not wait then
	l.leaveAll()
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
	}
	l.kill()
	return context.Cause(ctx)
}

// kill ends everything at once, and waits for it.
func (l *Listener) kill() {
	l.cancel()
	l.leaveAll()
	var wg sync.WaitGroup
	for _, lk := range l.openLinks() {
		wg.Go(func() { _ = lk.sess.Close() })
	}
	wg.Wait()
	<-l.done
}

// leaveAll has all tunnels left, once, and returns when their nodes send
// nothing more. Nobody waits for the tunnels' ends but the goroutine that it
// starts.
func (l *Listener) leaveAll() {
	l.leaveOnce.Do(func() {
		l.stop()
		l.keepers.Wait()
		up := l.begun()
		if up {
			l.log.Info("listener is closing", "tunnels", l.Tunnels())
			l.report("", ErrLeft, 0)
		}
		links := l.openLinks()
		for _, lk := range links {
			l.retire(lk, 0)
		}
		for _, lk := range links {
			select {
			case <-lk.settled:
			case <-lk.gone:
			}
			lk.sess.StopAccepting()
		}
		go l.finish(links, up)
	})
}

// begun makes the listener one that is being left, and says whether it has ever
// been connected.
func (l *Listener) begun() (up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaving = true
	return l.up
}

// finish ends Accept when all that has come was accepted, and the listener when
// all tunnels have ended.
func (l *Listener) finish(links []*link, up bool) {
	unclaimed := time.NewTimer(unclaimedTime)
	defer unclaimed.Stop()
	for waiting := true; waiting && len(links) > 0; links = links[1:] {
		select {
		case <-links[0].delivered:
		case <-unclaimed.C:
			waiting = false
		}
	}
	close(l.closed)
	l.links.Wait()
	l.cancel()
	l.refresher.wait()
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	if up {
		l.report("", net.ErrClosed, 0)
	}
	close(l.done)
}

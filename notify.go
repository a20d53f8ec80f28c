package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// notifier tells systemd how the process is doing: sd_notify(3). Without a
// NOTIFY_SOCKET it does nothing. Static after construction.
type notifier struct {
	socket   string
	watchdog time.Duration // how often systemd wants to hear from us; 0: never
	log      *slog.Logger
}

func newNotifier(getenv func(string) (string, bool), log *slog.Logger) *notifier {
	n := &notifier{log: log}
	n.socket, _ = getenv("NOTIFY_SOCKET")
	if n.socket == "" {
		return n
	}
	pid, _ := getenv("WATCHDOG_PID")
	usec, _ := getenv("WATCHDOG_USEC")
	if us, err := strconv.ParseInt(usec, 10, 64); err == nil && us > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	return n
}

// follow tells systemd that the command is ready once ready is closed (nil:
// at once), that it stops, which may take grace, once ctx ends, and before and
// after that that it lives. The returned func ends that and waits for it.
func (n *notifier) follow(ctx context.Context, ready <-chan struct{}, status string, grace time.Duration) (stop func()) {
	if n.socket == "" {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { n.run(ctx, ready, done, status, grace) })
	return func() {
		close(done)
		wg.Wait()
	}
}

func (n *notifier) run(ctx context.Context, ready, done <-chan struct{}, status string, grace time.Duration) {
	var tick <-chan time.Time // nil without a watchdog
	if n.watchdog > 0 {
		t := time.NewTicker(n.watchdog / 2)
		defer t.Stop()
		tick = t.C
	}
	if ready == nil {
		n.send("READY=1\nSTATUS=" + status)
	}
	stopping := ctx.Done()
	for {
		select {
		case <-ready:
			n.send("READY=1\nSTATUS=" + status)
			ready = nil
		case <-stopping:
			n.send(fmt.Sprintf("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=%d", (grace + stopMargin).Microseconds()))
			ready, stopping = nil, nil
		case <-tick:
			n.send("WATCHDOG=1")
		case <-done:
			return
		}
	}
}

// stopMargin is what ending takes beyond the grace period.
const stopMargin = 5 * time.Second

// send writes one datagram. Failing is worth a line and no more: the service
// works without systemd knowing.
func (n *notifier) send(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		defer conn.Close()
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, err = conn.Write([]byte(state))
	}
	if err != nil {
		n.log.Warn("systemd could not be told", "state", strings.SplitN(state, "\n", 2)[0], "error", err)
	}
}

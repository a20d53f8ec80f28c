package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
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

// ready says that the service works, and how.
func (n *notifier) ready(status string) { n.send("READY=1\nSTATUS=" + status) }

// stopping says that the process is about to end, and asks for the time.
func (n *notifier) stopping(status string, within time.Duration) {
	n.send(fmt.Sprintf("STOPPING=1\nSTATUS=%s\nEXTEND_TIMEOUT_USEC=%d", status, within.Microseconds()))
}

// watch keeps systemd's watchdog from biting until ctx ends. It returns at once
// when there is none.
func (n *notifier) watch(ctx context.Context) {
	if n.watchdog == 0 {
		return
	}
	tick := time.NewTicker(n.watchdog / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.send("WATCHDOG=1")
		}
	}
}

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

package main

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// systemd is a socket as systemd makes one, and what it heard.
func systemd(t *testing.T) (path string, receive func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Skipf("no unix datagram sockets here: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return path, func() string {
		buf := make([]byte, 4096)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("systemd heard nothing: %v", err)
		}
		return string(buf[:n])
	}
}

func TestSystemdIsToldAboutTheLifeOfTheProcess(t *testing.T) {
	path, receive := systemd(t)
	p := newTestProcess(t, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=20000")
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	stop := newNotifier(p.getenv, slog.New(slog.DiscardHandler)).follow(ctx, ready, "serving", time.Minute)
	if got := receive(); got != "WATCHDOG=1" {
		t.Errorf("first came %q, want the watchdog's food while the process starts", got)
	}
	close(ready)
	next := func(want string) {
		t.Helper()
		got := receive()
		for got == "WATCHDOG=1" {
			got = receive()
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	next("READY=1\nSTATUS=serving")
	cancel()
	next("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=65000000")
	if got := receive(); got != "WATCHDOG=1" {
		t.Errorf("then came %q, want the watchdog's food while the process drains", got)
	}
	stop()
}

func TestWatchdogOfAnotherProcessIsNotFed(t *testing.T) {
	p := newTestProcess(t, "NOTIFY_SOCKET=/x", "WATCHDOG_USEC=20000", "WATCHDOG_PID=1")
	if n := newNotifier(p.getenv, nil); n.watchdog != 0 {
		t.Errorf("watchdog every %v, want none", n.watchdog)
	}
}

func TestServerTellsSystemd(t *testing.T) {
	t.Parallel()
	path, receive := systemd(t)
	p := newTestProcess(t, "NOTIFY_SOCKET="+path)
	startRun(t, p, append([]string{"server"}, anyPorts...)...)
	if got := receive(); !strings.HasPrefix(got, "READY=1\nSTATUS=serving clients on 127.0.0.1:") {
		t.Errorf("got %q, want READY", got)
	}
}

func TestSocketThatIsNotThereCostsAWarning(t *testing.T) {
	p := newTestProcess(t, "NOTIFY_SOCKET="+filepath.Join(t.TempDir(), "gone"))
	log := newLogger(p.stderr, logConfig{}, &p.level)
	newNotifier(p.getenv, log).send("READY=1")
	if err := logged(p, "systemd could not be told"); err != nil {
		t.Error(err)
	}
}

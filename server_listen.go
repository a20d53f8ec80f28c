package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Limits of every port, where the configuration has no say.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 5 * time.Minute
	maxHeaderBytes    = 1 << 20

	// resolveTimeout bounds finding the address that a host in a bind address
	// means: a name server that does not answer must not delay the error.
	resolveTimeout = 900 * time.Millisecond
)

// openTCP opens a TCP port. flag is what the error blames.
func openTCP(flag string, addr bindAddr) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3,
	}}
	lc.SetMultipathTCP(false) // costs what nobody here gains, and knows fewer socket options
	ln, err := lc.Listen(ctx, "tcp", string(addr))
	if err != nil {
		return nil, fmt.Errorf("listen on %s (%s): %w%s", addr, flag, shortNetError(err), listenRemedy(err))
	}
	return ln, nil
}

// shortNetError is err without the address, which the caller names already.
func shortNetError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// listenRemedy says what to do about the usual reasons.
func listenRemedy(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "; another process has the port: stop it, or choose another address"
	case errors.Is(err, fs.ErrPermission):
		return "; ports below 1024 need root or CAP_NET_BIND_SERVICE: choose a higher one, or grant it"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "; no network interface of this machine has the address: choose one that it has, or none, as in :8000"
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "; the host is not an address of this machine: use an IP address, or none, as in :8000"
	}
	return ""
}

// newHTTPServer has the settings that every port shares. What goes wrong on a
// connection is the client's doing, and worth a debug line.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

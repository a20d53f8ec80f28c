package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// demoStopTimeout is how long `piko demo service` waits for requests in flight.
const demoStopTimeout = 5 * time.Second

// demoServiceCmd is `piko demo service`: the demo's service alone, for whoever
// has nothing else to put behind an agent.
type demoServiceCmd struct {
	BindAddr bindAddr `flagonly:"" default:":3000" help:"Address to listen on; :3000 if not given."`
}

// Help is the long help.
func (demoServiceCmd) Help() string {
	return `
It answers with the request that it got, header and all, and logs each one. POST
/echo sends the body back, GET /events sends events, GET /websocket is an echo.

Examples:
  piko demo service
  piko agent http my-endpoint 3000
  curl -H 'x-piko-endpoint: my-endpoint' http://localhost:8000/hello`
}

// Run serves until a signal.
func (c *demoServiceCmd) Run(p *process) error {
	log := subsystem(p.logger(logConfig{Level: "info", Format: "text"}), "demo")
	listener, err := openTCP("--bind-addr", c.BindAddr)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: demoMirror(log), ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	stopped := make(chan struct{})
	unhook := context.AfterFunc(p.ctx, func() {
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), demoStopTimeout)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close() // whoever still asks has had his time
		}
	})
	log.Info("serving", "addr", listener.Addr().String())
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		unhook()
		return fmt.Errorf("serve the demo's service: %w", err)
	}
	<-stopped
	return nil
}

// demoMirror is the demo's service, but any other path is answered with the
// request itself.
func demoMirror(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	origin := demoOrigin()
	for _, pattern := range []string{"POST /echo", "GET /events", "GET /websocket"} {
		mux.Handle(pattern, origin)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff") // it is the caller's text
		io.WriteString(w, demoGreeting+"\nIt got this request:\n\n"+requestText(r))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Info("request", "method", r.Method, "path", r.URL.EscapedPath(), "host", r.Host, "client", r.Header.Get("X-Forwarded-For"))
		mux.ServeHTTP(w, r)
	})
}

// requestText is the request without its body, as it would be in HTTP/1.1.
func requestText(r *http.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\nHost: %s\n", r.Method, r.RequestURI, r.Proto, r.Host)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		for _, value := range r.Header[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	return b.String()
}

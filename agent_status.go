package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/admin"
	"piko/agent"
	"piko/fault"
	"piko/listen"
)

// listenerStatus is a listener in the answer of an agent's /status.
type listenerStatus struct {
	Endpoint  string        `json:"endpoint"`
	Protocol  string        `json:"protocol"`
	Service   string        `json:"service"`
	Connected bool          `json:"connected"`
	Tunnels   int           `json:"tunnels"`
	InFlight  int           `json:"in_flight"`
	Draining  bool          `json:"draining"`
	Failed    bool          `json:"failed"` // for good: it was refused
	Health    *healthStatus `json:"health"` // null without a health check
}

type healthStatus struct {
	Healthy bool      `json:"healthy"`
	Since   time.Time `json:"since"`
	Checked time.Time `json:"checked"` // when the last check ended
	Error   string    `json:"error"`   // why it failed; "" if it passed
}

// agentHandler is the agent's own port: metrics, and the state of its listeners
// for whoever asks, and reloads for this machine.
func agentHandler(g prometheus.Gatherer, ag *agent.Agent, p *process) http.Handler {
	status := http.NewServeMux()
	status.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(map[string]any{"version": version(), "listeners": listenerStatuses(ag.Status())})
	})
	return ownHandler(g, p, status)
}

// ownHandler is the own port of an agent or a forwarder: metrics, what is in
// status for whoever asks, and reloads for this machine.
func ownHandler(g prometheus.Gatherer, p *process, status *http.ServeMux) http.Handler {
	if p.reload != nil {
		status.Handle("/status/reload", admin.ReloadHandler(p.reload))
	}
	status.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fault.Write(w, r, fault.NotFound) })
	gate := admin.Gate(status)
	mux := http.NewServeMux()
	mux.Handle("/status", gate)
	mux.Handle("/status/", gate)
	mux.Handle("/", agent.MetricsHandler(g))
	return mux
}

func listenerStatuses(list []agent.Status) []listenerStatus {
	out := make([]listenerStatus, len(list))
	for i, s := range list {
		out[i] = listenerStatus{
			Endpoint: s.Endpoint, Protocol: s.Protocol, Service: s.Service, Connected: s.Connected,
			Tunnels: s.Tunnels, InFlight: s.InFlight, Draining: s.Draining, Failed: s.Failed,
		}
		if h := s.Health; h != nil {
			out[i].Health = &healthStatus{Healthy: h.Healthy, Since: h.Since.UTC(), Checked: h.Checked.UTC()}
			if h.Err != nil {
				out[i].Health.Error = logText(h.Err.Error())
			}
		}
	}
	return out
}

// openOwnPort opens the port of --server.bind-addr.
func openOwnPort(addr bindAddr, h http.Handler, reg prometheus.Registerer, log *slog.Logger) (*port, error) {
	own, err := openPort("--server.bind-addr", addr, newHTTPServer(h, log),
		listen.Options{Port: "server", Descriptors: listen.NewDescriptors(), UseReserve: true, Logger: log, Registerer: reg})
	if err == nil {
		log.Info("serving metrics", "addr", own.ln.Addr().String())
	}
	return own, err
}

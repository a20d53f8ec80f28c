package main

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/admin"
	"piko/agent"
	"piko/fault"
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

package admin

import (
	"net/http"

	"piko/fault"
)

// What changes something. The gate lets only those in who have a token or, where
// the port asks for none, programs on this machine.

// serveDrain answers POST /status/drain: the node begins to drain, if it does not
// already, and says how far it is.
func (s *Server) serveDrain(w http.ResponseWriter, r *http.Request) {
	s.log().Info("drain asked for", "client", r.RemoteAddr)
	s.writeJSON(w, s.Drain())
}

// serveDisconnect answers POST /status/upstreams/{id}/disconnect.
func (s *Server) serveDisconnect(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if !s.Disconnect(id) {
		fault.Write(w, r, &fault.Error{Code: fault.NotFound, Detail: "this node has no such tunnel: ask the node that it is connected to"})
		return
	}
	s.log().Info("tunnel disconnected as asked for", "upstream", id, "client", r.RemoteAddr)
	s.writeJSON(w, Disconnected{id})
}

// Disconnected is the answer to POST /status/upstreams/{id}/disconnect: the tunnel
// takes no more requests, and ends when those under way have.
type Disconnected struct {
	ID string `json:"id"`
}

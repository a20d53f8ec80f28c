package admin

import (
	"context"
	"net/http"

	"piko/fault"
)

// Reloaded is what came of reading a configuration again.
type Reloaded struct {
	Applied      []string `json:"applied"`       // settings that differ and are in force now
	NeedsRestart []string `json:"needs_restart"` // settings that differ and are not
	Hash         string   `json:"hash"`          // of the configuration, as in the metrics
}

// reloadPath is POST only, as all that changes something.
const reloadPath = "/status/reload"

// ReloadHandler answers POST with what reload returns, whose errors are for
// fault.Write. It lets anybody ask: see Gate.
func ReloadHandler(reload func(context.Context) (*Reloaded, error)) http.Handler {
	s := &Server{}
	return methods(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		result, err := reload(r.Context())
		if err != nil {
			fault.Write(w, r, err)
			return
		}
		s.writeJSON(w, result)
	}), http.MethodPost)
}

// Gate lets everybody read what next serves, and this machine alone do the rest,
// and keeps out requests that a page in somebody's browser makes: what the admin
// port of a node does that asks for no token.
func Gate(next http.Handler) http.Handler { return newGate(&Server{}, next) }

package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// What the demo's service says, and how fast.
const (
	demoGreeting = "Hello from a service that no port leads to.\n"
	demoEvents   = 3                      // of a stream, and messages of a WebSocket
	maxEvents    = 100                    // that are asked for
	demoInterval = 100 * time.Millisecond // between two events
)

// demoOrigin is the demo's service.
func demoOrigin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, demoGreeting)
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Type", "application/octet-stream")
		io.Copy(w, r.Body)
	})
	mux.HandleFunc("GET /events", sendEvents)
	mux.HandleFunc("GET /websocket", wsEcho)
	return mux
}

// sendEvents sends ?n= server-sent events, or a few, with pauses between them.
func sendEvents(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 1 || n > maxEvents {
		n = demoEvents
	}
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(demoInterval)
	defer tick.Stop()
	for i := range n {
		fmt.Fprintf(w, "data: event %d\n\n", i+1)
		http.NewResponseController(w).Flush()
		if i+1 == n {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

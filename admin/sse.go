package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"piko/events"
	"piko/fault"
)

// Streams of server-sent events (HTML, section 9.2) are for pages and programs
// that watch. Each costs a goroutine, that of its request; what viewers are told
// each second is found out once for all that want the same.

const (
	maxViewers = 64               // of either stream
	livePause  = time.Second      // between two pictures
	keepAlive  = 15 * time.Second // between two signs of life where nothing happens
)

// viewers counts the streams of one kind.
type viewers struct{ n atomic.Int32 }

// begin starts a stream, or answers 503.
func (v *viewers) begin(w http.ResponseWriter, r *http.Request) (s *stream, end func(), ok bool) {
	end = func() { v.n.Add(-1) }
	if v.n.Add(1) > maxViewers {
		end()
		fault.Write(w, r, &fault.Error{Code: fault.Overloaded, Detail: "too many viewers"})
		return nil, nil, false
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // nginx would keep the events back
	return &stream{w: w, flush: http.NewResponseController(w).Flush}, end, true
}

// stream writes events to one viewer.
type stream struct {
	w     http.ResponseWriter
	flush func() error
}

// send writes one event; data has no line breaks. An error says that the viewer
// has gone.
func (s *stream) send(event, id string, data []byte) error {
	var b strings.Builder
	if id != "" {
		b.WriteString("id: " + id + "\n")
	}
	b.WriteString("event: " + event + "\ndata: ")
	b.Write(data)
	b.WriteString("\n\n")
	return s.write(b.String())
}

func (s *stream) write(text string) error {
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.flush()
}

// serveEvents answers /status/events: those that come, and for a viewer who
// comes back with Last-Event-ID those that it has missed.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	reader := s.Events.Follow()
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		reader = s.Events.FollowAfter(id)
	}
	out, end, ok := s.watching.begin(w, r)
	if !ok {
		return
	}
	defer end()
	if out.write(": events of this node\n\n") != nil {
		return
	}
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		e, id, more, ok := reader.Next()
		if ok {
			if data, err := json.Marshal(e); err != nil || out.send(e.Type, id, data) != nil {
				return
			}
			continue
		}
		select {
		case <-more:
		case <-alive.C:
			if out.write(":\n\n") != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// Event is what the data of /status/events is, in JSON.
type Event = events.Event

// live finds out what viewers see, once a second for all.
type live struct {
	viewers viewers

	mu       sync.Mutex
	pictures map[string]*picture // by what is asked for
}

// picture is what was seen within a second.
type picture struct {
	at   time.Time
	done chan struct{} // closed when data is there
	data []byte        // nil: there is nothing to see
}

// see returns what look finds, or what it found for another viewer just now.
func (l *live) see(ctx context.Context, key string, look func() any) []byte {
	l.mu.Lock()
	p := l.pictures[key]
	mine := p == nil || time.Since(p.at) >= livePause*9/10
	if mine {
		for old, p := range l.pictures {
			if time.Since(p.at) > 10*livePause {
				delete(l.pictures, old)
			}
		}
		if l.pictures == nil {
			l.pictures = make(map[string]*picture)
		}
		p = &picture{at: time.Now(), done: make(chan struct{})}
		l.pictures[key] = p
	}
	l.mu.Unlock()
	if mine {
		defer close(p.done)
		if v := look(); v != nil {
			p.data, _ = json.Marshal(v)
		}
		return p.data
	}
	select {
	case <-p.done:
		return p.data
	case <-ctx.Done():
		return nil
	}
}

// serveLive answers /status/live: the overview each second, and one endpoint if
// asked for.
func (s *status) serveLive(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	endpoint, tenant := query.Get("endpoint"), query.Get("tenant")
	if endpoint != "" {
		if _, err := s.source.Name(tenant, endpoint); err != nil {
			fault.Write(w, r, err)
			return
		}
	}
	out, end, ok := s.live.viewers.begin(w, r)
	if !ok {
		return
	}
	defer end()
	// What is found is for other viewers, too, whenever this one goes.
	question := r.WithContext(context.WithoutCancel(r.Context()))
	scope := url.Values{clusterParam: {query.Get(clusterParam)}}.Encode()
	for {
		ctx := r.Context()
		overview := s.live.see(ctx, scope, func() any { return s.overview(question) })
		if overview == nil || out.send("overview", "", overview) != nil {
			return
		}
		if endpoint != "" {
			key := scope + "&" + url.Values{"endpoint": {endpoint}, "tenant": {tenant}}.Encode()
			detail := s.live.see(ctx, key, func() any {
				d, err := s.endpoint(question, endpoint, tenant)
				if err != nil {
					return nil // it may come yet
				}
				return d
			})
			if detail != nil && out.send("endpoint", "", detail) != nil {
				return
			}
		}
		next := time.Now().Truncate(livePause).Add(livePause) // the same moment for all viewers
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

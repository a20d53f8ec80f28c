package inspect

import (
	"cmp"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxViewers bounds the live views.
	maxViewers = 16
	// viewInterval is how often a live view is told what has changed.
	viewInterval = 200 * time.Millisecond
	// viewWrite is how long a viewer may take nothing.
	viewWrite = 10 * time.Second
	// maxEdit bounds an edited request, in bytes of JSON.
	maxEdit = 8 << 20
)

//go:embed page
var pageFiles embed.FS

// Handler serves the page and what it asks for. It is for a port that only this
// machine reaches: who may speak to it sees everything and can send requests to
// the services. Sites that a browser shows cannot: neither by another Host nor by
// requests across origins.
func (i *Inspector) Handler() http.Handler {
	page, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // the name is a constant
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(page))
	mux.HandleFunc("GET /api/exchanges", i.serveList)
	mux.HandleFunc("DELETE /api/exchanges", i.serveClear)
	mux.HandleFunc("GET /api/live", i.serveLive)
	mux.HandleFunc("GET /api/har", i.serveHAR)
	mux.HandleFunc("GET /api/exchanges/{id}", i.one(func(w http.ResponseWriter, _ *http.Request, x *exchange) { reply(w, http.StatusOK, i.detail(x)) }))
	mux.HandleFunc("GET /api/exchanges/{id}/curl", i.one(i.serveCurl))
	mux.HandleFunc("GET /api/exchanges/{id}/har", i.one(func(w http.ResponseWriter, _ *http.Request, x *exchange) {
		i.writeHAR(w, []*exchange{x})
	}))
	mux.HandleFunc("GET /api/exchanges/{id}/{side}/body", i.one(i.serveBody))
	mux.HandleFunc("POST /api/exchanges/{id}/replay", i.one(i.serveReplay))
	return i.guard(http.NewCrossOriginProtection().Handler(mux))
}

// guard refuses what another site has sent, and tells browsers how little the
// page needs.
func (i *Inspector) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !i.allowed(r.Host) {
			fail(w, http.StatusForbidden, fmt.Errorf("the inspector does not answer to the name %.100q: use localhost or 127.0.0.1", r.Host))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// allowed reports whether the page may be asked for by this Host.
func (i *Inspector) allowed(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(i.cfg.Hosts, host) {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && (addr.Unmap().IsLoopback() || i.cfg.AnyAddress)
}

// one serves a route of one exchange.
func (i *Inspector) one(serve func(http.ResponseWriter, *http.Request, *exchange)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
		var x *exchange
		if err == nil {
			x = i.store.find(id)
		}
		if x == nil {
			fail(w, http.StatusNotFound, errors.New("no such request: it may have made room for later ones"))
			return
		}
		serve(w, r, x)
	}
}

// update is what a view is told: the exchanges that have changed, and which are
// left. It may be repeated.
type update struct {
	Version uint64    `json:"version"`
	First   uint64    `json:"first"` // id of the oldest that is left; those before it are gone
	Changed []summary `json:"changed"`
	Secrets bool      `json:"show_secrets"`

	Listeners []listenerView `json:"listeners"`
}

// listenerView is an endpoint and its service.
type listenerView struct {
	Endpoint string `json:"endpoint"`
	Service  string `json:"service"`
}

// listeners are those that were wrapped, by name.
func (i *Inspector) listeners() []listenerView {
	i.mu.Lock()
	defer i.mu.Unlock()
	list := []listenerView{}
	for r := range i.next {
		list = append(list, listenerView{r.endpoint, r.service})
	}
	slices.SortFunc(list, func(a, b listenerView) int {
		return cmp.Or(strings.Compare(a.Endpoint, b.Endpoint), strings.Compare(a.Service, b.Service))
	})
	return list
}

// since is what has changed after a version.
func (i *Inspector) since(version uint64) update {
	listeners := i.listeners()
	s := i.store
	s.mu.Lock()
	defer s.mu.Unlock()
	u := update{Version: s.version, First: s.last + 1, Changed: []summary{}, Secrets: i.cfg.ShowSecrets, Listeners: listeners}
	if len(s.list) > 0 {
		u.First = s.list[0].id
	}
	if s.version == version {
		return u
	}
	for _, x := range s.list {
		if x.version > version {
			u.Changed = append(u.Changed, summarize(x))
		}
	}
	return u
}

func (i *Inspector) serveList(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, i.since(0))
}

func (i *Inspector) serveClear(w http.ResponseWriter, _ *http.Request) {
	i.store.clear()
	w.WriteHeader(http.StatusNoContent)
}

// serveLive tells a view what changes until it leaves (server-sent events).
func (i *Inspector) serveLive(w http.ResponseWriter, r *http.Request) {
	select {
	case i.viewers <- struct{}{}:
		defer func() { <-i.viewers }()
	default:
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("%d live views are open already: close one", maxViewers))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	tick := time.NewTicker(viewInterval)
	defer tick.Stop()
	for version, first := uint64(0), true; ; first = false {
		u := i.since(version)
		if first || u.Version != version {
			version = u.Version
			text, err := json.Marshal(u)
			if err != nil {
				return
			}
			_ = rc.SetWriteDeadline(time.Now().Add(viewWrite))
			if _, err := fmt.Fprintf(w, "data: %s\n\n", text); err != nil || rc.Flush() != nil {
				return
			}
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-i.base.Done():
			return
		}
	}
}

func (i *Inspector) serveCurl(w http.ResponseWriter, _ *http.Request, x *exchange) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, i.curl(x))
}

func (i *Inspector) serveHAR(w http.ResponseWriter, _ *http.Request) { i.writeHAR(w, i.store.all()) }

func (i *Inspector) writeHAR(w http.ResponseWriter, list []*exchange) {
	w.Header().Set("Content-Disposition", `attachment; filename="piko.har"`)
	reply(w, http.StatusOK, i.har(list))
}

// serveBody gives a body as a file: never as something that a browser shows.
func (i *Inspector) serveBody(w http.ResponseWriter, r *http.Request, x *exchange) {
	c, h := &x.request, x.header
	switch r.PathValue("side") {
	case "request":
	case "response":
		c, h = &x.response, x.answer
	default:
		fail(w, http.StatusNotFound, errors.New("the sides are request and response"))
		return
	}
	v := i.body(c, h)
	data := []byte(v.Text)
	if v.Base64 != "" {
		data, _ = base64.StdEncoding.DecodeString(v.Base64)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s-%d"`, r.PathValue("side"), x.id))
	_, _ = w.Write(data)
}

// serveReplay sends a request again; the body of the call, if any, is an edit.
func (i *Inspector) serveReplay(w http.ResponseWriter, r *http.Request, x *exchange) {
	if mediaType(r.Header.Get("Content-Type")) != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, errors.New("send JSON with the Content-Type application/json; {} changes nothing"))
		return
	}
	var e edit
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxEdit))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read the edited request: %w", err))
		return
	}
	id, err := i.replay(x, e)
	switch {
	case err == nil:
		reply(w, http.StatusAccepted, map[string]uint64{"id": id})
	case errors.Is(err, errBusy), errors.Is(err, errClosed):
		fail(w, http.StatusServiceUnavailable, err)
	case errors.Is(err, errNoReplay), errors.Is(err, errBodyTooLong):
		fail(w, http.StatusConflict, err)
	default:
		fail(w, http.StatusBadRequest, err)
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// fail says in JSON what is wrong.
func fail(w http.ResponseWriter, status int, err error) {
	reply(w, status, map[string]string{"error": err.Error()})
}

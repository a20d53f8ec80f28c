package terminal

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// view is what is drawn. Its methods are not safe for concurrent use.
type view struct {
	config    Config
	endpoints map[string]*Connection
	stopping  string
	inspector string // URL; empty if there is none

	requests int // that have ended
	open     int // connections: WebSockets and the like, and TCP
	latest   [maxLatest][]byte
	next     int // in latest

	// The rate of requests over the last rateSeconds.
	second time.Time
	counts [rateSeconds]int // by second, requests as they were
	marks  int
	shown  int64 // second that was drawn last
}

const (
	maxLatest   = 32
	maxLine     = 16 << 10 // of the access log, in bytes; longer ones are not shown
	rateSeconds = 10
)

func (v *view) setConnection(endpoint string, c Connection) {
	if old := v.endpoints[endpoint]; old != nil {
		c.nodes = old.nodes
	}
	if c.Node != "" {
		c.nodes = slices.DeleteFunc(slices.Clone(c.nodes), func(n string) bool { return n == c.Node })
		if c.Up {
			c.nodes = append(c.nodes, c.Node)
		}
	}
	if c.Tunnels == 0 {
		c.nodes = nil
	}
	v.endpoints[endpoint] = &c
}

// count notes a line of the access log.
func (v *view) count(line []byte) {
	switch {
	case bytes.Contains(line, []byte(`"msg":"connection opened"`)):
		v.open++
		return
	case bytes.Contains(line, []byte(`"msg":"connection closed"`)):
		v.open = max(v.open-1, 0)
	}
	v.requests++
	if len(line) <= maxLine {
		v.latest[v.next] = append(v.latest[v.next][:0], line...)
		v.next = (v.next + 1) % maxLatest
	}
}

// tick takes note of the time that passes.
func (v *view) tick(now time.Time) {
	second := now.Truncate(time.Second)
	if v.second.Equal(second) {
		return
	}
	v.second = second
	copy(v.counts[1:], v.counts[:rateSeconds-1])
	v.counts[0] = v.requests
	v.marks = min(v.marks+1, rateSeconds)
}

// rate is requests per second, lately.
func (v *view) rate() float64 {
	if v.marks < 2 {
		return 0
	}
	return float64(v.counts[0]-v.counts[v.marks-1]) / float64(v.marks-1)
}

// moves reports whether something changes by itself as time passes: it is drawn
// once a second.
func (v *view) moves(now time.Time) bool {
	if now.Unix() == v.shown {
		return false
	}
	if v.rate() > 0 {
		return true
	}
	for _, c := range v.endpoints {
		if c.Retry.After(now) {
			return true
		}
	}
	return false
}

// lines is the drawing, at most rows-1 lines of at most columns.
func (v *view) lines(columns, rows int, now time.Time, last bool) []string {
	v.shown = now.Unix()
	if columns <= 0 {
		columns = 80
	}
	if rows <= 0 {
		rows = 24
	}
	hint := "Ctrl+C to stop"
	if last {
		hint = "stopped"
	} else if v.stopping != "" {
		hint = "stopping: " + v.stopping + "; requests under way may end, Ctrl+C cuts them"
	}
	out := [][]cell{{{"piko agent", bold}, {" " + v.config.Version, dim}, {"   " + hint, dim}}, nil}
	out = append(out, v.field("Server", cell{v.config.Server, plain}))
	if v.inspector != "" {
		out = append(out, v.field("Inspector", cell{v.inspector, cyan}))
	}
	traffic := fmt.Sprintf("%d", v.requests)
	if r := v.rate(); r > 0 {
		traffic += fmt.Sprintf(", %.1f a second", r)
	}
	if v.open > 0 {
		traffic += fmt.Sprintf(", %d connections open", v.open)
	}
	out = append(out, v.field("Requests", cell{traffic, plain}), nil)
	room := max(rows-1-len(out), 0)
	out = append(out, v.listeners(min(room, max(room/2, 2)), now, last)...)
	if room = rows - 1 - len(out); room >= 2 && v.requests > 0 {
		out = append(out, nil)
		out = append(out, v.requestLines(min(room-1, maxLatest))...)
	}
	out = out[:min(len(out), rows-1)]
	lines := make([]string, len(out))
	for i, cells := range out {
		lines[i] = v.line(cells, columns)
	}
	return lines
}

func (v *view) field(name string, value cell) []cell {
	return []cell{{fmt.Sprintf("%-12s", name), dim}, value}
}

// listeners are the endpoints, each with how it is connected.
func (v *view) listeners(room int, now time.Time, last bool) [][]cell {
	var out [][]cell
	width := 0
	list := v.known(last)
	for _, l := range list {
		width = min(max(width, len([]rune(l.Endpoint))), 40)
	}
	for i, l := range list {
		if len(out) == room-1 && i < len(list)-1 {
			up := 0
			for e := range maps.Values(v.endpoints) {
				if e.Phase == "connected" {
					up++
				}
			}
			return append(out, []cell{{fmt.Sprintf("and %d more; %d of %d are connected", len(list)-i, up, len(list)), dim}})
		}
		status := v.status(l.Endpoint, now)
		if last {
			status = cell{}
		}
		service := l.Service
		if l.Protocol == "tcp" {
			service += " (tcp)"
		}
		out = append(out, []cell{{fmt.Sprintf("%-*s", width, l.Endpoint), bold}, {arrow(service), dim}, {service + "   ", plain}, status})
	}
	return out
}

// arrow leads to a service that is known.
func arrow(service string) string {
	if service == "" {
		return ""
	}
	return " -> "
}

// known are the listeners of the configuration that are not gone, and those that
// have come since, whose services nobody has told.
func (v *view) known(last bool) []Listener {
	list := slices.DeleteFunc(slices.Clone(v.config.Listeners), func(l Listener) bool {
		c := v.endpoints[l.Endpoint]
		return c != nil && c.Phase == "closed" && !last && v.stopping == ""
	})
	for _, e := range slices.Sorted(maps.Keys(v.endpoints)) {
		if v.endpoints[e].Phase != "closed" && !slices.ContainsFunc(list, func(l Listener) bool { return l.Endpoint == e }) {
			list = append(list, Listener{Endpoint: e})
		}
	}
	return list
}

// status is how an endpoint is connected, in words.
func (v *view) status(endpoint string, now time.Time) cell {
	c := v.endpoints[endpoint]
	if c == nil {
		return cell{"connecting", yellow}
	}
	if c.Phase == "connected" {
		text := "connected"
		if c.Tunnels > 1 {
			text += fmt.Sprintf(", %d tunnels", c.Tunnels)
		}
		if len(c.nodes) > 0 {
			text += " to " + strings.Join(slices.Sorted(slices.Values(c.nodes)), ", ")
		}
		return cell{text, green}
	}
	text, style := c.Phase, yellow
	if wait := c.Retry.Sub(now); wait > 0 {
		text += fmt.Sprintf(", again in %ds", int(wait.Seconds())+1)
	}
	if c.Reason != "" && (c.Phase == "connecting" || c.Phase == "reconnecting") {
		text += ": " + c.Reason
		style = red
	}
	return cell{text, style}
}

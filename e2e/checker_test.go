//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// kind is what sort of request one is.
type kind string

const (
	kindGet       kind = "GET"
	kindPost      kind = "POST" // never executed twice
	kindEvents    kind = "events"
	kindDownload  kind = "download"
	kindWebSocket kind = "WebSocket"
)

// failure is how a request went wrong for its client; "" is a request that went well. A
// status other than 200 is a failure by its number.
type failure string

const (
	failRefused   failure = "refused"   // no connection
	failReset     failure = "reset"     // the connection ended before a response
	failTruncated failure = "truncated" // it ended within the response
	failTimeout   failure = "timeout"
	failWrong     failure = "wrong" // bytes came that nobody asked for; no fault excuses it
	fail502       failure = "502"
	fail503       failure = "503"
	fail504       failure = "504"
)

// record is one request as its client saw it.
type record struct {
	ID       string
	Kind     kind
	Endpoint string
	Entry    string // where it went in
	Start    time.Time
	End      time.Time // zero: it never ended

	Sent     string // checksum of the body that was sent, for POST
	Failure  failure
	Detail   string // of a failure
	Got      string // checksum of what came
	Service  string // who answered, by its own word
	Answered string // the endpoint that this service is on, by its own word
}

// execution is one request as a service saw it.
type execution struct {
	ID       string
	Kind     kind
	Service  string
	Endpoint string
	At       time.Time // of the header
	Received string    // checksum of the body that came; "" if it broke off
	Answer   string    // checksum of the whole answer; "" if it was never complete
}

// window is a time in which a fault is known to break requests, and how. It excuses a
// request only if all of it fits.
type window struct {
	Name     string
	From, To time.Time
	Kinds    []kind
	Failures []failure

	Entries   []string // where the requests went in; empty: anywhere
	Endpoints []string // of the requests; empty: any
}

// excuses tells whether a failed request is one that the fault may have broken: it was under
// way at some time of the window.
func (w window) excuses(r record) bool {
	return slices.Contains(w.Kinds, r.Kind) && slices.Contains(w.Failures, r.Failure) &&
		(len(w.Entries) == 0 || slices.Contains(w.Entries, r.Entry)) &&
		(len(w.Endpoints) == 0 || slices.Contains(w.Endpoints, r.Endpoint)) &&
		!r.Start.After(w.To) && !r.End.Before(w.From)
}

// history is everything that is known of one run.
type history struct {
	Issued     int // how many requests were begun
	Requests   []record
	Executions []execution
	Windows    []window
	Healed     time.Time              // the end of the last fault; zero if there was none
	Want       map[kind]int           // so many requests of a kind must have gone well
	Limit      map[kind]time.Duration // no request of a kind may take longer, however it ends
}

// settled is how long after the end of the last fault a request may still suffer from it.
const settled = 10 * time.Second

// violation is something that must not happen, whatever was broken.
type violation struct {
	ID   string // of the request; "" if it is about the whole run
	What string
}

func (v violation) String() string { return strings.TrimSpace(v.ID + " " + v.What) }

// violations judges a run. It is a pure function of the history.
func (h history) violations() []violation {
	var all []violation
	executions := map[string][]execution{}
	for _, e := range h.Executions {
		executions[e.ID] = append(executions[e.ID], e)
	}
	seen := map[string]bool{}
	for _, r := range h.Requests {
		if seen[r.ID] {
			all = append(all, violation{r.ID, "has two outcomes"})
		}
		seen[r.ID] = true
		for _, what := range h.judge(r, executions[r.ID]) {
			all = append(all, violation{r.ID, what})
		}
	}
	for _, e := range h.Executions {
		if !seen[e.ID] {
			all = append(all, violation{e.ID, "reached service " + e.Service + ", but no client knows it"})
			seen[e.ID] = true
		}
	}
	return append(all, h.judgeRun()...)
}

// judge looks at one request; executed is what services know of it.
func (h history) judge(r record, executed []execution) (wrong []string) {
	report := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if r.End.IsZero() {
		return []string{fmt.Sprintf("%s has no outcome", r.Kind)}
	}
	if took := r.End.Sub(r.Start); h.Limit[r.Kind] > 0 && took > h.Limit[r.Kind] {
		report("%s took %v, at most %v are allowed; %s", r.Kind, took.Round(time.Millisecond), h.Limit[r.Kind], r.outcome())
	}
	if r.Kind == kindPost && len(executed) > 1 {
		report("POST was executed %d times, by %s", len(executed), services(executed))
	}
	for _, e := range executed {
		if e.Endpoint != r.Endpoint {
			report("was for endpoint %s and came to %s at service %s", r.Endpoint, e.Endpoint, e.Service)
		}
		if e.Received != "" && e.Received != r.Sent {
			report("service %s received another body than was sent", e.Service)
		}
	}
	if r.Failure == "" {
		return append(wrong, judgeAnswer(r, executed)...)
	}
	if !h.excused(r) {
		report("%s failed without an excuse: %s", r.Kind, r.outcome())
	}
	return wrong
}

// judgeAnswer looks at a request that went well for its client.
func judgeAnswer(r record, executed []execution) []string {
	if r.Answered != r.Endpoint {
		return []string{fmt.Sprintf("was for endpoint %s and was answered by %s of %s", r.Endpoint, r.Service, r.Answered)}
	}
	by := slices.DeleteFunc(slices.Clone(executed), func(e execution) bool { return e.Service != r.Service })
	if len(by) == 0 {
		return []string{"was answered by service " + r.Service + ", which does not know it"}
	}
	if !slices.ContainsFunc(by, func(e execution) bool { return e.Answer == r.Got && r.Got != "" }) {
		return []string{"is complete for the client, with another answer than service " + r.Service + " gave"}
	}
	return nil
}

// excused tells whether a declared fault accounts for a failure.
func (h history) excused(r record) bool {
	if r.Failure == failWrong || h.Healed.IsZero() || r.Start.After(h.Healed.Add(settled)) {
		return false
	}
	return slices.ContainsFunc(h.Windows, func(w window) bool { return w.excuses(r) })
}

// judgeRun looks at what no single request shows.
func (h history) judgeRun() (all []violation) {
	if len(h.Requests) != h.Issued {
		all = append(all, violation{"", fmt.Sprintf("%d requests were begun, %d are known", h.Issued, len(h.Requests))})
	}
	well := map[kind]int{}
	for _, r := range h.Requests {
		if r.Failure == "" && !r.End.IsZero() {
			well[r.Kind]++
		}
	}
	for k, want := range h.Want {
		if well[k] < want {
			all = append(all, violation{"", fmt.Sprintf("%d %s requests went well, too few to say anything: want %d", well[k], k, want)})
		}
	}
	for _, w := range h.Windows {
		if slices.Contains(w.Failures, failWrong) || w.To.Before(w.From) || w.To.After(h.Healed.Add(settled)) {
			all = append(all, violation{"", fmt.Sprintf("window %s excuses what nothing excuses", w.Name)})
		}
	}
	slices.SortFunc(all, func(a, b violation) int { return cmp.Compare(a.What, b.What) })
	return all
}

// outcome says how a request ended, for people.
func (r record) outcome() string {
	s := fmt.Sprintf("%s for %s through %s, %s to %s", cmp.Or(string(r.Failure), "well"), r.Endpoint, r.Entry, clock(r.Start), clock(r.End))
	if r.Detail != "" {
		s += ": " + r.Detail
	}
	return s
}

func services(executed []execution) string {
	var names []string
	for _, e := range executed {
		names = append(names, e.Service+" at "+clock(e.At))
	}
	return strings.Join(names, ", ")
}

// clock shows a time as the logs of the programs do, as far as it matters here.
func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

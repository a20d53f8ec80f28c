//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// at is a time of the runs below, in seconds since they began.
func at(seconds float64) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
}

// goodRun is a run of which everything is as it must be: a GET that was executed twice, a
// POST, and two requests that a fault from second 10 to 12 broke.
func goodRun() *history {
	ok := func(id string, k kind, start float64) record {
		return record{ID: id, Kind: k, Endpoint: "e", Entry: "all", Start: at(start), End: at(start + 0.1), Got: "h-" + id, Service: "s1", Answered: "e"}
	}
	done := func(id string, k kind, service string, start float64) execution {
		return execution{ID: id, Kind: k, Service: service, Endpoint: "e", At: at(start), Answer: "h-" + id}
	}
	h := &history{
		Issued:   4,
		Requests: []record{ok("get", kindGet, 1), ok("post", kindPost, 2), ok("lost", kindPost, 10.95), ok("cut", kindEvents, 11.5)},
		Executions: []execution{
			{ID: "get", Kind: kindGet, Service: "s2", Endpoint: "e", At: at(1)}, done("get", kindGet, "s1", 1.05),
			done("post", kindPost, "s1", 2), done("cut", kindEvents, "s1", 11.5),
		},
		Windows: []window{
			{Name: "kill", From: at(10), To: at(12), Entries: []string{"all"}, Endpoints: []string{"e"}, Kinds: []kind{kindPost}, Failures: []failure{fail502}},
			{Name: "streams", From: at(10), To: at(12), Kinds: []kind{kindEvents}, Failures: []failure{failTruncated}},
		},
		Healed: at(12),
		Want:   map[kind]int{kindGet: 1, kindPost: 1},
		Limit:  map[kind]time.Duration{kindGet: time.Second, kindPost: time.Second},
	}
	h.Requests[1].Sent, h.Executions[2].Received = "body", "body"
	h.Requests[2].Failure, h.Requests[2].Got, h.Requests[2].Service, h.Requests[2].Answered = fail502, "", "", ""
	h.Requests[3].Failure, h.Requests[3].Got = failTruncated, "half"
	return h
}

// TestChecker breaks one thing of a good run after the other: each must be seen, and nothing
// else. What the other tests of this package may claim rests on it.
func TestChecker(t *testing.T) {
	t.Parallel()
	if all := goodRun().violations(); len(all) > 0 {
		t.Fatalf("a good run has violations: %v", all)
	}
	for _, c := range []struct {
		name  string
		spoil func(*history)
		says  string
	}{
		{"a request that never ended", func(h *history) { h.Requests[3].End = time.Time{} }, "cut events has no outcome"},
		{"a request that nobody recorded", func(h *history) { h.Issued++ }, "5 requests were begun, 4 are known"},
		{"two outcomes", func(h *history) { h.Requests = append(h.Requests, h.Requests[1]); h.Issued++ }, "post has two outcomes"},
		{"a POST executed twice", func(h *history) {
			h.Executions = append(h.Executions, execution{ID: "post", Service: "s2", Endpoint: "e", At: at(2)})
		}, "post POST was executed 2 times"},
		{"a failed POST executed twice", func(h *history) {
			e := execution{ID: "lost", Service: "s2", Endpoint: "e", At: at(11)}
			h.Executions = append(h.Executions, e, e)
		}, "lost POST was executed 2 times"},
		{"an answer of another endpoint", func(h *history) { h.Requests[0].Answered = "f" }, "get was for endpoint e and was answered by s1 of f"},
		{"an execution at another endpoint", func(h *history) { h.Executions[0].Endpoint = "f" }, "get was for endpoint e and came to f"},
		{"another answer than was given", func(h *history) { h.Requests[0].Got = "h-other" }, "get is complete for the client, with another answer"},
		{"an answer without bytes", func(h *history) { h.Requests[0].Got, h.Executions[1].Answer = "", "" }, "get is complete for the client, with another answer"},
		{"half an answer that passes for a whole one", func(h *history) { h.Executions[1].Answer = "" }, "get is complete for the client, with another answer"},
		{"an answer of nobody", func(h *history) { h.Requests[0].Service = "s3" }, "get was answered by service s3, which does not know it"},
		{"an answer that only the other service gave", func(h *history) { h.Requests[0].Service = "s2" }, "get is complete for the client, with another answer"},
		{"an execution that no client asked for", func(h *history) { h.Executions = append(h.Executions, execution{ID: "ghost", Service: "s1"}) }, "ghost reached service s1"},
		{"another body than was sent", func(h *history) { h.Executions[2].Received = "bod" }, "post service s1 received another body"},
		{"a slow request", func(h *history) { h.Requests[0].End = at(2.5) }, "get GET took 1.5s"},
		{"a slow failure", func(h *history) { h.Requests[2].End = at(13) }, "lost POST took 2.05s"},
		{"a failure outside the window", func(h *history) { h.Requests[2].Start, h.Requests[2].End = at(9), at(9.5) }, "lost POST failed without an excuse: 502"},
		{"a failure after the window", func(h *history) { h.Requests[2].Start, h.Requests[2].End = at(12.1), at(12.5) }, "lost POST failed without an excuse"},
		{"a failure of another kind", func(h *history) { h.Requests[2].Failure = failReset }, "lost POST failed without an excuse: reset"},
		{"a failure of another request", func(h *history) { h.Requests[2].Kind = kindGet }, "lost GET failed without an excuse"},
		{"a failure of one that went in elsewhere", func(h *history) { h.Windows[0].Entries = []string{"some"} }, "lost POST failed without an excuse"},
		{"a failure for another endpoint", func(h *history) { h.Windows[0].Endpoints = []string{"f"} }, "lost POST failed without an excuse"},
		{"wrong bytes", func(h *history) { h.Requests[2].Failure = failWrong }, "lost POST failed without an excuse: wrong"},
		{"a failure long after the fault", func(h *history) { h.Windows[0].To, h.Requests[2].Start, h.Requests[2].End = at(22), at(22.5), at(22.6) }, "lost POST failed without an excuse"},
		{"a window that excuses wrong bytes", func(h *history) { h.Windows[0].Failures = append(h.Windows[0].Failures, failWrong) }, "window kill excuses what nothing excuses"},
		{"a window that never closes", func(h *history) { h.Windows[0].To = at(23) }, "window kill excuses what nothing excuses"},
		{"too few requests", func(h *history) { h.Want[kindGet] = 2 }, "1 GET requests went well, too few"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := goodRun()
			c.spoil(h)
			all := h.violations()
			if !slices.ContainsFunc(all, func(v violation) bool { return strings.HasPrefix(v.String(), c.says) }) {
				t.Errorf("the checker says %q, want %q", all, c.says)
			}
			if len(all) > 1 && c.name != "an execution at another endpoint" {
				t.Errorf("the checker says %d things, want one: %q", len(all), all)
			}
		})
	}
}

// TestCheckerWithoutFault holds that a run without a fault excuses nothing.
func TestCheckerWithoutFault(t *testing.T) {
	t.Parallel()
	h := goodRun()
	h.Windows, h.Healed = nil, time.Time{}
	if all := fmt.Sprint(h.violations()); !strings.Contains(all, "lost") || !strings.Contains(all, "cut") {
		t.Errorf("the checker says %s, want both failures", all)
	}
}

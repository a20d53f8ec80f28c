package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestResultAsTextAndJSON(t *testing.T) {
	r := &run{load: Load{Clients: 2, Rate: 60}, failed: 3, failures: map[string]int64{"timeout": 1, "status 502 no-upstream": 2}}
	for range 100 {
		r.hist.add(time.Millisecond)
	}
	res := r.result(2*time.Second, []Spent{{Name: "server", PID: 1, CPU: 0.5, RSS: 20e6, Grew: -1e6}})
	var text bytes.Buffer
	if err := res.Write(&text, 1000, "3 endpoints, 4 upstreams, "); err != nil {
		t.Fatal(err)
	}
	want := `Requests    100 in 2.00 s; 2 clients, 3 endpoints, 4 upstreams, 1000 bytes each way
Throughput  50.0 requests/s of 60.0 asked for, 0.05 MB/s each way
Latency     p50 1.00 ms, p90 1.00 ms, p99 1.00 ms, p99.9 1.00 ms, max 1.00 ms, mean 1.00 ms
Process     server: 0.50 s CPU, 20.0 MB resident, -1.0 MB
CPU         5000.0 µs a request, of these processes
Errors      3
            2  status 502 no-upstream
            1  timeout
`
	if text.String() != want {
		t.Errorf("result is\n%s\nwant\n%s", &text, want)
	}
	b, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(b, &back); err != nil || back.Requests != 100 || back.Failed != 3 || back.Latency.P999 != 1 || back.CPU != 5000 {
		t.Errorf("JSON %s reads back as %+v, error %v", b, back, err)
	}
}

// TestCompareTakesTurns: the order changes with each round, and the ratio is the
// median of the rounds' own.
func TestCompareTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		target := func(name string, d time.Duration) Target {
			made := slow(d)
			return Target{Name: name, Client: func() Client {
				order = append(order, name)
				return made.Client()
			}}
		}
		l := Load{Clients: 1, Requests: 10, Timeout: time.Minute}
		c, err := l.Compare(t.Context(), [2]Target{target("a", 20*time.Millisecond), target("b", 10*time.Millisecond)}, 3, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(order, ""); got != "abbaab" {
			t.Errorf("order %s", got)
		}
		if c.Ratios.Throughput != 0.5 || c.Ratios.P50 < 1.9 || c.Ratios.P50 > 2.1 || c.Failed() != 0 {
			t.Errorf("ratios %+v, %d failed", c.Ratios, c.Failed())
		}
		var text bytes.Buffer
		if err := c.Write(&text); err != nil {
			t.Fatal(err)
		}
		last := text.String()[strings.LastIndex(strings.TrimSpace(text.String()), "\n"):]
		if f := strings.Fields(last); len(f) != 8 || f[0] != "ratio" || f[4] != "0.50" || f[7] != "-" {
			t.Errorf("last line %q of\n%s", last, &text)
		}
	})
}

func TestParseProcess(t *testing.T) {
	for text, want := range map[string]Process{
		"server=12": {"server", 12}, "34": {"34", 34},
		"": {}, "server": {}, "=5": {}, "server=": {}, "server=-1": {}, "server=0": {}, "a=b=1": {},
	} {
		got, err := ParseProcess(text)
		if got != want || (err != nil) != (want == Process{}) {
			t.Errorf("ParseProcess(%q) = %v, %v", text, got, err)
		}
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	list, err := usageOf([]Process{{"self", os.Getpid()}})
	if err != nil {
		t.Skip(err)
	}
	if u := list[0]; u.rss < 1<<20 || u.rss > 4<<30 {
		t.Errorf("%d bytes resident", u.rss)
	}
	// No process has the number, as Linux has it.
	if _, err := usageOf([]Process{{"gone", 1 << 30}}); err == nil || !strings.Contains(err.Error(), "gone (1073741824)") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

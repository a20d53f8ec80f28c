package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestCheckState(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		cfg     HealthCheck
		results string // + passed, - failed
		want    string // H healthy, u unhealthy, after each
	}{
		{"healthy at first", HealthCheck{Rise: 2, Fall: 3}, "++", "HH"},
		{"falls after as many failures in a row", HealthCheck{Rise: 2, Fall: 3}, "---", "HHu"},
		{"a success between begins anew", HealthCheck{Rise: 2, Fall: 3}, "--+--", "HHHHH"},
		{"rises after as many successes in a row", HealthCheck{Rise: 2, Fall: 1}, "-++", "uuH"},
		{"a failure between begins anew", HealthCheck{Rise: 2, Fall: 1}, "-+-+", "uuuu"},
		{"one of each is enough if so told", HealthCheck{Rise: 1, Fall: 1}, "-+-+", "uHuH"},
		{"a gate opens with the first success", HealthCheck{Rise: 3, Fall: 2, StartGate: true}, "---+", "uuuH"},
		{"... and is open then", HealthCheck{Rise: 2, Fall: 2, StartGate: true}, "+--+", "HHuu"},
	} {
		s := newCheckState(tt.cfg)
		var got strings.Builder
		for _, r := range tt.results {
			was := s.healthy
			if changed := s.result(r == '+'); changed != (was != s.healthy) {
				t.Errorf("%s: result says changed %v", tt.name, changed)
			}
			got.WriteByte("uH"[btoi(s.healthy)])
		}
		if got.String() != tt.want {
			t.Errorf("%s: %s gives %s, want %s", tt.name, tt.results, got.String(), tt.want)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestChecksThatConfirmAChangeFitIntoAnInterval(t *testing.T) {
	t.Parallel()
	c := HealthCheck{Interval: 6 * time.Second, Rise: 2, Fall: 3, Jitter: 0.5}
	s := newCheckState(c)
	for _, tt := range []struct {
		ok     bool
		random float64
		want   time.Duration
	}{
		{true, 0, 6 * time.Second}, {true, 0.999999, 3 * time.Second},
		{false, 0, 2 * time.Second}, {false, 0, 2 * time.Second}, {false, 0, 6 * time.Second},
		{true, 0, 3 * time.Second}, {true, 0, 6 * time.Second},
	} {
		s.result(tt.ok)
		if got := s.pause(&c, tt.random).Round(time.Millisecond); got != tt.want {
			t.Errorf("after %v: %v, want %v", tt.ok, got, tt.want)
		}
	}
}

func TestHealthChecksThatCannotBeMeant(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		change func(*HealthCheck)
		want   string
	}{
		{func(c *HealthCheck) {}, ""},
		{func(c *HealthCheck) { c.Type = "ping" }, `unknown type "ping"`},
		{func(c *HealthCheck) { c.Path = "healthz" }, `path "healthz"`},
		{func(c *HealthCheck) { c.Path = "/a b" }, ""}, // is escaped
		{func(c *HealthCheck) { c.Path = "/a#b" }, `path "/a#b"`},
		{func(c *HealthCheck) { c.Path = "/\n" }, `path "/\n"`},
		{func(c *HealthCheck) { c.Host = "a/b" }, `host "a/b"`},
		{func(c *HealthCheck) { c.Host = "a:80" }, ""},
		{func(c *HealthCheck) { c.MinStatus, c.MaxStatus = 300, 200 }, "status 300 to 200"},
		{func(c *HealthCheck) { c.Interval = time.Millisecond }, "interval 1ms"},
		{func(c *HealthCheck) { c.Timeout = -1 }, "timeout -1ns"},
		{func(c *HealthCheck) { c.Interval = time.Second }, ""}, // whatever the default time-out
		{func(c *HealthCheck) { c.Fall = -1 }, "rise 2 and fall -1"},
		{func(c *HealthCheck) { c.Jitter = 2 }, "jitter 2"},
	} {
		c := HealthCheck{Type: CheckHTTP}
		tt.change(&c)
		_, err := New(Config{Listeners: []Listener{{Endpoint: "e", Addr: "3000", HealthCheck: c}}}, nil, nil, nil, nil)
		if got := fmt.Sprint(err); (err == nil) != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %v, want %q", c, err, tt.want)
		}
	}
}

// checkedService is what the checks of a test find, and what came of it.
type checkedService struct {
	slow  time.Duration // set before start
	start time.Time
	c     *checker

	mu    sync.Mutex
	down  error           // guarded by mu
	asked []time.Duration // when, since the start; guarded by mu
	told  []string        // weights, and when; guarded by mu
}

func (s *checkedService) set(down error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// newCheckedService has a service checked; it is called in a bubble.
func newCheckedService(t *testing.T, cfg HealthCheck, log *logBuffer) *checkedService {
	t.Helper()
	cfg.Type = CheckTCP
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	lc := &Listener{Endpoint: "my-endpoint", HealthCheck: cfg}
	c, err := newChecker(lc, &service{host: "service"}, slog.New(slog.NewTextHandler(log, nil)), m.health.listener("my-endpoint"))
	if err != nil {
		t.Fatal(err)
	}
	s := &checkedService{start: time.Now(), c: c}
	c.random = func() float64 { return 0 }
	c.probe = func(ctx context.Context) error {
		s.mu.Lock()
		s.asked = append(s.asked, time.Since(s.start))
		down := s.down
		s.mu.Unlock()
		select {
		case <-time.After(s.slow):
			return down
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s
}

func (s *checkedService) weigh(w int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, fmt.Sprint(w, " at ", time.Since(s.start)))
}

func TestNodesAreToldOfAServiceThatFallsAndRises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		s := newCheckedService(t, HealthCheck{Interval: 6 * time.Second, Rise: 2, Fall: 3}, log)
		s.c.attach(s.weigh)
		stop := s.c.start(t.Context())
		time.Sleep(7 * time.Second)
		s.set(errors.New("it is down"))
		time.Sleep(40 * time.Second) // seen at 12 s, sure at 16 s, then every 6 s
		if h := s.c.health(); h.Healthy || h.Err == nil || h.Since != s.start.Add(16*time.Second) {
			t.Errorf("its health is %+v", h)
		}
		s.set(nil)
		time.Sleep(19 * time.Second) // seen at 52 s, sure at 55 s
		stop()
		if want := []string{"100 at 0s", "0 at 16s", "100 at 55s"}; !slices.Equal(s.told, want) {
			t.Errorf("nodes were told %q, want %q", s.told, want)
		}
		for _, once := range []string{"service unhealthy", "service healthy", "it is down"} {
			if n := strings.Count(log.String(), once); n != 1 {
				t.Errorf("the log says %q %d times:\n%s", once, n, log)
			}
		}
		if n := testutil.ToFloat64(s.c.metrics.healthy); n != 0 {
			t.Errorf("%v healthy listeners after the end", n)
		}
		failed, passed := testutil.ToFloat64(s.c.metrics.failed), testutil.ToFloat64(s.c.metrics.passed)
		if int(failed+passed) != len(s.asked) || failed == 0 || passed == 0 {
			t.Errorf("%v failed and %v passed of %d checks", failed, passed, len(s.asked))
		}
	})
}

func TestServiceThatDoesNotAnswerInTimeIsUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		s := newCheckedService(t, HealthCheck{Interval: 3 * time.Second, Timeout: 2 * time.Second, Fall: 3}, log)
		s.slow = time.Hour
		s.c.attach(s.weigh)
		stop := s.c.start(t.Context())
		time.Sleep(9 * time.Second)
		stop()
		if want := []string{"100 at 0s", "0 at 6s"}; !slices.Equal(s.told, want) { // a check waits for the one before
			t.Errorf("nodes were told %q, want %q", s.told, want)
		}
		if !strings.Contains(log.String(), "no answer within 2s") {
			t.Errorf("the log does not say why:\n%s", log)
		}
	})
}

func TestChecksOfManyAgentsDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCheckedService(t, HealthCheck{Interval: 10 * time.Second, Jitter: 0.2}, new(logBuffer))
		random := []float64{0, 0.5, 0.25}
		s.c.random = func() float64 { r := random[0]; random = append(random[1:], r); return r }
		stop := s.c.start(t.Context())
		time.Sleep(30 * time.Second)
		stop()
		want := []time.Duration{0, 10 * time.Second, 19 * time.Second, 28500 * time.Millisecond}
		if !slices.Equal(s.asked, want) {
			t.Errorf("checked at %v, want %v", s.asked, want)
		}
	})
}

func TestGateOpensWithTheFirstSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		s := newCheckedService(t, HealthCheck{Interval: time.Second, Timeout: time.Second, StartGate: true}, log)
		s.set(errors.New("it is starting"))
		stop := s.c.start(t.Context())
		defer stop()
		isOpen := func() bool {
			select {
			case <-s.c.opened:
				return true
			default:
				return false
			}
		}
		time.Sleep(3500 * time.Millisecond)
		if isOpen() || strings.Count(log.String(), "it is starting") != 1 {
			t.Errorf("open: %v, and the log says\n%s", isOpen(), log)
		}
		s.set(nil)
		time.Sleep(time.Second)
		if !isOpen() || !s.c.health().Healthy {
			t.Error("the gate is shut after a success")
		}
	})
}

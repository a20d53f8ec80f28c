package client

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"piko/fault"
)

func TestPause(t *testing.T) {
	const most = 0.999999
	for _, c := range []struct {
		name                string
		attempt             int
		elapsed, retryAfter time.Duration
		jitter              float64
		want                time.Duration
	}{
		{"first, at best", 0, 0, 0, 0, 0},
		{"first, at worst", 0, 0, 0, most, 100 * time.Millisecond},
		{"first, in the middle", 0, 0, 0, 0.5, 50 * time.Millisecond},
		{"second", 1, 50 * time.Millisecond, 0, most, 200 * time.Millisecond},
		{"third", 2, time.Second, 0, most, 400 * time.Millisecond},
		{"fifth", 4, time.Second, 0, most, 1600 * time.Millisecond},
		{"sixth is at the ceiling", 5, 3 * time.Second, 0, most, 2 * time.Second},
		{"jitter is full at the ceiling", 20, 30 * time.Second, 0, 0.1, 200 * time.Millisecond},
		{"the ceiling holds for a minute", 50, time.Minute - 1, 0, most, 2 * time.Second},
		{"then it is higher", 50, time.Minute, 0, most, 10 * time.Second},
		{"for ever", 1 << 30, 1000 * time.Hour, 0, most, 10 * time.Second},
		{"server says when", 0, 0, 5 * time.Second, 0, 5 * time.Second},
		{"server says when, and we spread", 0, 0, 5 * time.Second, most, 5100 * time.Millisecond},
		{"server asks for too much", 0, 0, time.Hour, 0, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := pause(c.attempt, c.elapsed, c.retryAfter, c.jitter)
			if (got - c.want).Abs() > 20*time.Microsecond {
				t.Errorf("pause %v, want %v", got, c.want)
			}
		})
	}
}

func TestOutageCountsFromItsFirstFailure(t *testing.T) {
	var o outage
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 10 {
		ceiling := min(firstPause<<i, shortPause)
		if p := o.next(start.Add(time.Duration(i)*time.Second), io.EOF); p > ceiling {
			t.Errorf("pause %d is %v, more than %v", i, p, ceiling)
		}
	}
	longest := time.Duration(0)
	for range 200 {
		longest = max(longest, o.next(start.Add(shortFor), io.EOF))
	}
	if longest <= shortPause || longest > longPause {
		t.Errorf("after a minute the longest of 200 pauses is %v", longest)
	}
}

func TestFinal(t *testing.T) {
	refused := func(status int, code fault.Code) error {
		return fmt.Errorf("dial: %w", &fault.Refused{Status: status, Code: code})
	}
	for _, c := range []struct {
		name      string
		err       error
		mayChange bool
		want      bool
	}{
		{"no connection", io.EOF, false, false},
		{"400 of anybody", refused(400, ""), false, true},
		{"400 of ours", refused(400, fault.InvalidEndpoint), true, true},
		{"401 of ours", refused(401, fault.InvalidToken), false, true},
		{"401 of ours, but the token may change", refused(401, fault.InvalidToken), true, false},
		{"401 of a load balancer", refused(401, ""), false, false},
		{"403 of ours", refused(403, fault.Forbidden), false, true},
		{"403 of a load balancer", refused(403, ""), false, false},
		{"404", refused(404, ""), false, false},
		{"404 of ours", refused(404, fault.NotFound), false, false},
		{"301", refused(301, ""), false, false},
		{"503", refused(503, fault.Draining), false, false},
		{"409 of a node that was named", refused(409, fault.DuplicateTunnel), false, false},
		{"another error", errors.New("x509: certificate has expired"), false, false},
	} {
		if got := final(c.err, c.mayChange); got != c.want {
			t.Errorf("%s: final %v, want %v", c.name, got, c.want)
		}
	}
}

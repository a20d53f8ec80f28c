package client

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
	"piko/tunnel"
)

// attempts connects to a server that is not there, as answer says for each
// attempt, for the given virtual time, and returns when the attempts were.
func attempts(t *testing.T, length time.Duration, answer func(n int) error) (times []time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), length)
		defer cancel()
		start := time.Now()
		l := newListener(ctx, &Client{}, "endpoint")
		defer l.Close()
		l.connect = func(context.Context, *tunnel.Dialer, string) (session, error) {
			times = append(times, time.Since(start))
			return nil, answer(len(times) - 1)
		}
		err = l.start(ctx)
	})
	return times, err
}

func TestAttemptsDuringAnOutage(t *testing.T) {
	for name, cause := range map[string]error{
		"nothing answers":                 io.ErrUnexpectedEOF,
		"refused though nobody was named": &fault.Refused{Status: 409, Code: fault.DuplicateTunnel},
	} {
		t.Run(name, func(t *testing.T) { attemptsDuringAnOutage(t, cause) })
	}
}

func attemptsDuringAnOutage(t *testing.T, cause error) {
	times, err := attempts(t, 10*time.Minute, func(int) error { return cause })
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, cause) {
		t.Errorf("the error %v does not say both that time was up and why", err)
	}
	if times[0] != 0 {
		t.Errorf("the first attempt was after %v", times[0])
	}
	inFirstMinute := 0
	for i := 1; i < len(times); i++ {
		gap, ceiling := times[i]-times[i-1], longPause
		if times[i-1] < shortFor {
			inFirstMinute++
			ceiling = shortPause
		}
		if gap > ceiling {
			t.Errorf("attempt %d after a pause of %v", i, gap)
		}
	}
	// A pause is 1 s on average in the first minute, then 5 s.
	if inFirstMinute < 35 || inFirstMinute > 130 {
		t.Errorf("%d attempts in the first minute", inFirstMinute)
	}
	if later := len(times) - inFirstMinute; later < 70 || later > 180 {
		t.Errorf("%d attempts in the 9 minutes after", later)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	times, _ := attempts(t, time.Minute, func(n int) error {
		if n == 0 {
			return &fault.Refused{Status: 503, Code: fault.Draining, RetryAfter: 20 * time.Second}
		}
		return io.EOF
	})
	if len(times) < 2 || times[1] < 20*time.Second || times[1] > 20*time.Second+firstPause {
		t.Errorf("attempts at %v", times[:min(len(times), 3)])
	}
}

func TestFinalErrorEndsTheAttempts(t *testing.T) {
	bad := &fault.Refused{Status: 401, Code: fault.InvalidToken}
	times, err := attempts(t, time.Minute, func(n int) error {
		if n < 3 {
			return io.EOF
		}
		return bad
	})
	if len(times) != 4 || !errors.Is(err, fault.InvalidToken) {
		t.Errorf("%d attempts, %v", len(times), err)
	}
}

package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
	"piko/tunnel"
)

// jwt is a token that nobody signed.
func jwt(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func jwtUntil(expiry time.Time) string { return jwt(fmt.Sprintf(`{"exp":%d}`, expiry.Unix())) }

// issuer returns tokens, each of another second, that live for life; while stuck
// it returns the last one again, and while broken an error.
type issuer struct {
	life time.Duration

	// Guarded by mu.
	mu            sync.Mutex
	last          string
	asked         []time.Time
	stuck, broken bool
}

func (i *issuer) token(context.Context) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, time.Now())
	switch {
	case i.broken:
		return "", errors.New("the issuer is away")
	case !i.stuck:
		i.last = jwtUntil(time.Now().Add(i.life))
	}
	return " " + i.last + "\n", nil
}

func (i *issuer) set(stuck, broken bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stuck, i.broken = stuck, broken
}

func (i *issuer) times() []time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.asked)
}

// sent is the tokens that the i-th session of the node was sent.
func (n *fakeNode) sent(i int) (tokens []string) {
	n.c.do(func() { tokens = slices.Clone(n.sessions[i].tokens) })
	return tokens
}

func TestTokenExpiry(t *testing.T) {
	at := time.Unix(1_900_000_000, 0)
	for token, want := range map[string]time.Time{
		jwtUntil(at):                      at,
		jwt(`{"exp":1900000000.5}`):       at.Add(time.Second / 2),
		jwt(`{"exp":1.9e9,"sub":"x"}`):    at,
		jwt(`{}`):                         {},
		jwt(`{"exp":"1900000000"}`):       {},
		jwt(`{"exp":-5}`):                 {},
		jwt(`{"exp":1e300}`):              {},
		jwt(`{"exp":null}`):               {},
		jwt(`[]`):                         {},
		jwt(`{"exp":1900000000`):          {},
		"":                                {},
		"opaque":                          {},
		"a.b":                             {},
		"a.%%%.c":                         {},
		"..":                              {},
		strings.Repeat("x", 1<<20) + ".e": {},
		"e30." + strings.Repeat("e", tunnel.MaxToken) + ".c": {},
	} {
		if got := tokenExpiry(token); !got.Equal(want) {
			t.Errorf("%.60q: %v, want %v", token, got, want)
		}
	}
}

func FuzzTokenExpiry(f *testing.F) {
	f.Add(jwt(`{"exp":1900000000}`))
	f.Add(jwt(`{"exp":9e18}`))
	f.Add("a.e30=.")
	f.Fuzz(func(t *testing.T, token string) {
		if at := tokenExpiry(token); !at.IsZero() && (at.Unix() < 0 || at.Year() > 40000) {
			t.Errorf("%v", at)
		}
		now := time.Unix(1_800_000_000, 0)
		if due := dueAt(token, now); !due.IsZero() && due.Before(now.Add(refreshPause)) {
			t.Errorf("due at %v", due)
		}
	})
}

// Every tunnel gets a fresh token at 70 to 80 % of the old one's life, for as
// long as it is open.
func TestTokenIsRefreshedInTime(t *testing.T) {
	i := &issuer{life: time.Hour}
	f := newFakeCluster("a", "b")
	f.inBubble(t, Client{Token: i.token}, func(t *testing.T, l *Listener) {
		time.Sleep(10*time.Hour + time.Minute)
		f.wantOpen(t, "after hours", "a", "b")
		for _, n := range f.nodes {
			sent := n.sent(0)
			if len(sent) < 12 || len(sent) > 14 {
				t.Errorf("node %s was sent %d tokens in 10 hours", n.id, len(sent))
			}
			if expiry := tokenExpiry(sent[len(sent)-1]); expiry.Before(time.Now()) {
				t.Errorf("node %s has a token that expired at %v", n.id, expiry)
			}
		}
		times := i.times()[2:] // the first two are for the attempts
		for n, at := range times[1:] {
			if after := at.Sub(times[n]); after < 41*time.Minute || after > 49*time.Minute {
				t.Errorf("asked again after %v", after)
			}
		}
		if len(times) > 14 {
			t.Errorf("asked %d times for two tunnels", len(times))
		}
	})
}

// A tunnel that is left, but on which something goes on, is kept fresh too.
func TestTokenOfATunnelThatIsLeftIsRefreshed(t *testing.T) {
	i := &issuer{life: time.Hour}
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{Token: i.token, Connections: 1}, func(t *testing.T, l *Listener) {
		s := f.nodes[0].session(0)
		f.do(func() { s.busy = true })
		f.nodes[0].ask(true, 0)
		time.Sleep(3 * time.Hour)
		f.wantOpen(t, "moved", "b")
		if n := len(f.nodes[0].sent(0)); n < 3 || s.Err() != nil {
			t.Errorf("%d tokens were sent, the tunnel ended with %v", n, s.Err())
		}
	})
}

// While there is no later token it is asked for again and again, ever sooner,
// but not without end, nor more than once a second.
func TestTokenThatStaysTheSameIsAskedForAgain(t *testing.T) {
	for name, broken := range map[string]bool{"the same token": false, "an error": true} {
		t.Run(name, func(t *testing.T) {
			i := &issuer{life: time.Hour}
			f := newFakeCluster("a")
			f.inBubble(t, Client{Token: i.token}, func(t *testing.T, l *Listener) {
				i.set(true, broken)
				begun := len(i.times())
				time.Sleep(time.Hour - time.Second)
				if n := len(i.times()) - begun; n < 3 || n > 6 {
					t.Errorf("asked %d times", n)
				}
				time.Sleep(10 * time.Hour)
				if n := len(i.times()) - begun; n > 20 {
					t.Errorf("asked %d times for a token that has expired", n)
				}
				if sent := f.nodes[0].sent(0); len(sent) > 0 {
					t.Errorf("sent %d", len(sent))
				}
			})
		})
	}
}

// What would only end the tunnels is not sent.
func TestTokenThatIsUnfit(t *testing.T) {
	now := time.Now()
	good, later, expired := jwtUntil(now.Add(time.Minute)), jwtUntil(now.Add(time.Hour)), jwtUntil(now.Add(-time.Second))
	for _, c := range []struct {
		token, was string
		ok         bool
	}{
		{later, good, true}, {good, later, true}, {good, good, true}, {expired, expired, true}, {jwt(`{}`), good, true}, {good, "opaque", true},
		{"other", "opaque", true}, {good, "", true}, {"opaque", "", true},
		{"", good, false}, {expired, good, false}, {"garbage", good, false}, {good[:10], good, false}, {expired, "opaque", false},
	} {
		if err := unfit(c.token, c.was, now); (err == nil) != c.ok {
			t.Errorf("%q after %q: %v", c.token, c.was, err)
		}
	}
}

func TestTokenIsNotSentToAServerThatTakesNone(t *testing.T) {
	i := &issuer{life: time.Minute}
	f := newFakeCluster("a").ofOld(true)
	f.inBubble(t, Client{Token: i.token}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Hour)
		f.wantOpen(t, "after an hour", "a")
		if n := len(f.nodes[0].sent(0)); n > 0 {
			t.Errorf("%d tokens", n)
		}
	})
}

// A file is polled: what it holds is sent when it is the same twice in a row.
func TestTokenThatIsPolled(t *testing.T) {
	second := jwt(`{"jti":2}`)
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		file, reads := jwt(`{"jti":1}`), 0
		write := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			file = s
		}
		f := newFakeCluster("a", "b")
		l := f.listener(t, Client{TokenPoll: time.Second, Token: func(context.Context) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			reads++
			return file, nil
		}})
		if err := l.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer l.kill()
		time.Sleep(time.Minute + time.Second/2)
		if sent := f.nodes[0].sent(0); len(sent) != 0 {
			t.Errorf("a token that has not changed was sent: %q", sent)
		}
		write(second[:len(second)-2])
		time.Sleep(time.Second)
		write(second)
		time.Sleep(2 * time.Second)
		for _, n := range f.nodes {
			if sent := n.sent(0); !slices.Equal(sent, []string{second}) {
				t.Errorf("node %s was sent %q", n.id, sent)
			}
		}
		for _, bad := range []string{"", "half", "", jwtUntil(time.Now().Add(-time.Minute))} {
			write(bad)
			time.Sleep(5 * time.Second)
		}
		write(second)
		time.Sleep(5 * time.Second)
		if sent := f.nodes[0].sent(0); len(sent) != 1 {
			t.Errorf("sent %q", sent)
		}
		mu.Lock()
		defer mu.Unlock()
		if reads > 100 {
			t.Errorf("the file was read %d times", reads)
		}
	})
}

// A refusal is final if the token cannot change. If it can, the listener waits
// for a better one, and is in no hurry.
func TestFirstTokenIsRefused(t *testing.T) {
	for name, mayChange := range map[string]bool{"for good": false, "until it has changed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				f := newFakeCluster("a")
				l := f.listener(t, Client{TokenMayChange: mayChange, Token: func(context.Context) (string, error) { return "x", nil }})
				attempts := 0
				l.connect = func(ctx context.Context, d *tunnel.Dialer, endpoint string) (session, error) {
					if attempts++; time.Since(begun) < time.Minute {
						return nil, &fault.Refused{Status: 401, Code: fault.ExpiredToken}
					}
					return f.connect(ctx, d, endpoint)
				}
				err := l.start(t.Context())
				l.kill()
				switch {
				case mayChange && (err != nil || attempts < 30 || attempts > 150):
					t.Errorf("%d attempts, %v", attempts, err)
				case !mayChange && (!errors.Is(err, fault.ExpiredToken) || attempts != 1):
					t.Errorf("%d attempts, %v", attempts, err)
				}
			})
		})
	}
}

// A server that ends the tunnels of a listener because of its token, again and
// again, is not stormed.
func TestTokenThatServersRefuseAgainAndAgain(t *testing.T) {
	i := &issuer{life: 30 * time.Second}
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{Token: i.token}, func(t *testing.T, l *Listener) {
		begun := f.attempts()
		for range 600 {
			time.Sleep(time.Second)
			for _, n := range f.nodes {
				n.ask(false, 0)
				n.kill()
			}
		}
		if n := f.attempts() - begun; n > 600 {
			t.Errorf("%d attempts in 10 minutes", n)
		}
	})
}

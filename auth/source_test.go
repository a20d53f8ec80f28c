package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
)

// fakeSet is a key set elsewhere, which a test changes. Safe for concurrent use.
type fakeSet struct {
	mu      sync.Mutex
	text    string
	err     error
	delay   time.Duration
	refresh time.Duration
	at      []time.Time // of the fetches
}

func (f *fakeSet) set(text string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text, f.err = text, err
}

func (f *fakeSet) fetches() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.at)
}

func (f *fakeSet) load(ctx context.Context, _ *loaded) (*loaded, error) {
	f.mu.Lock()
	f.at = append(f.at, time.Now())
	text, err, delay, refresh := f.text, f.err, f.delay, f.refresh
	f.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	keys, skipped, err := parseKeySet([]byte(text))
	if refresh == 0 {
		refresh = time.Hour
	}
	return &loaded{keys: keys, skipped: skipped, sum: sha256.Sum256([]byte(text)), refresh: refresh}, err
}

// withSet runs a test in a bubble, with a Verifier that has its keys from f; if
// f has none, the first fetch fails. It begins when that has ended.
func withSet(t *testing.T, f *fakeSet, test func(t *testing.T, v *Verifier, log *bytes.Buffer)) {
	t.Helper()
	testKeys() // made outside of the bubble
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		v := newVerifier(t, Config{JWKS: JWKS{Endpoint: "https://idp.example/keys"}})
		v.source.log = slog.New(slog.NewTextHandler(&log, nil))
		v.source.load = f.load
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = v.Run(ctx) })
		synctest.Wait()
		test(t, v, &log)
		stop()
		running.Wait()
	})
}

// pass lets time go by in a bubble, and all that is due then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var errFetch = errors.New("the server answers with status 500")

// token has the name of a key in its header.
func token(t testing.TB, kid string) string {
	t.Helper()
	return sign(t, "RS256", testKeys().rsa, object{}, object{"kid": kid})
}

// TestNoKeySetYet is about a node that starts while its key set is out of
// reach: it says so and answers 503, since agents do not come back after a 401.
func TestNoKeySetYet(t *testing.T) {
	f := &fakeSet{err: errFetch}
	withSet(t, f, func(t *testing.T, v *Verifier, log *bytes.Buffer) {
		for _, tok := range []string{token(t, "a"), token(t, "b"), sign(t, "RS256", testKeys().rsa, object{}, nil)} {
			wantRefused(t, v, tok, fault.AuthUnavailable, reasonNoKeySet)
		}
		wantRefused(t, v, "x", fault.InvalidToken, reasonMalformed) // whatever the keys are
		if !strings.Contains(log.String(), "key set not loaded") {
			t.Errorf("the log does not say so: %s", log)
		}
		f.set(jwks(rsaJWK("a", testKeys().rsa)), nil)
		pass(2 * time.Second)
		if _, err := v.Verify(token(t, "a")); err != nil {
			t.Errorf("when the set is there: %v", err)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines, want one of the failure and one of the success:\n%s", n, log)
		}
	})
}

// TestFetchesThatFailAreTriedAgain counts them: once a second at first, then
// every 30 s.
func TestFetchesThatFailAreTriedAgain(t *testing.T) {
	f := &fakeSet{err: errFetch}
	withSet(t, f, func(t *testing.T, v *Verifier, log *bytes.Buffer) {
		pass(time.Hour)
		if n := f.fetches(); n < 115 || n > 130 {
			t.Errorf("%d fetches in an hour", n)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines of one failure", n)
		}
		if v.source.failures.Load() != uint64(f.fetches()) {
			t.Errorf("%d failures counted of %d", v.source.failures.Load(), f.fetches())
		}
	})
}

// TestRemovedKeyIsRevoked takes a key out of the set: its tokens are refused
// from the next fetch on, those that were verified before, too.
func TestRemovedKeyIsRevoked(t *testing.T) {
	k := testKeys()
	f := &fakeSet{text: jwks(rsaJWK("a", k.rsa), rsaJWK("b", k.otherRSA)), refresh: 10 * time.Minute}
	withSet(t, f, func(t *testing.T, v *Verifier, _ *bytes.Buffer) {
		tok := token(t, "a")
		if _, err := v.Verify(tok); err != nil {
			t.Fatal(err)
		}
		f.set(jwks(rsaJWK("b", k.otherRSA)), nil)
		pass(10 * time.Minute)
		if _, err := v.Verify(tok); err == nil { // with 401 or 503: the last fetch may have been too short ago
			t.Error("a token of a key that was removed is good")
		}
		pass(refreshGap)
		wantRefused(t, v, tok, fault.InvalidToken, reasonUnknownKey)
		pass(10 * time.Minute)
		wantRefused(t, v, tok, fault.InvalidToken, reasonUnknownKey) // known since, however short ago the set was fetched
	})
}

// TestEmptySetRevokesAll is about a set that says that it has no key.
func TestEmptySetRevokesAll(t *testing.T) {
	f := &fakeSet{text: jwks(rsaJWK("", testKeys().rsa)), refresh: 10 * time.Minute}
	withSet(t, f, func(t *testing.T, v *Verifier, _ *bytes.Buffer) {
		tok := sign(t, "RS256", testKeys().rsa, object{}, nil)
		if _, err := v.Verify(tok); err != nil {
			t.Fatal(err)
		}
		f.set(jwks(), nil)
		pass(10 * time.Minute)
		wantRefused(t, v, tok, fault.InvalidToken, reasonNoKey)
	})
}

// TestOldSetStaysWhileNoOtherCanBeHad has every kind of bad answer follow a
// good one.
func TestOldSetStaysWhileNoOtherCanBeHad(t *testing.T) {
	k := testKeys()
	good := jwks(rsaJWK("a", k.rsa))
	for name, bad := range map[string]struct {
		text string
		err  error
	}{
		"an error":             {"", errFetch},
		"no JSON":              {"<html>", nil},
		"no set":               {"{}", nil},
		"keys that is null":    {`{"keys":null}`, nil},
		"no key that is known": {`{"keys":[{"kty":"XYZ"}]}`, nil},
		"too many keys":        {`{"keys":[` + strings.Repeat(`{"kty":"XYZ"},`, 300) + `{}]}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeSet{text: good, refresh: 10 * time.Minute}
			withSet(t, f, func(t *testing.T, v *Verifier, log *bytes.Buffer) {
				f.set(bad.text, bad.err)
				pass(2 * time.Hour)
				if _, err := v.Verify(token(t, "a")); err != nil {
					t.Errorf("hours later: %v", err)
				}
				wantRefused(t, v, token(t, "new"), fault.AuthUnavailable, reasonUnknownKey)
				if n := strings.Count(log.String(), "the old one stays"); n != 1 {
					t.Errorf("the failure is in the log %d times", n)
				}
				f.set(jwks(rsaJWK("new", k.rsa)), nil)
				pass(lastRetry)
				if _, err := v.Verify(token(t, "new")); err != nil {
					t.Errorf("when the set can be had again: %v", err)
				}
			})
		})
	}
}

// TestNewKeyIsFetchedAtOnce signs with a key that came into the set after it
// was fetched: the first token with it is good.
func TestNewKeyIsFetchedAtOnce(t *testing.T) {
	k := testKeys()
	f := &fakeSet{text: jwks(rsaJWK("a", k.otherRSA)), delay: time.Second}
	withSet(t, f, func(t *testing.T, v *Verifier, _ *bytes.Buffer) {
		pass(time.Minute)
		f.set(jwks(rsaJWK("a", k.otherRSA), rsaJWK("b", k.rsa)), nil)
		var asking sync.WaitGroup
		tok := token(t, "b")
		for range 50 {
			asking.Go(func() {
				if _, err := v.Verify(tok); err != nil {
					t.Error(err)
				}
			})
		}
		asking.Wait()
		if n := f.fetches(); n != 2 {
			t.Errorf("%d fetches, want the first and one more", n)
		}
	})
}

// TestUnknownKeysCauseFewFetches floods with tokens whose keys nobody has.
func TestUnknownKeysCauseFewFetches(t *testing.T) {
	f := &fakeSet{text: jwks(rsaJWK("a", testKeys().rsa))}
	withSet(t, f, func(t *testing.T, v *Verifier, _ *bytes.Buffer) {
		bad := []string{}
		for i := range 5 {
			bad = append(bad, token(t, "bad"+strconv.Itoa(i)))
		}
		pass(time.Minute)
		start := f.fetches()
		for range 600 { // ten minutes
			for _, tok := range bad {
				if _, err := v.Verify(tok); err == nil {
					t.Fatal("a token of nobody's key is good")
				}
			}
			pass(time.Second)
		}
		if n := f.fetches() - start; n > 21 {
			t.Errorf("%d fetches in ten minutes, want one in 30 s", n)
		}
		for i := range 2 * maxAsked {
			_, _ = v.Verify(signRaw(t, `{"alg":"RS256","kid":"k`+strconv.Itoa(i)+`"}`, `{}`, ""))
		}
		if n := len(v.source.asked); n > maxAsked {
			t.Errorf("%d names are kept", n)
		}
		for i := 1; i < len(f.at); i++ {
			if d := f.at[i].Sub(f.at[i-1]); d < refreshGap {
				t.Errorf("%v between two fetches", d)
			}
		}
	})
}

// TestUnknownKeyIsRefusedForGoodOnlyWhenTheSetIsFresh is about what an agent
// gets: 401 ends it, so it has to be sure.
func TestUnknownKeyIsRefusedForGoodOnlyWhenTheSetIsFresh(t *testing.T) {
	f := &fakeSet{text: jwks(rsaJWK("a", testKeys().rsa))}
	withSet(t, f, func(t *testing.T, v *Verifier, _ *bytes.Buffer) {
		first, second := token(t, "bad1"), token(t, "bad2")
		wantRefused(t, v, first, fault.AuthUnavailable, reasonUnknownKey) // the set was fetched a moment ago, but before
		pass(refreshGap)
		wantRefused(t, v, first, fault.InvalidToken, reasonUnknownKey)
		wantRefused(t, v, first, fault.InvalidToken, reasonUnknownKey)
		_, err := v.Verify(second)
		if f := fault.From(err); f.Code != fault.AuthUnavailable || f.RetryAfter <= 0 || f.RetryAfter > refreshGap {
			t.Errorf("another, within the gap: %v, retry after %v", err, f.RetryAfter)
		}
	})
}

// TestSlowKeySetHoldsUpNobody has fetches that take for ever: tokens with known
// keys are verified, and others wait 5 s and no longer.
func TestSlowKeySetHoldsUpNobody(t *testing.T) {
	f := &fakeSet{text: jwks(rsaJWK("a", testKeys().rsa))}
	withSet(t, f, func(t *testing.T, v *Verifier, _ *bytes.Buffer) {
		pass(time.Minute)
		f.mu.Lock()
		f.delay = time.Hour
		f.mu.Unlock()
		start := time.Now()
		wantRefused(t, v, token(t, "new"), fault.AuthUnavailable, reasonUnknownKey)
		if d := time.Since(start); d != refreshWait {
			t.Errorf("waited %v", d)
		}
		start = time.Now()
		if _, err := v.Verify(token(t, "a")); err != nil || time.Since(start) != 0 {
			t.Errorf("a token with a known key: %v after %v", err, time.Since(start))
		}
		gone := make(chan struct{})
		close(gone)
		start = time.Now()
		if _, _, err := v.verify(gone, token(t, "new")); err == nil || time.Since(start) != 0 {
			t.Errorf("a client that is gone: %v after %v", err, time.Since(start))
		}
		var asking sync.WaitGroup
		waits := token(t, "new")
		for range 2 * maxWaiting {
			asking.Go(func() { _, _ = v.Verify(waits) })
		}
		synctest.Wait()
		v.source.mu.Lock()
		if v.source.waiting != maxWaiting {
			t.Errorf("%d wait, want %d", v.source.waiting, maxWaiting)
		}
		v.source.mu.Unlock()
		asking.Wait()
	})
}

// TestRefreshIsWhenTheServerSaysOrTheOperator is about the time between fetches.
func TestRefreshIsWhenTheServerSaysOrTheOperator(t *testing.T) {
	f := &fakeSet{text: jwks(rsaJWK("a", testKeys().rsa)), refresh: 10 * time.Minute}
	withSet(t, f, func(t *testing.T, _ *Verifier, _ *bytes.Buffer) {
		pass(10 * time.Hour)
		for i := 1; i < len(f.at); i++ {
			if d := f.at[i].Sub(f.at[i-1]); d < 9*time.Minute || d > 10*time.Minute {
				t.Errorf("%v between two fetches, want 9 to 10 minutes", d)
			}
		}
		if len(f.at) < 60 {
			t.Errorf("%d fetches in 10 hours", len(f.at))
		}
	})
}

// TestKeysOfASetAreChosenByName is about which key may verify a token.
func TestKeysOfASetAreChosenByName(t *testing.T) {
	k := testKeys()
	with := func(o object, name string, v any) object { o[name] = v; return o }
	tests := []struct {
		name  string
		set   string
		token string
		why   reason
	}{
		{"the key that it names", jwks(rsaJWK("a", k.otherRSA), rsaJWK("b", k.rsa)), token(t, "b"), ""},
		{"another key than it names", jwks(rsaJWK("a", k.rsa), rsaJWK("b", k.otherRSA)), token(t, "b"), reasonSignature},
		{"two keys of one name, of two kinds", jwks(ecJWK("a", k.es256), rsaJWK("a", k.rsa)), token(t, "a"), ""},
		{"a name of a key of another kind", jwks(ecJWK("a", k.es256), rsaJWK("b", k.rsa)), token(t, "a"), reasonNoKey},
		{"no name, one key", jwks(rsaJWK("a", k.rsa)), sign(t, "RS256", k.rsa, object{}, nil), ""},
		{"no name, one key of the kind", jwks(ecJWK("b", k.es256), rsaJWK("a", k.rsa)), sign(t, "RS256", k.rsa, object{}, nil), ""},
		{"no name, two keys", jwks(rsaJWK("a", k.rsa), rsaJWK("b", k.otherRSA)), sign(t, "RS256", k.rsa, object{}, nil), reasonKeyNotNamed},
		{"a key without name, a token with one", jwks(rsaJWK("", k.rsa)), token(t, "a"), reasonUnknownKey},
		{"the empty name", jwks(rsaJWK("", k.rsa)), token(t, ""), ""},
		{"another algorithm than the key's", jwks(with(rsaJWK("a", k.rsa), "alg", "RS512")), token(t, "a"), reasonNoKey},
		{"the key's algorithm", jwks(with(rsaJWK("a", k.rsa), "alg", "RS256")), token(t, "a"), ""},
		{"ECDSA", jwks(ecJWK("a", k.es384)), sign(t, "ES384", k.es384, object{}, object{"kid": "a"}), ""},
		{"P-521", jwks(ecJWK("a", k.es512)), sign(t, "ES512", k.es512, object{}, object{"kid": "a"}), ""},
		{"EdDSA", jwks(edJWK("a", k.ed)), sign(t, "EdDSA", k.ed, object{}, object{"kid": "a"}), ""},
		{"a secret by the name of a public key", jwks(rsaJWK("a", k.rsa)), sign(t, "HS256", []byte(publicPEM(k.rsa)), object{}, object{"kid": "a"}), reasonNoKey},
		{"a name that is a path", jwks(rsaJWK("a", k.rsa)), token(t, "../../../etc/passwd"), reasonUnknownKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			withSet(t, &fakeSet{text: tt.set}, func(t *testing.T, v *Verifier, _ *bytes.Buffer) {
				pass(refreshGap)
				if tt.why != "" {
					wantRefused(t, v, tt.token, fault.InvalidToken, tt.why)
				} else if _, err := v.Verify(tt.token); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

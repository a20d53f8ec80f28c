package auth

import (
	"strconv"
	"sync"
	"testing"
	"time"
)

func TestCacheIsBounded(t *testing.T) {
	var c cache
	now := time.Now()
	for i := range 4 * maxSets * setSize {
		token := strconv.Itoa(i)
		c.put(hashOf(token), token, &Grant{id: token}, now)
		if g := c.get(hashOf(token), token); g == nil || g.id != token {
			t.Fatalf("token %d is not found when it was just put", i)
		}
	}
	kept := 0
	for i := range 4 * maxSets * setSize {
		token := strconv.Itoa(i)
		if g := c.get(hashOf(token), token); g != nil {
			kept++
			if g.id != token {
				t.Fatalf("token %d gets the grant of %s", i, g.id)
			}
		}
	}
	if kept > maxSets*setSize || kept < maxSets*setSize*9/10 {
		t.Errorf("%d tokens are kept, want at most %d and not many less", kept, maxSets*setSize)
	}
}

// TestCacheOfFewTokensIsSmall is for ports with many tenants.
func TestCacheOfFewTokensIsSmall(t *testing.T) {
	var c cache
	for i := range 20 {
		c.put(hashOf(strconv.Itoa(i)), strconv.Itoa(i), &Grant{}, time.Now())
	}
	if n := len(*c.table.Load()); n > 4*minSets {
		t.Errorf("%d sets for 20 tokens", n)
	}
}

// TestCacheComparesTokens has two tokens of one hash: the second is not the first.
func TestCacheComparesTokens(t *testing.T) {
	var c cache
	c.put(7, "first", &Grant{id: "first"}, time.Now())
	if g := c.get(7, "second"); g != nil {
		t.Errorf("another token of the same hash gets the grant of %s", g.id)
	}
}

// TestCacheForgetsExpiredTokensFirst fills a set with expired tokens.
func TestCacheForgetsExpiredTokensFirst(t *testing.T) {
	var c cache
	now := time.Now()
	old := &Grant{claims: claims{expiry: now.Add(-time.Hour)}}
	for i := range setSize {
		c.put(uint64(i*minSets), "old", old, now)
	}
	c.put(setSize*minSets, "new", &Grant{}, now)
	if n := len(*c.table.Load()); n != minSets {
		t.Errorf("the table has grown to %d sets for expired tokens", n)
	}
}

func TestCacheIsSafeForConcurrentUse(t *testing.T) {
	var c cache
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for i := range 2000 {
				token := strconv.Itoa(i)
				if g := c.get(hashOf(token), token); g != nil && g.id != token {
					t.Errorf("token %s gets the grant of %s", token, g.id)
				}
				c.put(hashOf(token), token, &Grant{id: token}, time.Now())
			}
		})
	}
	running.Wait()
}

// TestSeenTokenCostsNoGarbage holds what a request with a token costs.
func TestSeenTokenCostsNoGarbage(t *testing.T) {
	k := testKeys()
	v := newVerifier(t, Config{RSAPublicKeys: []string{publicPEM(k.rsa)}})
	token := sign(t, "RS256", k.rsa, object{"exp": inHour(), "piko": object{"endpoints": []string{"e"}}}, nil)
	g := newGuard(t, Options{Port: "proxy", Default: onlySecret()})
	r := request("Authorization", "Bearer "+sign(t, "HS256", []byte(k.secret), object{"exp": inHour()}, nil))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := v.Verify(token); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Verify: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if b, err := g.Check(r, client, ""); err != nil || !b.Grant.MayConnect("e") {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Check: %v allocations", n)
	}
}

func BenchmarkVerify(b *testing.B) {
	k := testKeys()
	for alg, key := range map[string]any{"HS256": []byte(k.secret), "RS256": k.rsa, "ES256": k.es256, "EdDSA": k.ed} {
		token := sign(b, alg, key, object{"exp": inHour(), "sub": "agent-1", "iss": "https://idp.example.com", "piko": object{"endpoints": []string{"my-endpoint"}}}, nil)
		b.Run("seen/"+alg, func(b *testing.B) {
			v := newVerifier(b, everyKey())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(token); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("new/"+alg, func(b *testing.B) {
			v := newVerifier(b, everyKey())
			b.ReportAllocs()
			for b.Loop() {
				h, err := parseHeader(token)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := v.fixed.verify(token, h); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCheck is what a request with a token costs that was seen before.
func BenchmarkCheck(b *testing.B) {
	k := testKeys()
	g := newGuard(b, Options{Port: "proxy", Default: everyKey()})
	r := request("Authorization", "Bearer "+sign(b, "RS256", k.rsa, object{"exp": inHour(), "piko": object{"endpoints": []string{"my-endpoint"}}}, nil))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			bearer, err := g.Check(r, client, "")
			if err != nil || !bearer.Grant.MayConnect("my-endpoint") {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRefused is what a bad token of a slowed source costs.
func BenchmarkRefused(b *testing.B) {
	k := testKeys()
	g := newGuard(b, Options{Port: "proxy", Default: onlySecret()})
	r := request("Authorization", "Bearer "+sign(b, "HS256", []byte(k.otherSecret), object{}, nil))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Check(r, client, ""); err == nil {
			b.Fatal("a bad token is good")
		}
	}
}

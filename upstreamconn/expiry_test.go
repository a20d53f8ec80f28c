package upstreamconn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"

	"piko/auth"
	"piko/router"
	"piko/tunnel"
)

// leeway is what auth adds to exp.
const leeway = 30 * time.Second

// bubble is a server in virtual time.
type bubble struct {
	*Server
	log  *lines
	ends sync.WaitGroup
}

// inBubble runs a test's story in virtual time with a server that runs.
func inBubble(t *testing.T, opt auth.Options, story func(t *testing.T, b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{log: &lines{}}
		b.Server = &Server{
			NodeID: "node", Table: router.NewTable(), Auth: newGuard(t, opt),
			Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		}
		b.init()
		ctx, cancel := context.WithCancel(t.Context())
		b.ends.Go(func() { b.endExpired(ctx) }) // and not Run, whose tickers make hours long
		story(t, b)
		b.Close(t.Context())
		cancel()
		b.ends.Wait()
		if b.places.all != 0 || b.Tunnels() != 0 || len(b.expiries.heap) != 0 {
			t.Errorf("%d places are taken, %d tunnels left, %d due", b.places.all, b.Tunnels(), len(b.expiries.heap))
		}
	})
}

var oneSecret = auth.Options{Default: auth.Config{HMACSecretKeys: []string{secret}}}

// peer is the other end of a tunnel.
type peer struct {
	*tunnel.Session
	up     *upstream
	drains chan string // the reasons
}

// join connects an upstream with control that has shown the token.
func (b *bubble) join(t *testing.T, tenant, endpoint, token string) *peer {
	t.Helper()
	grant, err := b.Auth.Verify(tenant, token)
	if err != nil {
		t.Fatal(err)
	}
	return b.joinWith(t, tenant, endpoint, grant)
}

// joinWith is join for a token that was verified.
func (b *bubble) joinWith(t *testing.T, tenant, endpoint string, grant *auth.Grant) *peer {
	t.Helper()
	if err := b.places.take(endpoint, grant.ID()); err != nil {
		t.Fatal(err)
	}
	p := &peer{drains: make(chan string, 10)}
	p.up = newUpstream(b.Server, instance{endpoint, ""})
	p.up.tenant, p.up.grant = tenant, grant
	ours, theirs := net.Pipe()
	p.Session = tunnel.NewPeerSession(theirs, false, tunnel.Options{Events: tunnel.Events{
		Drain: func(m tunnel.DrainMessage) { p.drains <- m.Reason },
	}})
	b.registry.add(p.up)
	p.up.join(tunnel.NewPeerSession(ours, true, p.up.options()))
	t.Cleanup(func() { p.Close() })
	return p
}

// lives checks whether the tunnel is in the table, and open.
func (b *bubble) lives(t *testing.T, why string, p *peer, listed, open bool) {
	t.Helper()
	synctest.Wait()
	if got := b.Table.Lookup(p.up.instance.endpoint) != nil; got != listed {
		t.Errorf("%s: in the table: %v", why, got)
	}
	if got := p.up.sess.Err() == nil; got != open {
		t.Errorf("%s: open: %v (%v)", why, got, p.up.sess.Err())
	}
	if !listed {
		if _, err := p.up.Open(t.Context()); !errors.Is(err, errLeaving) {
			t.Errorf("%s: a stream was opened: %v", why, err)
		}
	}
}

// until is a good token.
func until(at time.Time, more object) string {
	c := claims(more)
	c["exp"] = at.Unix()
	return sign(secret, c)
}

// At the token's end the tunnel gets no more streams and is asked to move; what
// goes on may end for a while.
func TestTunnelEndsWithItsToken(t *testing.T) {
	inBubble(t, oneSecret, func(t *testing.T, b *bubble) {
		exp := time.Now().Add(time.Minute)
		busy, idle := b.join(t, "", "busy", until(exp, nil)), b.join(t, "", "idle", until(exp, nil))
		st, err := busy.up.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(exp) + leeway - time.Millisecond)
		b.lives(t, "until the end", busy, true, true)
		time.Sleep(2 * time.Millisecond)
		b.lives(t, "at the end", busy, false, true)
		b.lives(t, "at the end", idle, false, true)
		for _, p := range []*peer{busy, idle} {
			if reason := <-p.drains; reason != "token has expired" {
				t.Errorf("asked to move because %q", reason)
			}
		}
		if _, err := st.Write([]byte("x")); err != nil {
			t.Errorf("a stream in flight: %v", err)
		}
		time.Sleep(moveGrace + time.Second)
		b.lives(t, "soon", idle, false, false)
		b.lives(t, "soon", busy, false, true)
		time.Sleep(expiryGrace)
		b.lives(t, "after the grace", busy, false, false)
		if len(b.log.with("upstream disconnected", "endpoint=busy", "token has expired")) != 1 || len(b.log.with("upstream has to leave", "in_flight=")) != 2 {
			t.Errorf("the log does not say why:\n%s", b.log.buf.String())
		}
	})
}

// A tunnel that goes on until its last stream has ended is closed then.
func TestExpiredTunnelEndsWithItsLastStream(t *testing.T) {
	inBubble(t, oneSecret, func(t *testing.T, b *bubble) {
		p := b.join(t, "", "endpoint", until(time.Now(), nil))
		st, err := p.up.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(leeway + 10*time.Second)
		b.lives(t, "in flight", p, false, true)
		st.(*tunnel.Stream).Reset()
		time.Sleep(2 * expiryPoll)
		b.lives(t, "over", p, false, false)
	})
}

func TestFreshTokenMovesTheEnd(t *testing.T) {
	inBubble(t, oneSecret, func(t *testing.T, b *bubble) {
		b.Limits.TunnelsPerToken = 1
		p := b.join(t, "", "endpoint", until(time.Now().Add(time.Minute), nil))
		for i := range 5 {
			time.Sleep(50 * time.Second)
			p.up.onToken(until(time.Now().Add(time.Minute), forEndpoints("listen", fmt.Sprint("x", i), "endpoint")))
			b.lives(t, "with a fresh token", p, true, true)
		}
		if n := len(b.places.tokens); n != 1 {
			t.Errorf("%d tokens are counted", n)
		}
		time.Sleep(time.Minute + leeway + time.Millisecond)
		b.lives(t, "without", p, false, true)
		// What comes now comes too late.
		p.up.onToken(until(time.Now().Add(time.Minute), nil))
		time.Sleep(moveGrace + time.Second)
		b.lives(t, "after its end", p, false, false)
	})
}

// A shorter token brings the end nearer, one without exp takes it away.
func TestFreshTokenOfAnotherLength(t *testing.T) {
	inBubble(t, oneSecret, func(t *testing.T, b *bubble) {
		p := b.join(t, "", "endpoint", until(time.Now().Add(time.Hour), nil))
		forever := b.join(t, "", "forever", until(time.Now().Add(time.Hour), nil))
		p.up.onToken(until(time.Now().Add(time.Minute), nil))
		forever.up.onToken(sign(secret, object{"sub": "x"}))
		time.Sleep(time.Minute + leeway + time.Millisecond)
		b.lives(t, "shorter", p, false, true)
		time.Sleep(10 * time.Minute)
		b.lives(t, "without exp", forever, true, true)
	})
}

func TestTokenThatIsRefusedEndsTheTunnel(t *testing.T) {
	opt := auth.Options{Tenants: tenants()}
	for name, token := range map[string]func() string{
		"garbage":              func() string { return "garbage" },
		"empty":                func() string { return " " },
		"of another key":       func() string { return sign("a third secret of more than 32 bytes, for tests", claims(nil)) },
		"of another tenant":    func() string { return sign(otherSecret, claims(nil)) },
		"expired":              func() string { return until(time.Now().Add(-time.Minute), nil) },
		"for another endpoint": func() string { return until(time.Now().Add(time.Hour), forEndpoints("endpoints", "other")) },
		"to connect alone":     func() string { return until(time.Now().Add(time.Hour), forEndpoints("connect", "endpoint")) },
		"alg none":             func() string { return signAs("none", jwt.UnsafeAllowNoneSignatureType, claims(nil), nil) },
		"of 8 KiB":             func() string { return strings.Repeat("x", tunnel.MaxToken) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, opt, func(t *testing.T, b *bubble) {
				p := b.join(t, "red", "endpoint", sign(secret, claims(nil)))
				bad := token()
				p.up.onToken(bad)
				b.lives(t, "at once", p, false, true)
				if reason := <-p.drains; !strings.HasPrefix(reason, "token was refused: ") || len(bad) > 1 && strings.Contains(reason, bad) {
					t.Errorf("asked to move because %q", reason)
				}
				time.Sleep(moveGrace + time.Second)
				b.lives(t, "soon", p, false, false)
				if len(b.log.with("upstream disconnected", "tenant=red", "token was refused")) != 1 {
					t.Errorf("the log does not say why:\n%s", b.log.buf.String())
				}
			})
		})
	}
}

// Of many tokens at once the newest counts, and no more than one goroutine is at
// it.
func TestNewestTokenWins(t *testing.T) {
	inBubble(t, oneSecret, func(t *testing.T, b *bubble) {
		p := b.join(t, "", "endpoint", until(time.Now().Add(time.Hour), nil))
		p.up.mu.Lock()
		p.up.verifying = make(chan struct{}) // as if one were verified
		p.up.mu.Unlock()
		for i := range 1000 {
			p.up.onToken(until(time.Now().Add(time.Duration(i)*time.Second), nil))
		}
		p.up.mu.Lock()
		p.up.verifying = nil
		p.up.startVerifying()
		p.up.mu.Unlock()
		time.Sleep(999*time.Second + leeway - 2*time.Second)
		b.lives(t, "until the newest one's end", p, true, true)
		time.Sleep(4 * time.Second)
		b.lives(t, "at its end", p, false, true)
	})
}

func TestTunnelOutlivesItsTokenIfItMay(t *testing.T) {
	opt := oneSecret
	opt.Default.DisableDisconnectOnExpiry = true
	inBubble(t, opt, func(t *testing.T, b *bubble) {
		p := b.join(t, "", "endpoint", until(time.Now().Add(time.Minute), nil))
		time.Sleep(10 * time.Minute)
		b.lives(t, "much later", p, true, true)
		p.up.onToken("garbage")
		b.lives(t, "with a token that is refused", p, false, true)
	})
}

// Tunnels whose key is taken away end within a second, in order; those of another key stay, whose token was made with a
// key that is accepted still, and so do those that have expired and may go on for that.
func TestKeysThatAreTakenAway(t *testing.T) {
	both := auth.Options{Default: auth.Config{HMACSecretKeys: []string{secret, otherSecret}}}
	inBubble(t, both, func(t *testing.T, b *bubble) {
		in := func(d time.Duration) time.Time { return time.Now().Add(d) }
		other := claims(nil)
		other["exp"] = in(time.Hour).Unix()
		old := b.join(t, "", "old", until(in(time.Hour), nil))
		never := b.join(t, "", "never", until(in(time.Hour*24*365), nil))
		fresh := b.join(t, "", "fresh", until(in(time.Hour), nil))
		stays := b.join(t, "", "stays", sign(otherSecret, other))
		asks := b.join(t, "", "asks", sign(otherSecret, other))
		keys := b.endRevoked(0)
		stream, err := old.up.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		fresh.up.onToken(sign(otherSecret, other))
		b.lives(t, "with a token of the other key", fresh, true, true)
		commit, err := b.Auth.Prepare(auth.Options{Default: auth.Config{HMACSecretKeys: []string{otherSecret}}})
		if err != nil {
			t.Fatal(err)
		}
		commit()
		keys = b.endRevoked(keys)
		for name, p := range map[string]*peer{"old": old, "never": never} {
			b.lives(t, name, p, false, true)
			if why := <-p.drains; why != revoked {
				t.Errorf("%s was asked to leave since %q", name, why)
			}
		}
		b.lives(t, "of the other key", stays, true, true)
		b.lives(t, "with a fresh token", fresh, true, true)
		if again := b.endRevoked(keys); again != keys {
			t.Error("the keys have changed again")
		}
		asks.up.onToken(until(in(time.Hour), nil))
		b.lives(t, "with a token of the old key", asks, false, true)
		time.Sleep(moveGrace + time.Second)
		b.lives(t, "without a request", never, false, false)
		b.lives(t, "with a request", old, false, true)
		time.Sleep(expiryGrace)
		b.lives(t, "at the end", old, false, false)
		if len(b.log.with("eyJ")) > 0 {
			t.Error("the log has a token")
		}
	})
}

// A tunnel that comes while the keys change is not overlooked: its token was verified by those before.
func TestTunnelThatComesWhileKeysChange(t *testing.T) {
	inBubble(t, oneSecret, func(t *testing.T, b *bubble) {
		token := until(time.Now().Add(time.Hour), nil)
		grant, err := b.Auth.Verify("", token)
		if err != nil {
			t.Fatal(err)
		}
		commit, err := b.Auth.Prepare(auth.Options{Default: auth.Config{HMACSecretKeys: []string{otherSecret}}})
		if err != nil {
			t.Fatal(err)
		}
		commit()
		b.endRevoked(0)
		p := b.joinWith(t, "", "late", grant)
		b.lives(t, "verified before", p, false, true)
	})
}

// A clock that is set back or forth is followed.
func TestExpiryWithinClockCheck(t *testing.T) {
	var e expiries
	e.init()
	now := time.Now()
	e.set(&upstream{}, now.Add(time.Hour))
	if _, wait := e.take(now); wait > clockCheck {
		t.Errorf("the clock is not looked at for %v", wait)
	}
}

// The heap gives what is due in the order of the times, whatever was done to it.
func TestExpiriesComeInOrder(t *testing.T) {
	var e expiries
	e.init()
	now := time.Now()
	all := make([]*upstream, 300)
	want := map[*upstream]time.Time{}
	for i := range all {
		all[i] = &upstream{}
	}
	for range 3000 {
		u := all[rand.IntN(len(all))]
		if rand.IntN(4) == 0 {
			e.set(u, time.Time{})
			delete(want, u)
			continue
		}
		at := now.Add(time.Duration(rand.IntN(1000)) * time.Second)
		e.set(u, at)
		want[u] = at
	}
	var got []time.Time
	for passed := time.Duration(0); passed <= 1000*time.Second; passed += 100 * time.Second {
		list, _ := e.take(now.Add(passed))
		for _, u := range list {
			if at, ok := want[u]; !ok || at.After(now.Add(passed)) {
				t.Fatalf("%v is due at %v", want[u], now.Add(passed))
			}
			got = append(got, want[u])
			delete(want, u)
		}
	}
	if len(want) > 0 || !slices.IsSortedFunc(got, time.Time.Compare) {
		t.Errorf("%d are missing, %v", len(want), got)
	}
}

// A v0.9.0 agent is sent back when its token expires: it would take an orderly
// end for its own.
func TestOldAgentIsSentBackWhenItsTokenExpires(t *testing.T) {
	defer forgetPools()
	inBubble(t, oneSecret, func(t *testing.T, b *bubble) {
		ln := newPipeListener()
		srv := &http.Server{Handler: b.Handler()}
		b.ends.Go(func() { srv.Serve(ln) })
		defer srv.Close()
		begun, release := make(chan struct{}), make(chan struct{})
		end := dialPipeAgent(t, b, ln, "endpoint", until(time.Now().Add(time.Minute), nil), slow(begun, release))
		synctest.Wait()
		route := b.Table.Lookup("endpoint")
		if route == nil {
			t.Fatal("not connected")
		}
		result := make(chan error, 1)
		go func() {
			_, err := do(route.Locals[0].Upstream(), http.MethodGet, "")
			result <- err
		}()
		<-begun
		time.Sleep(time.Minute + leeway + 10*time.Second)
		if b.Table.Lookup("endpoint") != nil {
			t.Error("in the table")
		}
		select {
		case err := <-end:
			t.Fatalf("ended with a request in flight: %v", err)
		default:
		}
		close(release)
		if err := <-result; err != nil {
			t.Errorf("the request in flight: %v", err)
		}
		time.Sleep(2 * expiryPoll)
		wantSentBack(t, "the agent", end)
	})
}

// pipeListener takes connections in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	return ours, nil
}

// dialPipeAgent connects a v0.9.0 agent in memory, and reports its end.
func dialPipeAgent(t *testing.T, b *bubble, ln *pipeListener, endpoint, token string, h http.Handler) <-chan error {
	t.Helper()
	d := websocket.Dialer{NetDialContext: ln.dial}
	ws, res, err := d.DialContext(t.Context(), "ws://node/piko/v1/upstream/"+endpoint, bearer(token))
	if err != nil {
		t.Fatalf("dial: %v (%v)", err, res)
	}
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	sess, err := yamux.Client(&byteConn{Conn: ws}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	ended := make(chan error, 1)
	b.ends.Go(func() {
		ended <- srv.Serve(sess)
		sess.Close()
		srv.Close()
	})
	return ended
}

// A fresh token that cannot be verified because the keys cannot be had ends no
// tunnel: it is verified when they can be.
func TestTokenWaitsForTheKeys(t *testing.T) {
	var there atomic.Bool
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !there.Load() {
			http.Error(w, "later", http.StatusServiceUnavailable)
			return
		}
		key := testRSA().PublicKey
		fmt.Fprintf(w, `{"keys":[{"kty":"RSA","kid":"1","n":%q,"e":"AQAB"}]}`, base64.RawURLEncoding.EncodeToString(key.N.Bytes()))
	}))
	defer keys.Close()
	guard := newGuard(t, auth.Options{Default: auth.Config{JWKS: auth.JWKS{Endpoint: keys.URL}}})
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running.Go(func() { guard.Run(ctx) })
	n := startNode(t, func(s *Server) { s.Auth, s.retry = guard, 10*time.Millisecond })

	ours, theirs := net.Pipe()
	u := newUpstream(n.Server, instance{"endpoint", ""})
	if err := n.places.take("endpoint", ""); err != nil {
		t.Fatal(err)
	}
	n.registry.add(u)
	u.join(tunnel.NewPeerSession(ours, true, u.options()))
	peer := tunnel.NewPeerSession(theirs, false, tunnel.Options{})
	defer peer.Close()
	u.onToken(signAs("RS256", testRSA(), claims(nil), object{"kid": "1"}))
	eventually(t, func() error {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.waiting == "" && u.retry.IsZero() {
			return errors.New("the token does not wait")
		}
		return nil
	})
	if n.Table.Lookup("endpoint") == nil {
		t.Error("the tunnel has to leave")
	}
	there.Store(true)
	eventually(t, func() error {
		if st, _ := u.status(); st.Expires.IsZero() {
			return errors.New("the tunnel does not live by the token")
		}
		return nil
	})
	if n.Table.Lookup("endpoint") == nil {
		t.Error("the tunnel had to leave")
	}
}

// forgetPools empties every sync.Pool, which takes two collections. The yamux package keeps timers in one, and a timer
// of a bubble must not be used outside of it.
func forgetPools() {
	runtime.GC()
	runtime.GC()
}

//go:build e2e

package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	oldKey = "the old key, which has more than 32 bytes"
	newKey = "the new key, which has more than 32 bytes"
)

// signToken makes a token by HS256 that expires then.
func signToken(t testing.TB, key string, expiry time.Time, endpoints ...string) string {
	t.Helper()
	return signClaims(t, key, map[string]any{"sub": "e2e", "exp": expiry.Unix(), "piko": map[string]any{"listen": endpoints}})
}

func signClaims(t testing.TB, key string, all map[string]any) string {
	t.Helper()
	claims, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// secretFile is a file that a test rewrites as a whole.
type secretFile string

func newSecretFile(t testing.TB, name, text string) secretFile {
	t.Helper()
	f := secretFile(filepath.Join(t.TempDir(), name))
	f.write(t, text)
	return f
}

func (f secretFile) write(t testing.TB, text string) {
	t.Helper()
	next := string(f) + ".next"
	if err := os.WriteFile(next, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, string(f)); err != nil {
		t.Fatal(err)
	}
}

// TestKeysAndTokensRotateUnderLoad replaces the key of the tokens and the agent's token while
// 200 requests a second pass. The tunnel outlives the token that opened it, and none fails.
func TestKeysAndTokensRotateUnderLoad(t *testing.T) {
	t.Parallel()
	keys := newSecretFile(t, "keys", oldKey)
	s := startServer(t, "--upstream.auth.hmac-secret-key-file", string(keys), "--upstream.auth.require-expiry", "--log.subsystems", "upstream")
	o := startOrigin(t, "o")
	// Nodes take tokens for 30 s after they have expired.
	end := time.Now().Add(13 * time.Second)
	first := signToken(t, oldKey, end.Add(-30*time.Second), "e")
	token := newSecretFile(t, "token", first)
	agent := s.agent(t, "e", o.addr, "--connect.token-file", string(token))

	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	load := startLoad(s, "e", 8, func(int) exchange {
		<-pace.C
		return exchange{method: "GET", target: "/", limit: 10 * time.Second}
	})
	load.waitMore(t, 100)
	reload := func(text string) {
		applied := len(s.grep(`"configuration reloaded"`, "upstream.auth"))
		keys.write(t, text)
		s.signal(t, syscall.SIGHUP)
		eventually(t, 10*time.Second, "the keys are taken over", func() error {
			if len(s.grep(`"configuration reloaded"`, "upstream.auth")) == applied {
				return errors.New("not yet")
			}
			return nil
		})
	}
	reload(oldKey + "\n" + newKey)
	second := signToken(t, newKey, time.Now().Add(time.Hour), "e")
	token.write(t, second)
	agent.waitLog(t, "the agent has sent its new token", `"fresh token sent"`)
	s.waitLog(t, "the node lives by it", `"upstream has a fresh token"`)
	reload(newKey)
	if left := time.Until(end); left <= 0 {
		t.Fatalf("the machine is too slow: the first token has expired %v ago", -left)
	}
	eventually(t, 30*time.Second, "the first token has expired", func() error {
		if left := time.Until(end.Add(2 * time.Second)); left > 0 {
			return fmt.Errorf("it has %v", left)
		}
		return nil
	})
	load.waitMore(t, 100)
	load.end(t)
	if lines := s.grep(`"upstream disconnected"`); len(lines) > 0 {
		t.Errorf("the tunnel has ended: %s", lines[0])
	}
	agent.stop(t, 10*time.Second)
	agent = s.agent(t, "e", o.addr, "--connect.token-command", fmt.Sprintf("cat %s | tr -d ' '", token))
	agent.stop(t, 10*time.Second)
	for name, out := range map[string]string{"node": s.readOutput(), "agent": agent.readOutput()} {
		for _, secret := range []string{oldKey, newKey, first, second, strings.Split(second, ".")[2]} {
			if strings.Contains(out, secret) {
				t.Errorf("the log of the %s has %q", name, secret)
			}
		}
	}
}

// TestAgentWhoseTokenIsRefusedAtFirst gives up at once if its token cannot change, and waits
// for a better one if that may come.
func TestAgentWhoseTokenIsRefusedAtFirst(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--upstream.auth.hmac-secret-key", newKey)
	o := startOrigin(t, "o")
	bad, good := signToken(t, oldKey, time.Now().Add(time.Hour), "e"), signToken(t, newKey, time.Now().Add(time.Hour), "e")
	for name, args := range map[string][]string{"no token": nil, "a bad token": {"--connect.token", bad}} {
		r := run(t, 10*time.Second, nil, pikoBinary, append([]string{"agent", "http", "e", o.addr, "--connect.url", "http://" + s.upstream}, args...)...)
		if r.code != 1 || !strings.Contains(r.stderr, "401 Unauthorized") || strings.Contains(r.stderr, bad) {
			t.Errorf("%s: status %d\n%s", name, r.code, r.stderr)
		}
	}
	token := newSecretFile(t, "token", bad)
	agent := start(t, "agent", nil, pikoBinary, "agent", "http", "e", o.addr, "--connect.url", "http://"+s.upstream, "--connect.token-file", string(token))
	agent.waitLog(t, "the token is refused", "401 Unauthorized")
	token.write(t, good)
	s.waitUpstreams(t, "e", 1, 20*time.Second)
	wantCurl(t, "o", "-H", to("e"), s.url("/"))
}

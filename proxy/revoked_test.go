package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"piko/auth"
)

// keyNext is the key that is accepted in the place of keyAll.
var keyNext = strings.Repeat("next", 8)

// takeBack lets half an hour pass, and takes the key away by which the bubble's token was made.
func (b *bubble) takeBack() {
	b.t.Helper()
	time.Sleep(hour / 2)
	commit, err := b.guard.Prepare(auth.Options{Default: auth.Config{HMACSecretKeys: []string{keyNext}}})
	if err != nil {
		b.t.Fatal(err)
	}
	commit()
	b.start = time.Now()
}

// soon fails the test unless it has been no longer than a look takes.
func (b *bubble) soon(what string) {
	b.t.Helper()
	if took := time.Since(b.start); took > lifeCheck+lapseGrace {
		b.t.Errorf("%s after %v", what, took)
	}
}

// counted fails the test unless so many requests have ended with their token.
func (b *bubble) counted(want int) {
	b.t.Helper()
	synctest.Wait()
	if got := text(b.t, b.reg); !strings.Contains(got, fmt.Sprintf("piko_proxy_token_expiries_total %d\n", want)) {
		b.t.Errorf("the metrics do not have %d: %s", want, got)
	}
	log := strings.Join(b.out.take(), "")
	if n := strings.Count(log, "it was taken back while it was in use"); n != want {
		b.t.Errorf("the log has %d: %s", n, log)
	}
	if strings.Contains(log, b.token) {
		b.t.Error("the log has the token")
	}
}

// When a key is taken away, what goes on by its tokens ends as it does when they expire, soon, whether they expire or not.
func TestKeyThatIsTakenAwayEndsWhatGoesOn(t *testing.T) {
	const webSocketFields = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
	for _, test := range []struct {
		name   string
		serve  func(net.Conn, *bufio.Reader) string
		fields string
		status int
	}{
		{"waits", swallow, "", 401},
		{"stream", events, "", 200},
		{"WebSocket", upgraded("websocket"), webSocketFields, 101},
	} {
		for name, cfg := range map[string]auth.Config{"": {}, "/disable-disconnect-on-expiry": {DisableDisconnectOnExpiry: true}} {
			for kind, claims := range map[string]string{"": "", "/no exp": "no"} {
				t.Run(test.name+name+kind, func(t *testing.T) {
					inHour(t, cfg, test.serve, func(b *bubble) {
						if claims == "no" {
							b.token = mint(keyAll, nil)
						}
						c, r := b.ask(bearer(b.token)+test.fields, "")
						defer c.Close()
						if test.status == 401 {
							b.takeBack()
						}
						res, err := http.ReadResponse(r, nil)
						if err != nil || res.StatusCode != test.status {
							t.Fatalf("got %+v, %v", res, err)
						}
						if code := res.Header.Get("X-Piko-Error"); (test.status == 401) != (code == "invalid-token") {
							t.Errorf("the code is %q", code)
						}
						if test.status != 401 {
							b.takeBack()
							io.ReadAll(r)
						}
						b.soon("it ended")
						<-b.ended
						b.counted(1)
					})
				})
			}
		}
	}
}

func TestKeyThatIsTakenAwayEndsTCP(t *testing.T) {
	inHour(t, auth.Config{}, swallow, func(b *bubble) {
		c, err := b.ln.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b.write(c, "GET /_piko/v1/tcp/e HTTP/1.1\r\nHost: h\r\n"+webSocket+bearer(b.token)+"\r\n")
		r := bufio.NewReader(c)
		if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 101 {
			t.Fatalf("got %+v, %v", res, err)
		}
		b.takeBack()
		io.ReadAll(r)
		b.soon("the connection ended")
		<-b.ended
		b.counted(1)
	})
}

func TestKeyThatIsTakenAwayEndsGRPC(t *testing.T) {
	inHour(t, auth.Config{}, swallow, func(b *bubble) {
		tr := b.transport()
		defer tr.CloseIdleConnections()
		status := make(chan string)
		go func() {
			res, err := tr.RoundTrip(b.request("POST", nil, "Content-Type", "application/grpc", "TE", "trailers"))
			if err != nil {
				status <- err.Error()
				return
			}
			res.Body.Close()
			status <- res.Header.Get("Grpc-Status")
		}()
		b.takeBack()
		if got := <-status; got != "16" {
			t.Errorf("the status is %q", got)
		}
		b.soon("the call ended")
		<-b.ended
		b.counted(1)
	})
}

// What goes on by another key does so, and a reload that takes no key away ends nothing.
func TestKeysThatStayEndNothing(t *testing.T) {
	inHour(t, auth.Config{}, events, func(b *bubble) {
		c, r := b.ask(bearer(b.token), "")
		defer c.Close()
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			commit, err := b.guard.Prepare(auth.Options{Default: auth.Config{HMACSecretKeys: []string{keyNext, keyAll}}})
			if err != nil {
				t.Fatal(err)
			}
			commit()
			time.Sleep(hour / 4)
		}
		if _, err := io.ReadFull(res.Body, make([]byte, 3*5)); err != nil {
			t.Error(err)
		}
		c.Close()
		<-b.ended
		b.counted(0)
	})
}

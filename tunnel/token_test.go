package tunnel

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

var withTokens = []string{FeatureControl, FeatureToken}

// tokenSessions connect an upstream to a node that keeps the tokens that it gets.
func tokenSessions(t *testing.T, features []string) (s *sessions, got chan string) {
	got = make(chan string, 1000)
	return memSessions(t, features, func(node bool, o *Options) {
		o.Events.Token = func(token string) {
			if !node {
				t.Error("an upstream was given a token")
			}
			got <- token
		}
	}), got
}

// rawControl waits for the stream on which a session speaks.
func rawControl(s *Session) *Stream {
	for !s.ctl.opened() {
		time.Sleep(time.Millisecond)
	}
	s.ctl.mu.Lock()
	defer s.ctl.mu.Unlock()
	return s.ctl.stream
}

func TestTokenArrives(t *testing.T) {
	within(t, func(t *testing.T) {
		s, got := tokenSessions(t, withTokens)
		for _, token := range []string{"short", strings.Repeat("x", MaxToken), strings.Repeat("a.b-_~+/=", 100)} {
			if err := s.up.SendToken(token); err != nil {
				t.Fatal(err)
			}
			if arrived := <-got; arrived != token {
				t.Errorf("a token of %d bytes arrived with %d", len(token), len(arrived))
			}
			if err := s.up.Weight(3); err != nil { // the stream goes on
				t.Fatal(err)
			}
		}
		if err := s.node.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestTokenThatIsTooLongIsNotSent(t *testing.T) {
	within(t, func(t *testing.T) {
		s, got := tokenSessions(t, withTokens)
		for _, token := range []string{strings.Repeat("x", MaxToken+1), strings.Repeat("<", MaxToken)} {
			if err := s.up.SendToken(token); err == nil {
				t.Errorf("a token of %d bytes was sent", len(token))
			}
		}
		time.Sleep(time.Second)
		if len(got) > 0 || s.node.Err() != nil {
			t.Errorf("%d arrived, %v", len(got), s.node.Err())
		}
	})
}

// Whoever does not know of tokens is sent none, and one that comes all the same
// is a message as others that are not known.
func TestTokenWithoutTheFeatureIsNothing(t *testing.T) {
	for name, features := range map[string][]string{"v0.9.0": nil, "control alone": withControl} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				s, got := tokenSessions(t, features)
				if err := s.up.SendToken("secret"); !errors.Is(err, ErrNoToken) {
					t.Errorf("sent: %v", err)
				}
				if s.up.HasControl() {
					s.up.ctl.send(message{Type: typeToken, Token: "secret"})
				}
				time.Sleep(time.Second)
				if len(got) > 0 || s.node.Err() != nil {
					t.Errorf("%d arrived, %v", len(got), s.node.Err())
				}
			})
		})
	}
}

// The tunnel ends before more than a token's length is held.
func TestTokenThatIsTooLongEndsTheTunnel(t *testing.T) {
	const huge = 1 << 20
	for name, line := range map[string]string{
		"token":                              `{"type":"token","token":"` + strings.Repeat("x", huge) + `"}`,
		"what becomes no token":              `{"type":"token","type":"drain","reason":"` + strings.Repeat("x", MaxToken-100) + `"}`,
		"a message that only holds a token":  `{"token":"` + strings.Repeat("x", MaxToken) + `"}`,
		"space before the token's beginning": strings.Repeat(" ", maxControlLine) + `{"type":"token","token":"x"}`,
		"garbage behind its beginning":       `{"type":"token",` + strings.Repeat("\x00", MaxToken-100),
		"an end that is missing":             `{"type":"token","token":"x`,
		"a token that is a number":           `{"type":"token","token":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				s, got := tokenSessions(t, withTokens)
				st := rawControl(s.up)
				_ = st.SetWriteDeadline(time.Now().Add(time.Second))
				_, _ = st.Write([]byte(line + "\n"))
				bad := &ProtocolError{}
				wantEnd(t, name, s.node, nil, 0, 2*time.Second)
				if !errors.As(s.node.Err(), &bad) || len(got) > 0 {
					t.Errorf("ended with %v after %d tokens", s.node.Err(), len(got))
				}
			})
		})
	}
}

// A peer that sends tokens without end is read slowly.
func TestTokensAreTakenSlowly(t *testing.T) {
	within(t, func(t *testing.T) {
		s, got := tokenSessions(t, withTokens)
		flood := bytes.Repeat([]byte(`{"type":"token","token":"x"}`+"\n"), 200)
		if _, err := rawControl(s.up).Write(flood); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Second + time.Millisecond)
		if n := len(got); n < 50 || n > 101 {
			t.Errorf("%d tokens in 10 s", n)
		}
		s.node.Close() // does not wait for them
	})
}

func TestLineOfAToken(t *testing.T) {
	token := string(appendMessage(nil, message{Type: typeToken, Token: strings.Repeat("x", MaxToken)}))
	for _, n := range []int{1, 2, 15, 16, 17, 128, 4096, 4097, 1 << 20} {
		r := lineReader{tokens: true}
		got, err := feedAll(&r, []byte("{}\n"+token+"{}\n"), n)
		if err != nil || !slices.Equal(got, []string{"{}", token[:len(token)-1], "{}"}) {
			t.Errorf("in pieces of %d: %d lines, %v", n, len(got), err)
		}
		r = lineReader{}
		if _, err := feedAll(&r, []byte(token), n); !errors.Is(err, errLineTooLong) {
			t.Errorf("in pieces of %d, for one who takes none: %v", n, err)
		}
	}
}

func FuzzTokenLine(f *testing.F) {
	f.Add([]byte(tokenStart+`"token":"x"}`+"\n"), 7)
	f.Add([]byte(tokenStart+strings.Repeat("y", MaxToken)), 128)
	f.Add([]byte(tokenStart+`"type":"drain","reason":"`+strings.Repeat("y", MaxToken-200)+`"}`+"\n"), 100)
	f.Add(bytes.Repeat([]byte(" "), maxTokenLine+1), 64)
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		r := lineReader{tokens: true}
		lines, _ := feedAll(&r, in, min(max(n, 1), 512))
		for _, line := range append(lines, string(r.part)) {
			if len(line) > maxTokenLine || len(line) > maxControlLine && !strings.HasPrefix(line, tokenStart) {
				t.Fatalf("a line of %d bytes: %.40q", len(line), line)
			}
			if m, err := parseMessage([]byte(line)); err == nil && m.Type != typeToken && len(line) > maxControlLine {
				t.Fatalf("%q has %d bytes", m.Type, len(line))
			}
		}
	})
}

//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// rawTalk is a conversation of a client with a service, both at the level of bytes. It is held
// directly, through one node and across two, and what both sides saw must be the same each
// time, but for what normalize takes away.
type rawTalk struct {
	name   string
	client func(c *talker)
	// service gets each request when its head was read. What it says is whether the
	// connection can carry another.
	service func(e *served) (keep bool)
	// instead, if set, is the beginning of what the client is to see through piko: a
	// difference.
	instead string
}

// transcript is what one side saw.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

func (t *transcript) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(&t.text, format+"\n", args...)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// talker is the client.
type talker struct {
	*rawConn
	saw *transcript
	met chan struct{} // to be closed by one side, for the other to wait for
}

// take reads n bytes.
func (c *talker) take(n int) []byte {
	p := make([]byte, n)
	n, _ = io.ReadFull(c.r, p)
	return p[:n]
}

// begin reads the head of a response and those before it, and returns its body.
func (c *talker) begin(method string) *bodyReader {
	for {
		m, err := readMessage(c.r)
		if err != nil {
			c.saw.note("no response")
			return &bodyReader{r: bufio.NewReader(strings.NewReader("")), saw: c.saw}
		}
		code := strings.Fields(m.start)[1]
		m.body = method != "HEAD" && code != "204" && code != "304" && code[0] != '1'
		c.saw.note("response %s", m.normalized())
		if code[0] != '1' || code == "101" {
			return newBodyReader(m, c.r, c.saw)
		}
	}
}

// interim reads one head and no more.
func (c *talker) interim() {
	m, err := readMessage(c.r)
	if err != nil {
		c.saw.note("no response")
		return
	}
	c.saw.note("response %s", m.normalized())
}

func (c *talker) response(method string) { c.begin(method).rest() }

// served is one request at the service.
type served struct {
	*rawConn
	*message
	saw *transcript
	met chan struct{}
}

func (e *served) body() *bodyReader { return newBodyReader(e.message, e.r, e.saw) }

// talkHeader says which conversation a request belongs to.
const talkHeader = "X-Talk"

// talkService holds the service's part of all conversations.
type talkService struct {
	t    testing.TB
	addr string

	// Static after construction, by name.
	saw       map[string]*transcript
	done, met map[string]chan struct{} // done gets one for each request
}

func startTalkService(t testing.TB, talks []rawTalk) *talkService {
	s := &talkService{t: t, saw: map[string]*transcript{}, done: map[string]chan struct{}{}, met: map[string]chan struct{}{}}
	byName := map[string]rawTalk{}
	for _, k := range talks {
		byName[k.name] = k
		s.saw[k.name], s.done[k.name], s.met[k.name] = new(transcript), make(chan struct{}, 100), make(chan struct{})
	}
	s.addr = rawService(t, func(c *rawConn) {
		for keep := true; keep; {
			m, err := readMessage(c.r)
			if err != nil || m.start == "PRI * HTTP/2.0" { // an agent's probe has a connection of its own
				return
			}
			k := byName[m.get(talkHeader)]
			if k.service == nil {
				t.Errorf("a request of no conversation: %s", m.start)
				return
			}
			saw := s.saw[k.name]
			saw.note("request %s", m.normalized())
			keep = k.service(&served{c, m, saw, s.met[k.name]})
			s.done[k.name] <- struct{}{}
		}
	})
	return s
}

// hold holds a conversation over a connection to addr, and returns what both sides saw.
func (s *talkService) hold(k rawTalk, addr string) (client, service string) {
	c := &talker{dialRaw(s.t, addr), new(transcript), s.met[k.name]}
	defer c.Close()
	k.client(c)
	c.Close()
	if k.instead == "" {
		select {
		case <-s.done[k.name]:
		case <-time.After(20 * time.Second):
			s.saw[k.name].note("the service is not done")
		}
	}
	return c.saw.String(), s.saw[k.name].String()
}

func TestTransparency(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		direct, behind := startTalkService(t, rawTalks), startTalkService(t, rawTalks)
		w.agent(t, "e", behind.addr)
		for _, k := range rawTalks {
			t.Run(k.name, func(t *testing.T) {
				t.Parallel()
				client, service := behind.hold(k, w.entry.proxy)
				if k.instead != "" {
					if !strings.HasPrefix(client, k.instead) {
						t.Errorf("the client saw\n%s\nand not\n%s", client, k.instead)
					}
					return
				}
				wantClient, wantService := direct.hold(k, direct.addr)
				if service != wantService {
					t.Errorf("the service saw directly\n%s\nand through piko\n%s", wantService, service)
				}
				if client != wantClient {
					t.Errorf("the client saw directly\n%s\nand through piko\n%s", wantClient, client)
				}
			})
		}
	})
}

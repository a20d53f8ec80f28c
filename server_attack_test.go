package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attacker is an HTTP/2 client that breaks the rules. It belongs to one
// goroutine, but for what comes back, which another one reads.
type attacker struct {
	nc   net.Conn
	fr   *http2.Framer
	enc  *hpack.Encoder
	buf  bytes.Buffer
	next uint32

	codes chan http2.ErrCode // of resets, and of the end of the connection
	ended chan struct{}      // closed when the connection has ended
}

// attack connects to the node. deaf is one who does not read what is sent.
func attack(t *testing.T, n *testNode, deaf bool) *attacker {
	t.Helper()
	nc, err := net.Dial("tcp", n.ProxyAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{nc: nc, fr: http2.NewFramer(nc, nc), next: 1, codes: make(chan http2.ErrCode, 1<<16), ended: make(chan struct{})}
	a.fr.AllowIllegalWrites = true
	a.enc = hpack.NewEncoder(&a.buf)
	a.enc.SetMaxDynamicTableSize(4096)
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(nc, http2.ClientPreface)
	a.fr.WriteSettings()
	if deaf {
		t.Cleanup(func() { nc.Close() })
		return a
	}
	go a.listen()
	t.Cleanup(func() {
		nc.Close()
		<-a.ended
	})
	return a
}

func (a *attacker) listen() {
	defer close(a.ended)
	for {
		f, err := a.fr.ReadFrame()
		if err != nil {
			return
		}
		var code http2.ErrCode
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			code = f.ErrCode
		case *http2.GoAwayFrame:
			code = f.ErrCode
		default:
			continue
		}
		select {
		case a.codes <- code:
		default:
		}
	}
}

// block is an encoded head of a request for my-endpoint, with more fields.
func (a *attacker) block(more ...hpack.HeaderField) []byte {
	a.buf.Reset()
	for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "my-endpoint.test"}, {Name: ":path", Value: "/"}}, more...) {
		a.enc.WriteField(f)
	}
	return bytes.Clone(a.buf.Bytes())
}

// open opens a stream with a head that is whole or not.
func (a *attacker) open(block []byte, whole, end bool) (id uint32, err error) {
	id = a.next
	a.next += 2
	return id, a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: whole, EndStream: end})
}

// gone waits until the node ends the connection.
func (a *attacker) gone() error {
	select {
	case <-a.ended:
		return nil
	case <-time.After(10 * time.Second):
		return errors.New("the connection goes on")
	}
}

// attacks are what one connection can try. Each must leave others served and
// the node within bounds. An error is what the node should have done.
var attacks = []struct {
	name string
	deaf bool
	run  func(a *attacker) error
}{
	{"rapid reset", false, func(a *attacker) error {
		for range 20000 { // the node ends it after a few hundred
			id, err := a.open(a.block(), true, true)
			if err != nil || a.fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				break
			}
		}
		return a.gone()
	}},
	{"resets by what the server must reset", false, func(a *attacker) error {
		for range 20000 { // MadeYouReset: a window of 0 is the client's error, while the request goes on
			id, err := a.open(a.block(), true, false)
			if err != nil || a.fr.WriteWindowUpdate(id, 0) != nil {
				break
			}
		}
		return a.gone()
	}},
	{"more streams than allowed", false, func(a *attacker) error {
		for range 4 * h2Streams {
			if _, err := a.open(a.block(), true, false); err != nil {
				return err
			}
		}
		for range 3 * h2Streams {
			if code := <-a.codes; code != http2.ErrCodeRefusedStream && code != http2.ErrCodeProtocol {
				return fmt.Errorf("a stream too many was reset with %v", code)
			}
		}
		return nil
	}},
	{"CONTINUATION without end", false, func(a *attacker) error {
		a.open(a.block(), false, false)
		a.buf.Reset()
		for i := 0; a.buf.Len() < 16000; i++ {
			a.enc.WriteField(hpack.HeaderField{Name: fmt.Sprint("x-", i), Value: strings.Repeat("v", 100), Sensitive: true})
		}
		for range 1000 { // 16 MB; the node stops at --proxy.http.max-header-bytes
			if a.fr.WriteContinuation(1, false, a.buf.Bytes()) != nil {
				break
			}
		}
		return a.gone()
	}},
	{"CONTINUATION of nothing", false, func(a *attacker) error {
		a.open(a.block(), false, false)
		for range 100000 {
			if a.fr.WriteContinuation(1, false, nil) != nil {
				return nil
			}
		}
		return nil
	}},
	{"HPACK bomb", false, func(a *attacker) error {
		// One field of 4 KB goes into the table, then each byte stands for it.
		a.open(a.block(hpack.HeaderField{Name: "x-bomb", Value: strings.Repeat("v", 3900)}), true, true)
		bomb := append(a.block(), bytes.Repeat([]byte{0xbe}, 16000)...) // 62 MB each
		for range 100 {
			if _, err := a.open(bomb, true, true); err != nil {
				return nil
			}
		}
		return nil
	}},
	{"many small headers", false, func(a *attacker) error {
		var many []hpack.HeaderField
		for i := range 3000 {
			many = append(many, hpack.HeaderField{Name: "x", Value: fmt.Sprint(i)})
		}
		for range 100 {
			block := a.block(many...)
			id, err := a.open(block[:len(block)/2], false, true)
			if err != nil || a.fr.WriteContinuation(id, true, block[len(block)/2:]) != nil {
				return nil
			}
		}
		return nil
	}},
	{"SETTINGS", true, func(a *attacker) error {
		for range 200000 {
			if a.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) != nil {
				return nil
			}
		}
		return nil
	}},
	{"PING", true, func(a *attacker) error {
		for range 200000 {
			if a.fr.WritePing(false, [8]byte{}) != nil {
				return nil
			}
		}
		return nil
	}},
	{"DATA of nothing", false, func(a *attacker) error {
		id, _ := a.open(a.block(), true, false)
		for range 100000 {
			if a.fr.WriteData(id, false, nil) != nil {
				return nil
			}
		}
		return nil
	}},
	{"fields without a name", false, func(a *attacker) error {
		for range 1000 {
			if _, err := a.open(a.block(hpack.HeaderField{Value: "v"}, hpack.HeaderField{}), true, true); err != nil {
				break
			}
		}
		return nil
	}},
	{"unknown frames", false, func(a *attacker) error {
		for i := range 100000 {
			if a.fr.WriteRawFrame(http2.FrameType(0x0a+i%6), 0xff, uint32(i), []byte("x")) != nil {
				return nil
			}
		}
		return nil
	}},
	{"PRIORITY", false, func(a *attacker) error {
		for i := range 100000 {
			if a.fr.WritePriority(uint32(2*i+1), http2.PriorityParam{StreamDep: uint32(2*i + 3)}) != nil {
				return nil
			}
		}
		return nil
	}},
}

// breaches are frames at which the node ends the connection.
var breaches = map[string]func(a *attacker){
	"a window beyond the largest": func(a *attacker) { a.fr.WriteWindowUpdate(0, 1<<31-1) },
	"a window update of nothing":  func(a *attacker) { a.fr.WriteWindowUpdate(0, 0) },
	"frames of 0 bytes":           func(a *attacker) { a.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0}) },
	"a promise of a client": func(a *attacker) {
		id, _ := a.open(a.block(), true, false)
		a.fr.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, BlockFragment: a.block(), EndHeaders: true})
	},
}

// Whatever one connection does, others are served, and what the node holds for
// it is bounded.
func TestHTTP2AttacksHarmNobodyElse(t *testing.T) {
	const (
		maxHeap       = 192 << 20
		maxGoroutines = 12 * h2Streams // a request has some, here also at the agent and the service
	)
	n := startNode(t, func(cfg *serverConfig) { cfg.Proxy.AccessLog.Disable, cfg.Proxy.HTTP.MaxResets = true, 20 })
	service := testService(t)
	startAgent(t, n, "my-endpoint", service.URL)
	startAgent(t, n, "other-endpoint", service.URL)
	victim := newClient(t)
	for _, tt := range attacks {
		t.Run(tt.name, func(t *testing.T) {
			runtime.GC()
			a := attack(t, n, tt.deaf)
			over := make(chan error, 1)
			go func() { over <- tt.run(a) }()
			for served, last := 0, false; !last; served++ {
				select {
				case err := <-over:
					if last = true; err != nil {
						t.Error(err)
					}
				default:
				}
				if status, _, _ := get(t, victim, "http://"+n.ProxyAddr().String()+"/", "x-piko-endpoint", "other-endpoint"); status != http.StatusOK {
					t.Errorf("another client got %d after %d requests", status, served)
				}
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				if m.HeapAlloc > maxHeap || runtime.NumGoroutine() > maxGoroutines {
					t.Fatalf("heap of %d MB, %d goroutines", m.HeapAlloc>>20, runtime.NumGoroutine())
				}
			}
		})
	}
	t.Run("breaches", func(t *testing.T) {
		for name, breach := range breaches {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // net/http takes its time, for the client to read why
				a := attack(t, n, false)
				breach(a)
				if err := a.gone(); err != nil {
					t.Error(err)
				}
			})
		}
	})
	eventually(t, func() error {
		if left := n.gate.inFlight.count(); left > 0 {
			return fmt.Errorf("%d requests are left", left)
		}
		return nil
	})
}

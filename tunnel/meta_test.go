package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var withMeta = []string{FeatureControl, FeatureMeta}

func TestClientAddrTravelsWithTheStream(t *testing.T) {
	for _, addr := range []string{"192.0.2.7:5432", "[2001:db8::1]:65535", "[::ffff:192.0.2.7]:1", ""} {
		t.Run(addr, func(t *testing.T) {
			within(t, func(t *testing.T) {
				s := memSessions(t, withMeta, nil)
				ctx := t.Context()
				var want netip.AddrPort
				if addr != "" {
					want = netip.MustParseAddrPort(addr)
					ctx = WithClientAddr(ctx, want)
				}
				st, err := s.node.Open(ctx)
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(st, "first bytes")
				got, err := s.up.Accept()
				if err != nil {
					t.Fatal(err)
				}
				if got.ClientAddr() != want {
					t.Errorf("the upstream knows %v", got.ClientAddr())
				}
				if a, ok := got.RemoteAddr().(*net.TCPAddr); ok != want.IsValid() || ok && a.AddrPort() != want {
					t.Errorf("RemoteAddr is %v", got.RemoteAddr())
				}
				b := make([]byte, 11)
				if _, err := io.ReadFull(got, b); err != nil || string(b) != "first bytes" {
					t.Errorf("read %q, %v", b, err)
				}
				// Both ways work, for as much as the windows let through.
				go func() {
					st.Write(make([]byte, 2<<20))
					st.CloseWrite()
				}()
				if n, err := io.Copy(io.Discard, got); n != 2<<20 || err != nil {
					t.Errorf("read %d bytes, %v", n, err)
				}
			})
		})
	}
}

func TestClientAddrIsLostOnPeersWithoutMeta(t *testing.T) {
	for name, features := range map[string][]string{"v0.9.0": nil, "control": withControl, "meta without control": {FeatureMeta}} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				s := memSessions(t, features, nil)
				st, err := s.node.Open(WithClientAddr(t.Context(), netip.MustParseAddrPort("192.0.2.7:1")))
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(st, "x")
				st.CloseWrite()
				got, err := s.up.Accept()
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(got); string(b) != "x" || err != nil || got.ClientAddr().IsValid() {
					t.Errorf("read %q, %v; client %v", b, err, got.ClientAddr())
				}
			})
		})
	}
}

// metaUpstream is an upstream's mux that knows the feature, and a scripted node.
func metaUpstream(t *testing.T, opt muxOptions) (*runningMux, *rawPeer) {
	opt.meta = true
	return rawMux(t, false, opt)
}

// Frames of a scripted node.
func syn(id uint32) []byte { return frames(muxFrame{kind: kindWindow, flags: flagSYN, id: id}) }
func fin(id uint32) []byte { return frames(muxFrame{kind: kindWindow, flags: flagFIN, id: id}) }
func rst(id uint32) []byte { return frames(muxFrame{kind: kindWindow, flags: flagRST, id: id}) }

func data(id uint32, body []byte) []byte { return appendData(nil, id, body) }

func (p *rawPeer) write(frames ...[]byte) { p.Write(slices.Concat(frames...)) }

// wantReset waits until the mux has reset a stream.
func (p *rawPeer) wantReset(id uint32) {
	p.t.Helper()
	p.want(muxFrame{kind: kindWindow, flags: flagRST, id: id})
}

// A stream whose preamble has not come is no reason to wait for others.
func TestAcceptDoesNotWaitForASlowPreamble(t *testing.T) {
	m, peer := metaUpstream(t, muxOptions{})
	slow := appendMeta(nil, netip.MustParseAddrPort("192.0.2.7:1"))
	peer.write(syn(2), data(2, slow[:5]), syn(4), data(4, []byte{0, 'y'}))
	st, err := m.accept()
	if err != nil || st.ID() != 4 {
		t.Fatalf("accepted %v, %v", st, err)
	}
	for _, b := range slow[5:] {
		peer.write(data(2, []byte{b}))
	}
	peer.write(data(2, []byte("x")))
	if st, err = m.accept(); err != nil || st.ID() != 2 || st.ClientAddr().String() != "192.0.2.7:1" {
		t.Fatalf("accepted %v, %v", st, err)
	}
	b := make([]byte, 2)
	if n, err := st.Read(b); string(b[:n]) != "x" || err != nil {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

func TestMalformedPreambleResetsTheStream(t *testing.T) {
	for name, frames := range map[string][][]byte{
		"too long":               {syn(2), data(2, []byte{65})},
		"no address":             {syn(2), data(2, []byte("\x04\x01abc"))},
		"no port":                {syn(2), data(2, []byte("\x0a\x01192.0.2.7"))},
		"none at all":            {syn(2), fin(2)},
		"an end within":          {syn(2), data(2, []byte{9, 1}), fin(2)},
		"an end with the length": {syn(2), append(muxFrame{kind: kindData, flags: flagFIN, id: 2, length: 1}.append(nil), 3)},
	} {
		t.Run(name, func(t *testing.T) {
			m, peer := metaUpstream(t, muxOptions{})
			peer.write(append(frames, syn(4), data(4, []byte{0}))...)
			if st, err := m.accept(); err != nil || st.ID() != 4 {
				t.Fatalf("accepted %v, %v", st, err)
			}
			peer.wantReset(2)
			if n := m.numStreams(); n != 1 {
				t.Errorf("%d streams are left", n)
			}
		})
	}
}

func TestPreambleOfAnUnknownKindIsSkipped(t *testing.T) {
	m, peer := metaUpstream(t, muxOptions{})
	peer.write(syn(2), data(2, []byte("\x03\x07??rest")))
	st, err := m.accept()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, _ := st.Read(b); string(b[:n]) != "rest" || st.ClientAddr().IsValid() {
		t.Errorf("read %q, client %v", b[:n], st.ClientAddr())
	}
}

func TestStreamsWithoutPreambleAreBoundedInNumber(t *testing.T) {
	m, peer := metaUpstream(t, muxOptions{allowPeerStreams: 3})
	peer.write(syn(2), syn(4), syn(6), syn(8))
	peer.wantReset(8)
	peer.write(rst(4), syn(10), data(10, []byte{0}))
	if st, err := m.accept(); err != nil || st.ID() != 10 {
		t.Fatalf("accepted %v, %v", st, err)
	}
}

func TestStreamsWithoutPreambleAreBoundedInTime(t *testing.T) {
	within(t, func(t *testing.T) {
		a, b := memPair()
		up := startSession(newCarrier(a, nil, true), false, Peer{Features: withMeta}, Options{})
		defer up.Close()
		node := startMux(t, newCarrier(b, nil, false), true, muxOptions{allowPeerStreams: 1})
		st, err := node.open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		<-st.Done()
		if d := time.Since(start); d < lingerTime || d > 2*lingerTime {
			t.Errorf("the stream was there for %v", d)
		}
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, ErrRefused) {
			t.Errorf("Read: %v", err)
		}
		if n := up.NumStreams(); n != 0 {
			t.Errorf("%d streams are left", n)
		}
	})
}

// Streams that the node opened before it knew that we accept no more are
// handed out, although their preamble comes late.
func TestStopAcceptingWaitsForPreambles(t *testing.T) {
	m, peer := metaUpstream(t, muxOptions{})
	peer.write(syn(2))
	eventually(t, func() error {
		if m.numStreams() != 1 {
			return errors.New("the SYN has not arrived")
		}
		return nil
	})
	m.stopAccepting()
	peer.write(data(2, []byte{0}))
	if st, err := m.accept(); err != nil || st.ID() != 2 {
		t.Fatalf("accepted %v, %v", st, err)
	}
	if _, err := m.accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
}

func TestStreamDone(t *testing.T) {
	for name, end := range map[string]func(s *sessions, here, there *Stream){
		"reset by the peer": func(_ *sessions, _, there *Stream) { there.Reset() },
		"reset here":        func(_ *sessions, here, _ *Stream) { here.Reset() },
		"closed here":       func(_ *sessions, here, _ *Stream) { here.Close() },
		"end of the session": func(s *sessions, _, _ *Stream) {
			s.a.vanish()
		},
	} {
		for _, early := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				within(t, func(t *testing.T) {
					s := memSessions(t, withMeta, nil)
					here, err := s.node.Open(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					there, err := s.up.Accept()
					if err != nil {
						t.Fatal(err)
					}
					if early {
						select {
						case <-here.Done():
							t.Fatal("the stream works")
						default:
						}
					}
					there.CloseWrite()
					end(s, here, there)
					if !early {
						time.Sleep(time.Minute)
					}
					<-here.Done()
				})
			})
		}
	}
}

func FuzzMeta(f *testing.F) {
	f.Add([]byte{0})
	f.Add(appendMeta(nil, netip.MustParseAddrPort("192.0.2.7:5432")))
	f.Add(appendMeta(nil, netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:65535")))
	f.Add([]byte(strings.Repeat("\x40\x01", 40)))
	f.Fuzz(func(t *testing.T, b []byte) {
		client, size, err := parseMeta(b)
		if size < 0 || size > len(b) || size > 1+maxMeta || err != nil && size != 0 {
			t.Fatalf("size %d, %v", size, err)
		}
		for cut := range size {
			if _, n, err := parseMeta(b[:cut]); n != 0 || err != nil {
				t.Fatalf("cut to %d bytes: %d, %v", cut, n, err)
			}
		}
		if !client.IsValid() || client.Addr().Zone() != "" {
			return
		}
		again, _, err := parseMeta(appendMeta(nil, client))
		if again != client || err != nil {
			t.Fatalf("%v came back as %v, %v", client, again, err)
		}
	})
}

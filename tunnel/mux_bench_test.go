package tunnel

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/hashicorp/yamux"
)

// fastConn is bareConn that leaves the bytes as they are.
type fastConn struct{ net.Conn }

func (c fastConn) writeMessage(b []byte) error {
	_, err := c.Write(b[headroom:])
	return err
}

func (c fastConn) close(uint16, string) { c.Close() }

// benchMux gives benchmarks streams of either implementation, and for
// comparison TCP connections, one for each stream.
type benchMux struct {
	name  string
	pairs func(b *testing.B, n int) (near, far []net.Conn)
}

var benchMuxes = []benchMux{
	{"tcp", func(b *testing.B, n int) (near, far []net.Conn) {
		for range n {
			s, t := tcpPair(b)
			near, far = append(near, s), append(far, t)
		}
		return near, far
	}},
	{"carrier", func(b *testing.B, n int) (near, far []net.Conn) {
		x, y := tcpPair(b)
		node := startMux(b, newCarrier(x, nil, false), true, muxOptions{window: 256 << 10})
		up := startMux(b, newCarrier(y, nil, true), false, muxOptions{window: 256 << 10})
		for range n {
			s, t := streamPair(b, node, up)
			near, far = append(near, s), append(far, t)
		}
		return near, far
	}},
	{"ours", func(b *testing.B, n int) (near, far []net.Conn) {
		x, y := tcpPair(b)
		node := startMux(b, fastConn{x}, true, muxOptions{window: 256 << 10})
		up := startMux(b, fastConn{y}, false, muxOptions{window: 256 << 10})
		for range n {
			s, t := streamPair(b, node, up)
			near, far = append(near, s), append(far, t)
		}
		return near, far
	}},
	{"hashicorp", func(b *testing.B, n int) (near, far []net.Conn) {
		x, y := tcpPair(b)
		node, err := yamux.Server(x, quietYamux())
		if err != nil {
			b.Fatal(err)
		}
		up, err := yamux.Client(y, quietYamux())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { node.Close(); up.Close() })
		for range n {
			s, err := node.OpenStream()
			if err != nil {
				b.Fatal(err)
			}
			t, err := up.AcceptStream()
			if err != nil {
				b.Fatal(err)
			}
			near, far = append(near, s), append(far, t)
		}
		return near, far
	}},
}

// BenchmarkStreamPingPong is a request and an answer of 13 bytes each.
func BenchmarkStreamPingPong(b *testing.B) {
	for _, streams := range []int{1, 64} {
		for _, m := range benchMuxes {
			b.Run(fmt.Sprintf("streams=%d/%s", streams, m.name), func(b *testing.B) {
				near, far := m.pairs(b, streams)
				var wg sync.WaitGroup
				for _, c := range far {
					wg.Go(func() { echo13(c) })
				}
				b.ReportAllocs()
				b.ResetTimer()
				var callers sync.WaitGroup
				for i, c := range near {
					n := b.N / streams
					if i < b.N%streams {
						n++
					}
					callers.Go(func() {
						buf := make([]byte, 13)
						for range n {
							if _, err := c.Write(buf); err != nil {
								b.Error(err)
								return
							}
							if _, err := io.ReadFull(c, buf); err != nil {
								b.Error(err)
								return
							}
						}
						c.Close()
					})
				}
				callers.Wait()
				b.StopTimer()
				wg.Wait()
			})
		}
	}
}

func echo13(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 13)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// BenchmarkStreamBulk is writes of 32 KiB.
func BenchmarkStreamBulk(b *testing.B) {
	const size = 32 << 10
	for _, streams := range []int{1, 8} {
		for _, m := range benchMuxes {
			b.Run(fmt.Sprintf("streams=%d/%s", streams, m.name), func(b *testing.B) {
				near, far := m.pairs(b, streams)
				var wg sync.WaitGroup
				for _, c := range far {
					wg.Go(func() {
						defer c.Close()
						buf := make([]byte, size)
						for {
							if _, err := c.Read(buf); err != nil {
								return
							}
						}
					})
				}
				b.SetBytes(size)
				b.ReportAllocs()
				b.ResetTimer()
				for i, c := range near {
					n := b.N / streams
					if i < b.N%streams {
						n++
					}
					wg.Go(func() {
						defer c.Close()
						buf := make([]byte, size)
						for range n {
							if _, err := c.Write(buf); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// BenchmarkIdleMux reports what a mux holds that has nothing to do: after its
// start, and after an exchange on a stream that is kept.
func BenchmarkIdleMux(b *testing.B) {
	const muxes = 10_000
	for _, used := range []bool{false, true} {
		b.Run(fmt.Sprintf("used=%v", used), func(b *testing.B) {
			for b.Loop() {
				heap, stack := memoryOf(func() (stop func()) { return idleMuxes(b, muxes, used) })
				b.ReportMetric(float64(heap)/muxes, "heap-B/mux")
				b.ReportMetric(float64(stack)/muxes, "stack-B/mux")
			}
		})
	}
}

// idleMuxes starts muxes whose peers say nothing any more.
func idleMuxes(tb testing.TB, n int, used bool) (stop func()) {
	conns := make([]*silentConn, n)
	var wg sync.WaitGroup
	for i := range conns {
		c := &silentConn{quit: make(chan struct{})}
		conns[i] = c
		var s *Stream
		m := newMux(c, true, muxOptions{allowPeerStreams: 1})
		if used {
			c.script = frames(
				muxFrame{kind: kindWindow, flags: flagACK, id: 2},
				muxFrame{kind: kindData, id: 2, length: 20_000})
			s, _ = m.open(tb.Context())
			s.Write(make([]byte, 300))
		}
		wg.Go(func() { m.run() })
		if used {
			if _, err := io.CopyN(io.Discard, s, 20_000); err != nil {
				tb.Fatal(err)
			}
		}
	}
	return func() {
		for _, c := range conns {
			close(c.quit)
		}
		wg.Wait()
	}
}

// silentConn costs nothing of its own.
type silentConn struct {
	script []byte
	quit   chan struct{}
}

func (c *silentConn) Read(p []byte) (int, error) {
	if len(c.script) > 0 {
		n := copy(p, c.script)
		if c.script = c.script[n:]; len(c.script) == 0 {
			c.script = nil
		}
		return n, nil
	}
	<-c.quit
	return 0, io.EOF
}

func (c *silentConn) writeMessage([]byte) error { return nil }
func (c *silentConn) close(uint16, string)      {}

// memoryOf says how much heap and stack is used by what start starts.
func memoryOf(start func() (stop func())) (heap, stack int64) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	runtime.ReadMemStats(&before)
	stop := start()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	stop()
	return int64(after.HeapAlloc) - int64(before.HeapAlloc), int64(after.StackInuse) - int64(before.StackInuse)
}

func TestIdleMuxHoldsLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs memory itself")
	}
	const muxes = 1000
	heap, _ := memoryOf(func() (stop func()) { return idleMuxes(t, muxes, true) })
	if heap/muxes > 3<<10 {
		t.Errorf("%d bytes of heap for an idle mux that was used", heap/muxes)
	}
}

package tunnel

import (
	"fmt"
	"io"
	"net"
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

// benchMux gives benchmarks streams of either implementation.
type benchMux struct {
	name  string
	pairs func(b *testing.B, n int) (near, far []net.Conn)
}

var benchMuxes = []benchMux{
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

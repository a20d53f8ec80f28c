//go:build unix

package tunnel

import (
	"io"
	"net"
	"testing"
)

// BenchmarkConnBulk writes 64 KiB at a time over loopback: down to the client,
// not masked, and up to the node, masked; beside it a bare TCP connection.
func BenchmarkConnBulk(b *testing.B) {
	const size = 64 << 10
	for _, dir := range []string{"down", "up", "tcp"} {
		b.Run(dir, func(b *testing.B) {
			var from, to net.Conn
			if dir == "tcp" {
				from, to = tcpPair(b)
			} else {
				client, node := connPair(b)
				from, to = client, node
				if dir == "down" {
					from, to = node, client
				}
			}
			b.SetBytes(size)
			b.ReportAllocs()
			before := cpuTime()
			done := make(chan error, 1)
			go func() {
				_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(to, int64(b.N)*size), make([]byte, size))
				done <- err
			}()
			buf := make([]byte, size)
			for range b.N {
				if _, err := from.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			b.ReportMetric((cpuTime()-before).Seconds()/float64(b.N)/size*1e9, "cpu-s/GB")
		})
	}
}

// BenchmarkConnPingPong is 64 bytes there and back.
func BenchmarkConnPingPong(b *testing.B) {
	for _, dir := range []string{"conn", "tcp"} {
		b.Run(dir, func(b *testing.B) {
			var near, far net.Conn
			if near, far = tcpPair(b); dir == "conn" {
				near, far = connPair(b)
			}
			go func() {
				buf := make([]byte, 64)
				for {
					if _, err := io.ReadFull(far, buf); err != nil {
						return
					}
					if _, err := far.Write(buf); err != nil {
						return
					}
				}
			}()
			b.ReportAllocs()
			buf := make([]byte, 64)
			for range b.N {
				if _, err := near.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(near, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package main

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
)

// tcpWrite is how many bytes the ends of BenchmarkTCP write and read at once.
const tcpWrite = 256 << 10

// freeBenchAddr is an address that nothing listens on, just now.
func freeBenchAddr(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// tcpBenchService is the service behind everything, in this process.
func tcpBenchService(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serveTCPBench(c)
		}
	}()
	return ln.Addr().String()
}

// tcpCommand is what a client says first: 'd' asks for n bytes, 'u' sends n bytes and waits for one, 'e' wants an echo.
func tcpCommand(kind byte, n int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, uint64(n))
}

func serveTCPBench(c net.Conn) {
	defer c.Close()
	var command [9]byte
	if _, err := io.ReadFull(c, command[:]); err != nil {
		return
	}
	n := int64(binary.BigEndian.Uint64(command[1:]))
	switch command[0] {
	case 'd':
		_ = writeZeros(c, n)
	case 'u':
		if readAway(c, n) == nil {
			c.Write([]byte{1})
		}
	case 'e':
		buf := make([]byte, 4<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func writeZeros(w io.Writer, n int64) error {
	buf := make([]byte, tcpWrite)
	for n > 0 {
		m, err := w.Write(buf[:min(n, tcpWrite)])
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}

func readAway(r io.Reader, n int64) error {
	buf := make([]byte, tcpWrite)
	for n > 0 {
		m, err := r.Read(buf[:min(n, tcpWrite)])
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}

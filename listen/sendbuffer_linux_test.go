package listen

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSendBuffersAreBounded: the kernel takes little for a client that reads
// nothing.
func TestSendBuffersAreBounded(t *testing.T) {
	below, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := New(below, Options{Port: "test"})
	defer l.Close()
	client, err := net.Dial("tcp", below.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	if err := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT) }); err != nil {
		t.Fatal(err)
	}
	if err != nil || got != notSentLowat {
		t.Errorf("the bound is %d, %v, want %d", got, err, notSentLowat)
	}
}

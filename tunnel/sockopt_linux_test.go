package tunnel

import (
	"crypto/tls"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTuneSocketAlsoUnderTLS(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"tcp": func(nc net.Conn) net.Conn { return nc },
		"tls": func(nc net.Conn) net.Conn { return tls.Client(nc, &tls.Config{}) },
	} {
		conn, _ := tcpPair(t)
		tuneSocket(wrap(conn))
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			for _, o := range []struct {
				name                string
				level, option, want int
			}{
				{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
				{"TCP_NOTSENT_LOWAT", unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 128 << 10},
				{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 15_000},
				{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
			} {
				if got, err := unix.GetsockoptInt(int(fd), o.level, o.option); err != nil || got != o.want {
					t.Errorf("%s: %s is %d, %v; want %d", name, o.name, got, err, o.want)
				}
			}
		})
	}
	tuneSocket(&memConn{}) // and nothing happens
}

// layer is a connection above another one, as what has read of it already.
type layer struct{ net.Conn }

func (l layer) NetConn() net.Conn { return l.Conn }

func TestLoosenSocketAlsoUnderTLS(t *testing.T) {
	conn, _ := tcpPair(t)
	above := tls.Server(layer{conn}, &tls.Config{})
	tuneSocket(above)
	loosenSocket(above)
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for _, option := range []int{unix.TCP_USER_TIMEOUT, unix.TCP_NOTSENT_LOWAT} {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); got != 0 || err != nil {
				t.Errorf("option %d is %d, %v", option, got, err)
			}
		}
	})
}

func TestBothSidesTuneTheirSockets(t *testing.T) {
	url, accepted := carrierServer(t, Reply{})
	for name, c := range map[string]*carrier{"client": dialCarrier(t, url), "server": <-accepted} {
		raw, err := c.nc.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); got != notSentLowat || err != nil {
				t.Errorf("%s: TCP_NOTSENT_LOWAT is %d, %v", name, got, err)
			}
		})
	}
}

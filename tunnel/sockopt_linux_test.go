package tunnel

import (
	"crypto/tls"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// layer is a connection above another one, as what has read of it already.
type layer struct{ net.Conn }

func (l layer) NetConn() net.Conn { return l.Conn }

// option is a socket option and what it should be.
type option struct {
	name                string
	level, option, want int
}

func wantOptions(t *testing.T, conn *net.TCPConn, options []option) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for _, o := range options {
			if got, err := unix.GetsockoptInt(int(fd), o.level, o.option); err != nil || got != o.want {
				t.Errorf("%s is %d, %v; want %d", o.name, got, err, o.want)
			}
		}
	})
}

var (
	anySocket = []option{
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10},
	}
	sessionSocket = []option{
		{"TCP_NOTSENT_LOWAT", unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 128 << 10},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 15_000},
	}
	// A peer that does not read is no reason to end a Conn.
	connSocket = []option{
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
	}
)

func TestSocketIsPreparedAlsoUnderTLS(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"tcp":       func(nc net.Conn) net.Conn { return nc },
		"tls":       func(nc net.Conn) net.Conn { return tls.Client(nc, &tls.Config{}) },
		"two above": func(nc net.Conn) net.Conn { return tls.Server(layer{nc}, &tls.Config{}) },
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := tcpPair(t)
			tuneSocket(wrap(conn))
			wantOptions(t, conn, append(anySocket, connSocket...))
			hurrySocket(wrap(conn))
			wantOptions(t, conn, append(anySocket, sessionSocket...))
		})
	}
	tuneSocket(&memConn{}) // and nothing happens
	hurrySocket(&memConn{})
}

func TestBothSidesPrepareTheirSockets(t *testing.T) {
	url, accepted := carrierServer(t, Reply{})
	for name, c := range map[string]*carrier{"client": dialCarrier(t, url), "server": <-accepted} {
		t.Run(name, func(t *testing.T) {
			tcp := tcpConn(c.nc)
			wantOptions(t, tcp, append(anySocket, connSocket...))
			newConn(c, true)
			wantOptions(t, tcp, connSocket)
			s := startSession(c, name == "server", Peer{}, Options{})
			defer s.Close()
			wantOptions(t, tcp, append(anySocket, sessionSocket...))
		})
	}
}

package listen

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memListener is a listener in memory, so that time can be virtual.
type memListener struct {
	conns  chan net.Conn
	errs   chan error
	closed chan struct{}
	once   sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn, 10000), errs: make(chan error, 100), closed: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case err := <-l.errs:
		return nil, err
	default:
	}
	select {
	case nc := <-l.conns:
		return nc, nil
	case err := <-l.errs:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 80} }

// dial connects from an address to the listener.
func (l *memListener) dial(from string) net.Conn {
	here, there := net.Pipe()
	l.conns <- memConn{there, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 4000))}
	return here
}

// memConn is one side of a pipe that says where it comes from.
type memConn struct {
	net.Conn
	remote net.Addr
}

func (c memConn) RemoteAddr() net.Addr { return c.remote }

// port is a Listener under test, and what it has handed out.
type port struct {
	*Listener
	mem      *memListener
	registry *prometheus.Registry
	log      strings.Builder // read it when nothing runs
	accepted chan net.Conn
	done     chan struct{}
}

// open starts a port that is closed at the end of the test, which may be a bubble's.
func open(t *testing.T, opt Options) *port {
	t.Helper()
	p := &port{mem: newMemListener(), registry: prometheus.NewRegistry(), accepted: make(chan net.Conn, 10000), done: make(chan struct{})}
	opt.Port, opt.Registerer = "test", p.registry
	opt.Logger = slog.New(slog.NewTextHandler(&p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p.Listener = New(p.mem, opt)
	go func() {
		defer close(p.done)
		for {
			nc, err := p.Accept()
			if err != nil {
				return
			}
			p.accepted <- nc
		}
	}()
	t.Cleanup(func() {
		p.Close()
		<-p.done
		for len(p.accepted) > 0 {
			(<-p.accepted).Close()
		}
		if n := p.Open(); n != 0 {
			t.Errorf("%d connections are open at the end", n)
		}
		if n := p.Pending(); n != 0 {
			t.Errorf("%d connections are pending at the end", n)
		}
	})
	return p
}

// next is the next connection that was handed out.
func (p *port) next(t *testing.T) net.Conn {
	t.Helper()
	select {
	case nc := <-p.accepted:
		t.Cleanup(func() { nc.Close() })
		return nc
	case <-time.After(time.Minute): // virtual in most tests
		t.Fatal("no connection was handed out")
		return nil
	}
}

// count is the value of a counter or gauge, with name{label} as "name" or "name label".
func (p *port) count(t *testing.T, name, label string) int {
	t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			fits := label == ""
			for _, l := range m.Label {
				fits = fits || l.GetValue() == label
			}
			if f.GetName() == name && fits {
				return int(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			}
		}
	}
	t.Fatalf("there is no metric %s %s", name, label)
	return 0
}

func (p *port) refusedAs(t *testing.T, reason string) int {
	return p.count(t, "piko_port_refused_total", reason)
}

var testCertificate = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"node.test"}, NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
})

func serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	cert, err := testCertificate()
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
}

func clientTLS(protos ...string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: protos}
}

// say writes without waiting for the other side, which a pipe would.
func say(nc net.Conn, text string) { go nc.Write([]byte(text)) }

// ended says how long it took until the other side closed nc.
func ended(t *testing.T, nc net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	nc.SetReadDeadline(began.Add(time.Hour))
	b := make([]byte, 4096)
	for {
		if _, err := nc.Read(b); err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				t.Fatal("the connection goes on")
			}
			return time.Since(began)
		}
	}
}

// read reads so many bytes.
func read(nc net.Conn, n int) (string, error) {
	b := make([]byte, n)
	for got := 0; got < n; {
		m, err := nc.Read(b[got:])
		if err != nil {
			return string(b[:got]), fmt.Errorf("after %d bytes: %w", got, err)
		}
		got += m
	}
	return string(b), nil
}

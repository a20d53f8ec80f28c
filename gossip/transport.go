package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport is what memberlist sends and receives with.
type transport interface {
	memberlist.Transport
	advertised() netip.AddrPort
	// isSelf reports whether a node at that address would be this one.
	isSelf(addr netip.AddrPort) bool
	// observe is called once, before anything is sent.
	observe(m *metrics)
}

const (
	maxStreams     = 128 // TCP connections from others at a time; each lives for 5 s at most
	maxStreamsFrom = 32  // of them from one host
	packetQueue    = 256
	maxPacket      = 64 << 10
)

// netTransport is the gossip port: a TCP listener and a UDP socket. memberlist
// has one of its own that needs an IPv4 address to advertise, and that bounds
// no number of connections.
type netTransport struct {
	// Static after construction.
	tcp       net.Listener
	udp       *net.UDPConn
	advertise netip.AddrPort
	metrics   *metrics
	packets   chan *memberlist.Packet
	streams   chan net.Conn
	ctx       context.Context // ends at Shutdown
	cancel    context.CancelFunc
	start     sync.Once
	running   sync.WaitGroup

	// Guarded by mu.
	mu   sync.Mutex
	from map[netip.Addr]int // connections of each host
	all  int
}

// listen opens the port, and finds the address at which others reach it.
func listen(bind, advertise string) (transport, error) {
	tcp, udp, err := openPort(bind)
	if err != nil {
		return nil, fmt.Errorf("open gossip port: %w", err)
	}
	t := &netTransport{tcp: tcp, udp: udp, packets: make(chan *memberlist.Packet, packetQueue), streams: make(chan net.Conn), from: make(map[netip.Addr]int)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	if t.advertise, err = advertiseAddrPort(bind, advertise, tcp.Addr()); err != nil {
		t.Shutdown()
		return nil, err
	}
	return t, nil
}

// openPort opens TCP and UDP at one port. A port that is chosen may be free for
// one of them only.
func openPort(bind string) (net.Listener, *net.UDPConn, error) {
	host, port, err := net.SplitHostPort(bind)
	if err != nil {
		return nil, nil, err
	}
	for tries := 1; ; tries++ {
		tcp, err := net.Listen("tcp", bind)
		if err != nil {
			return nil, nil, err
		}
		chosen := strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port)
		udp, err := net.ListenPacket("udp", net.JoinHostPort(host, chosen))
		if err == nil {
			conn := udp.(*net.UDPConn)
			conn.SetReadBuffer(2 << 20) // the system may give less
			return tcp, conn, nil
		}
		tcp.Close()
		if port != "0" || tries == 10 {
			return nil, nil, err
		}
	}
}

func advertiseAddrPort(bind, advertise string, bound net.Addr) (netip.AddrPort, error) {
	port := uint16(bound.(*net.TCPAddr).Port)
	host := advertise
	if h, p, err := net.SplitHostPort(advertise); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return netip.AddrPort{}, fmt.Errorf("advertise gossip port: %q is no port", p)
		}
		host, port = h, uint16(n)
	}
	ip, err := AdvertiseIP(bind, host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("advertise gossip port: %w", err)
	}
	return netip.AddrPortFrom(netip.MustParseAddr(ip).WithZone(""), port), nil
}

func (t *netTransport) advertised() netip.AddrPort { return t.advertise }

func (t *netTransport) observe(m *metrics) { t.metrics = m }

// isSelf knows all addresses of this machine.
func (t *netTransport) isSelf(addr netip.AddrPort) bool {
	if addr == t.advertise {
		return true
	}
	bound := netip.MustParseAddrPort(t.tcp.Addr().String())
	if addr.Port() != bound.Port() {
		return false
	}
	if !bound.Addr().IsUnspecified() {
		return addr.Addr().WithZone("") == bound.Addr().Unmap().WithZone("")
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range local {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr.Addr().WithZone("") {
			return true
		}
	}
	return addr.Addr().IsLoopback()
}

// FinalAdvertiseAddr is called by memberlist when it starts.
func (t *netTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	t.start.Do(func() {
		t.running.Go(t.accept)
		t.running.Go(t.receive)
	})
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

// WriteTo sends a packet.
func (t *netTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	n, err := t.udp.WriteToUDPAddrPort(b, to)
	t.metrics.packetBytes.outbound.Add(float64(n))
	return time.Now(), err
}

// PacketCh returns what has been received.
func (t *netTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh returns connections from others.
func (t *netTransport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout connects to another node; Shutdown ends it.
func (t *netTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(t.ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// memberlist writes the name of the cluster before it sets a deadline.
	conn.SetDeadline(time.Now().Add(timeout))
	t.metrics.connections.outbound.Inc()
	return &stream{Conn: conn, bytes: t.metrics.streamBytes, done: func() {}}, nil
}

// Shutdown closes the port and waits for what reads from it.
func (t *netTransport) Shutdown() error {
	t.cancel()
	err := errors.Join(ignoreClosed(t.tcp.Close()), ignoreClosed(t.udp.Close()))
	t.running.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// receive drops packets when memberlist does not keep up, as a full socket does.
func (t *netTransport) receive() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := t.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if !t.pause(err) {
				return
			}
			continue
		}
		t.metrics.packetBytes.inbound.Add(float64(n))
		if n == 0 {
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
		select {
		case t.packets <- p:
		default:
			t.metrics.dropped("packet-queue")
		}
	}
}

func (t *netTransport) accept() {
	for {
		conn, err := t.tcp.Accept()
		if err != nil {
			if !t.pause(err) {
				return
			}
			continue
		}
		t.metrics.connections.inbound.Inc()
		t.take(conn)
	}
}

// take hands a connection to memberlist unless there are too many.
func (t *netTransport) take(conn net.Conn) {
	from := countedAs(conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr())
	if !t.count(from) {
		t.metrics.dropped("connections")
		conn.Close()
		return
	}
	s := &stream{Conn: conn, bytes: t.metrics.streamBytes, done: func() { t.uncount(from) }}
	select {
	case t.streams <- s:
	case <-t.ctx.Done():
		s.Close()
	}
}

func (t *netTransport) count(from netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all >= maxStreams || t.from[from] >= maxStreamsFrom {
		return false
	}
	t.all++
	t.from[from]++
	return true
}

func (t *netTransport) uncount(from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.from[from]--; t.from[from] == 0 {
		delete(t.from, from)
	}
}

// pause waits a little after an error that may pass, such as too many open files.
func (t *netTransport) pause(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	timer := time.NewTimer(50 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// stream counts what goes through a connection.
type stream struct {
	net.Conn
	bytes  pair
	done   func()
	closed sync.Once
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.bytes.inbound.Add(float64(n))
	return n, err
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	s.bytes.outbound.Add(float64(n))
	return n, err
}

func (s *stream) Close() error {
	s.closed.Do(s.done)
	return s.Conn.Close()
}

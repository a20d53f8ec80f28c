//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wire is a network of namespaces, each with one address, whose packets all pass through
// this process: it can lose, delay and cut them, one direction at a time, without anything
// from the kernel but namespaces and tun devices.
type wire struct {
	// Static after construction.
	hosts []*wireHost
	wg    sync.WaitGroup

	// Guarded by mu.
	mu    sync.RWMutex
	links map[[2]int]link // by source and destination; absent: a good one
}

// link is one direction between two hosts.
type link struct {
	cut   bool
	loss  float64 // of 1
	delay time.Duration
}

// wireHost is one namespace. It goes away with the processes in it and its files.
type wireHost struct {
	addr  netip.Addr
	space *os.File // the namespace
	tun   *os.File
	late  chan latePacket // packets that are delayed, in the order in which they are due
}

type latePacket struct {
	due  time.Time
	data []byte
}

// maxLate bounds the packets on their way to one host.
const maxLate = 4096

// errNoNamespaces is why tests that need network namespaces are skipped.
var errNoNamespaces = errors.New("network namespaces and tun devices need root, and /dev/net/tun")

// newWire makes n namespaces that see each other, or skips the test where that is not
// allowed; in CI it must be, for root.
func newWire(t testing.TB, n int) *wire {
	t.Helper()
	w := &wire{links: map[[2]int]link{}}
	t.Cleanup(w.close)
	for i := range n {
		h, err := newWireHost(netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}))
		denied := errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist)
		switch {
		case denied && (os.Getenv("CI") != "true" || os.Getuid() != 0):
			t.Skipf("%v: %v", errNoNamespaces, err)
		case err != nil:
			t.Fatalf("make namespace: %v", err)
		}
		w.hosts = append(w.hosts, h)
	}
	for i := range w.hosts {
		w.wg.Go(func() { w.forward(i) })
		w.wg.Go(w.hosts[i].deliverLate)
	}
	return w
}

func (w *wire) close() {
	for _, h := range w.hosts {
		h.tun.Close()
	}
	for _, h := range w.hosts {
		close(h.late)
		h.space.Close()
	}
	w.wg.Wait()
}

// inSpace runs f on a thread that is in the namespace (nil: a new one). What f starts stays there.
func inSpace(space *os.File, f func() error) (err error) {
	runtime.LockOSThread()
	ours, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer ours.Close()
	if space == nil {
		err = unix.Unshare(unix.CLONE_NEWNET)
	} else {
		err = unix.Setns(int(space.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	if back := unix.Setns(int(ours.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(back) // the thread must not go back to the others
	}
	runtime.UnlockOSThread()
	return err
}

func newWireHost(addr netip.Addr) (*wireHost, error) {
	h := &wireHost{addr: addr, late: make(chan latePacket, maxLate)}
	err := inSpace(nil, func() (err error) {
		if h.space, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if h.tun, err = openTun("net0"); err != nil {
			return err
		}
		if err := bringUp("lo", netip.AddrFrom4([4]byte{127, 0, 0, 1}), 8); err != nil {
			return err
		}
		return bringUp("net0", addr, 24)
	})
	return h, err
}

// openTun makes a network device whose packets we read and write.
func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// bringUp gives a device its address and switches it on.
func bringUp(name string, addr netip.Addr, bits int) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	mask := net.CIDRMask(bits, 32)
	for _, set := range []struct {
		request uint
		addr    []byte
	}{{unix.SIOCSIFADDR, addr.AsSlice()}, {unix.SIOCSIFNETMASK, mask}} {
		if err := r.SetInet4Addr(set.addr); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(s, set.request, r); err != nil {
			return fmt.Errorf("set address of %s: %w", name, err)
		}
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("switch on %s: %w", name, err)
	}
	return nil
}

// forward carries what one host sends, until its device is closed.
func (w *wire) forward(from int) {
	b := make([]byte, 64<<10)
	for {
		n, err := w.hosts[from].tun.Read(b)
		if err != nil {
			return
		}
		if n < 20 || b[0]>>4 != 4 {
			continue // IPv6 says hello to its neighbours
		}
		to := int(b[19]) - 1
		if [3]byte(b[16:19]) != [3]byte{10, 77, 0} || to < 0 || to >= len(w.hosts) {
			continue
		}
		w.carry(from, to, b[:n])
	}
}

// carry hands one packet over, or does to it what the link does.
func (w *wire) carry(from, to int, packet []byte) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	l := w.links[[2]int{from, to}]
	switch h := w.hosts[to]; {
	case l.cut || rand.Float64() < l.loss:
	case l.delay == 0:
		h.tun.Write(packet)
	default:
		select {
		case h.late <- latePacket{time.Now().Add(l.delay), append([]byte(nil), packet...)}:
		default: // as a router does whose queue is full
		}
	}
}

func (h *wireHost) deliverLate() {
	for p := range h.late {
		<-time.After(time.Until(p.due))
		h.tun.Write(p.data)
	}
}

// set changes one direction.
func (w *wire) set(from, to int, l link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links[[2]int{from, to}] = l
}

// setAll changes all directions between one host and all others.
func (w *wire) setAll(host int, l link) {
	for other := range w.hosts {
		if other != host {
			w.set(host, other, l)
			w.set(other, host, l)
		}
	}
}

// dial connects from within the host.
func (h *wireHost) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = inSpace(h.space, func() (err error) {
		conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// at is the host's address with a port.
func (h *wireHost) at(port uint16) string { return netip.AddrPortFrom(h.addr, port).String() }

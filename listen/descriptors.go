package listen

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Values of the label error.
const (
	errorDescriptors = "descriptors"
	errorOther       = "other"
)

const (
	// maxReserve bounds the descriptors that only the port with UseReserve may
	// take, and the node's own connections: an eighth of all, at most these.
	maxReserve = 64

	// quietTime is how long a connection must have been idle before it may be
	// closed for want of descriptors. A request may be on its way on a younger one.
	quietTime = 500 * time.Millisecond

	minPause = 5 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

// Descriptors are the file descriptors of the process, which its listeners
// share. When they run short the connections that have been idle longest are
// closed, those that come wait in the kernel, and a reserve is left for the
// port that operators use. Methods may be called on nil.
type Descriptors struct {
	// Static after construction.
	limit, reserve int                           // 0: not known
	number         func(nc net.Conn) (int, bool) // of the connection's descriptor
	lowest         func(nc net.Conn) (int, bool) // that is free; any connection will do

	// Guarded by mu, which is held before a Listener's.
	mu        sync.Mutex
	listeners []*Listener
}

// NewDescriptors asks the system how many descriptors there are.
func NewDescriptors() *Descriptors {
	limit := descriptorLimit()
	return &Descriptors{limit: limit, reserve: min(maxReserve, limit/8), number: descriptorOf, lowest: lowestFree}
}

// descriptorOf is the number of a connection's descriptor.
func descriptorOf(nc net.Conn) (fd int, ok bool) {
	ok = control(nc, func(n uintptr) { fd = int(n) })
	return fd, ok
}

// lowestFree is the number that the next descriptor will have.
func lowestFree(nc net.Conn) (fd int, ok bool) {
	var err error
	controlled := control(nc, func(n uintptr) { fd, err = probeDescriptor(n) })
	return fd, controlled && err == nil
}

func control(nc net.Conn, f func(fd uintptr)) bool {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	return err == nil && raw.Control(f) == nil
}

func (d *Descriptors) add(l *Listener) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listeners = append(d.listeners, l)
}

func (d *Descriptors) remove(l *Listener) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listeners = slices.DeleteFunc(d.listeners, func(other *Listener) bool { return other == l })
}

// inReserve reports whether a connection that was just accepted has taken a
// descriptor of the reserve. The system gives the lowest number that is free, so
// its number tells how many are in use.
func (d *Descriptors) inReserve(nc net.Conn) bool {
	if d == nil || d.limit == 0 {
		return false
	}
	fd, ok := d.number(nc)
	return ok && fd >= d.limit-d.reserve
}

// hasRoom reports whether there are descriptors but those of the reserve, or
// room could be made.
func (d *Descriptors) hasRoom(nc net.Conn) bool {
	fd, ok := d.lowest(nc)
	return ok && fd < d.limit-d.reserve || d.makeRoom() > 0
}

// leaveReserve keeps a connection that was just accepted waiting, and those
// behind it, until there are descriptors for others than operators. It reports
// false when the port is closed.
func (l *Listener) leaveReserve(nc net.Conn, pause *time.Duration) bool {
	d := l.opt.Descriptors
	if !d.inReserve(nc) {
		return true
	}
	for !d.hasRoom(nc) {
		l.metrics.errors.WithLabelValues(errorDescriptors).Inc()
		l.warn(errReserve)
		if !l.wait(pause) {
			return false
		}
	}
	return true
}

// errReserve is what the log says when all but the reserve is used.
var errReserve = errors.New("all file descriptors are in use but a few that are kept for the admin port")

// makeRoom closes the connections of all ports that have been idle longest, and
// says how many.
func (d *Descriptors) makeRoom() int {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	var idle []idleConn
	for _, l := range d.listeners {
		idle = l.appendIdle(idle, time.Now())
	}
	d.mu.Unlock()
	slices.SortFunc(idle, func(a, b idleConn) int { return cmp.Compare(a.since, b.since) })
	idle = idle[:min(len(idle), max(8, d.limit/16))]
	for _, i := range idle {
		i.c.makeRoom()
	}
	return len(idle)
}

type idleConn struct {
	c     *Conn
	since int64
}

// appendIdle appends the connections that may be closed.
func (l *Listener) appendIdle(idle []idleConn, now time.Time) []idleConn {
	before := now.Add(-quietTime).UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := l.conns; c != nil; c = c.next {
		if since := c.quiet.Load(); since != 0 && since <= before {
			idle = append(idle, idleConn{c, since})
		}
	}
	return idle
}

// makePlace closes the connection of this port that has been idle longest.
func (l *Listener) makePlace() bool {
	idle := l.appendIdle(nil, time.Now())
	if len(idle) == 0 {
		return false
	}
	slices.MinFunc(idle, func(a, b idleConn) int { return cmp.Compare(a.since, b.since) }).c.makeRoom()
	return true
}

func (c *Conn) makeRoom() {
	c.l.metrics.refused.WithLabelValues(madeRoom).Inc()
	c.Close()
}

// rest takes up an error of accept: it waits, and reports whether to try again.
func (l *Listener) rest(err error, pause *time.Duration) bool {
	if !passes(err) {
		return false
	}
	kind := errorOther
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		kind = errorDescriptors
	}
	l.metrics.errors.WithLabelValues(kind).Inc()
	l.warn(err)
	if kind == errorDescriptors && l.opt.Descriptors.makeRoom() > 0 {
		*pause = 0
	}
	return l.wait(pause)
}

// warn says that connections wait, a few times a second at most.
func (l *Listener) warn(err error) {
	if ok, dropped := l.lines.allow(time.Now()); ok {
		l.log.Warn("connections wait: the system gives none", "port", l.opt.Port, "error", err, "not_logged", dropped)
	}
}

// passes says whether accept may succeed later: nothing is wrong with the
// listener itself. accept(2) has errors of the network among its own.
func passes(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		switch errno {
		case syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP, syscall.EFAULT:
			return false
		}
		return true
	}
	passing, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && passing.Temporary()
}

// wait waits a little longer each time. It reports false when the port is closed.
func (l *Listener) wait(pause *time.Duration) bool {
	*pause = min(max(2**pause, minPause), maxPause)
	t := time.NewTimer(*pause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.closed:
		return false
	}
}

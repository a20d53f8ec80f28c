package listen

import (
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// scarce are descriptors of a process that has 160 of them, 20 in reserve: the
// lowest number that is free goes to the next connection.
func scarce(ports ...**port) *Descriptors {
	used := func(net.Conn) (int, bool) {
		open := 0
		for _, p := range ports {
			if *p != nil {
				open += (*p).Open()
			}
		}
		return open, true
	}
	return &Descriptors{limit: 160, reserve: 20, number: used, lowest: used}
}

func TestIdleConnectionsMakeRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var web, admin *port
		files := scarce(&web, &admin)
		web = open(t, Options{Descriptors: files})
		admin = open(t, Options{Descriptors: files, UseReserve: true})
		const room = 140 // for all but the admin port
		var clients []net.Conn
		for range room {
			clients = append(clients, web.mem.dial("192.0.2.1"))
			SetState(web.next(t), http.StateActive)
		}
		for range 20 {
			web.mem.dial("192.0.2.2")
		}
		for range 20 { // the reserve
			admin.mem.dial("192.0.2.9")
			SetState(admin.next(t), http.StateActive)
		}
		time.Sleep(time.Minute)
		if n, e := len(web.accepted), web.count(t, "piko_port_accept_errors_total", "descriptors"); n != 0 || e < 60 || e > 1000 {
			t.Errorf("%d of those that should wait were accepted, after %d looks", n, e)
		}

		// Half of the clients have nothing to do.
		for i := range room / 2 {
			SetState(findConn(t, web, i), http.StateIdle)
		}
		began := time.Now()
		for range 20 {
			web.next(t)
		}
		if took := time.Since(began); took > quietTime+2*maxPause {
			t.Errorf("those that wait are accepted after %v", took)
		}
		// The reserve is untouched: each that was let in took the place of an idle one.
		if n := web.Open(); n > room || web.refusedAs(t, "idle") < 40 {
			t.Errorf("%d connections are open, %d made room", n, web.refusedAs(t, "idle"))
		}
		_ = clients
	})
}

// findConn is the i-th connection that was handed out.
func findConn(t *testing.T, p *port, i int) net.Conn {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.conns
	for range i {
		c = c.next
	}
	return c
}

// Also when the system has none at all: the port does not spin, tells, and goes
// on when there are some.
func TestNoDescriptorsAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{Descriptors: scarce()})
		busy := p.mem.dial("192.0.2.1")
		SetState(p.next(t), http.StateActive)
		silent := p.mem.dial("192.0.2.2")
		p.next(t)
		time.Sleep(quietTime)
		p.mem.errs <- &net.OpError{Op: "accept", Err: &netError{syscall.EMFILE}}
		if took := ended(t, silent); took != 0 {
			t.Errorf("a silent connection makes room after %v", took)
		}
		goesOn(t, busy)

		began := time.Now()
		for range 40 {
			p.mem.errs <- &net.OpError{Op: "accept", Err: &netError{syscall.EMFILE}}
		}
		p.mem.dial("192.0.2.3")
		p.next(t)
		if took := time.Since(began); took < 5*time.Second || took > 40*maxPause {
			t.Errorf("40 errors took %v: the port spins, or sleeps", took)
		}
		if got := p.count(t, "piko_port_accept_errors_total", "descriptors"); got != 41 {
			t.Errorf("%d errors are counted, want 41", got)
		}
	})
}

func TestDescriptorsOfARealProcess(t *testing.T) {
	d := NewDescriptors()
	if d.limit == 0 {
		t.Skip("the system has no limit of descriptors")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if fd, ok := d.number(nc); !ok || fd <= 2 || fd >= d.limit {
		t.Errorf("the connection has number %d (%v) of %d", fd, ok, d.limit)
	}
	if fd, ok := d.lowest(nc); !ok || fd <= 2 || fd >= d.limit {
		t.Errorf("the lowest free number is %d (%v) of %d", fd, ok, d.limit)
	}
	if d.reserve == 0 || d.inReserve(nc) {
		t.Errorf("short of descriptors: limit %d, reserve %d", d.limit, d.reserve)
	}
}

//go:build unix

package listen

import (
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// BenchmarkRequest is what a Listener costs beside the listener below it: for a
// request on a connection that is there, and for one on a connection of its own.
func BenchmarkRequest(b *testing.B) {
	for _, way := range []struct {
		name string
		wrap func(net.Listener) net.Listener
	}{
		{"net", func(ln net.Listener) net.Listener { return ln }},
		{"listen", func(ln net.Listener) net.Listener { return New(ln, Options{Descriptors: NewDescriptors()}) }},
		{"limits", func(ln net.Listener) net.Listener {
			return New(ln, Options{Descriptors: NewDescriptors(), Deny: prefixes("192.0.2.0/24", "2001:db8::/32"), MaxPerSource: 100, MaxConnections: 1000})
		}},
		{"PROXY", func(ln net.Listener) net.Listener {
			return New(ln, Options{Descriptors: NewDescriptors(), ProxyProtocolFrom: prefixes("192.0.2.0/24")})
		}},
	} {
		for _, kept := range []bool{true, false} {
			name := way.name + "/connection each"
			if kept {
				name = way.name + "/kept"
			}
			b.Run(name, func(b *testing.B) {
				tcp, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
				if way.name != "net" {
					srv.ConnContext, srv.ConnState = ConnContext, SetState
				}
				served := make(chan error)
				go func() { served <- srv.Serve(way.wrap(tcp)) }()
				before := cpuTime(b)
				ask(b, tcp.Addr().String(), kept)
				b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
				srv.Close()
				<-served
			})
		}
	}
}

// cpuTime is what the process has used of the processors, the client included.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ask makes b.N requests.
func ask(b *testing.B, addr string, kept bool) {
	const request = "GET / HTTP/1.1\r\nHost: e.test\r\n\r\n"
	answer := make([]byte, 75) // with a date, and no body
	var nc net.Conn
	for b.Loop() {
		if nc == nil || !kept {
			var err error
			if nc, err = net.Dial("tcp", addr); err != nil {
				b.Fatal(err)
			}
			_ = nc.(*net.TCPConn).SetLinger(0) // or ports run out
		}
		io.WriteString(nc, request)
		if _, err := io.ReadFull(nc, answer); err != nil {
			b.Fatal(err)
		}
		if !kept {
			nc.Close()
		}
	}
	if kept {
		nc.Close()
	}
}

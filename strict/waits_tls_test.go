package strict

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A TLS connection survives a Read that ended because of a deadline that did not hold any more, also within a record.
func TestDeadlinesHoldBelowTLS(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	cert := srv.TLS.Certificates[0]
	srv.Close()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		slow := &halves{Conn: here}
		client := tls.Client(slow, &tls.Config{InsecureSkipVerify: true})
		c := NewConn(tls.Server(there, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true}))
		defer there.Close()
		defer here.Close()
		go client.Handshake()
		if err := c.(*secureConn).Conn.Conn.(*tls.Conn).Handshake(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.SetReadDeadline(time.Now().Add(time.Second))
		c.SetReadDeadline(time.Time{})
		slow.pause = time.Minute
		go client.Write([]byte(next))
		got := make([]byte, 100)
		if n, err := c.Read(got); string(got[:n]) != next {
			t.Fatalf("got %q, %v", got[:n], err)
		}
		c.SetReadDeadline(time.Now().Add(time.Hour))
		began := time.Now()
		if _, err := c.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Hour {
			t.Errorf("got %v after %v, want a time-out after an hour", err, time.Since(began))
		}
		go io.Copy(io.Discard, here)
		c.SetWriteDeadline(time.Now().Add(time.Second))
		c.SetWriteDeadline(time.Time{})
		time.Sleep(time.Minute) // virtual
		if _, err := c.Write([]byte("answer")); err != nil {
			t.Errorf("write behind a deadline that did not hold any more: %v", err)
		}
	})
}

// halves is a connection that pauses in the middle of each Write.
type halves struct {
	net.Conn
	pause time.Duration
}

func (h *halves) Write(p []byte) (int, error) {
	if h.pause == 0 {
		return h.Conn.Write(p)
	}
	n, err := h.Conn.Write(p[:len(p)/2])
	if err != nil {
		return n, err
	}
	time.Sleep(h.pause) // virtual
	m, err := h.Conn.Write(p[len(p)/2:])
	return n + m, err
}

package tunnel

import (
	"errors"
	"net"
	"testing"
)

func TestSendQueueOfTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	before, ok := readSendQueue(a)
	if !ok || before.queued != 0 {
		t.Fatalf("of an idle connection: %+v, %v", before, ok)
	}
	a.Write(make([]byte, 1000))
	eventually(t, func() error {
		if q, _ := readSendQueue(a); q.acked != before.acked+1000 || q.queued != 0 {
			return errors.New("1000 bytes are not confirmed")
		}
		return nil
	})
	go a.Write(make([]byte, 64<<20)) // nobody reads
	eventually(t, func() error {
		if q, _ := readSendQueue(a); q.queued < slowQueue {
			return errors.New("nothing is queued")
		}
		return nil
	})
	a.Close()
	if _, ok := readSendQueue(a); ok {
		t.Error("of a closed connection")
	}
}

package tunnel

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
)

// narrowConns is a Conn and its peer over TCP with little room on its way. The
// client, if near is that, masks.
func narrowConns(t testing.TB, nearIsClient bool) (near, far *Conn) {
	t.Helper()
	a, b := tcpPair(t)
	a.SetWriteBuffer(32 << 10)
	b.SetReadBuffer(32 << 10)
	near, far = newConn(newCarrier(a, nil, nearIsClient), true), newConn(newCarrier(b, nil, !nearIsClient), true)
	t.Cleanup(func() {
		near.Reset()
		far.Reset()
		near.Close()
		far.Close()
	})
	return near, far
}

// fillUp tries to write until nothing goes without waiting, and returns what was
// taken. All of it is different.
func fillUp(t testing.TB, c *Conn) (taken []byte) {
	t.Helper()
	const size = 40_000 // more than there is room for at once, so that one is cut
	for i := 0; ; i++ {
		p := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, size/2)
		n := c.TryWrite(p)
		taken = append(taken, p[:n]...)
		if n < size {
			if n = len(c.c.wlock); n == 0 {
				t.Error("the last message was not cut")
			}
			return taken
		}
		if len(taken) > 64<<20 {
			t.Fatal("there is no end of room")
		}
	}
}

func eachTrying(t *testing.T, f func(t *testing.T, near, far *Conn)) {
	for name, client := range map[string]bool{"client": true, "node": false} {
		t.Run(name, func(t *testing.T) {
			near, far := narrowConns(t, client)
			f(t, near, far)
		})
	}
}

func TestTryWriteSendsAtOnce(t *testing.T) {
	eachTrying(t, func(t *testing.T, near, far *Conn) {
		p := []byte("message")
		if n := near.TryWrite(p); n != len(p) || string(p) != "message" {
			t.Errorf("TryWrite: %d, and left %q", n, p)
		}
		mustRead(t, far, "message")
		if n := near.TryWrite(nil); n != 0 {
			t.Errorf("TryWrite of nothing: %d", n)
		}
	})
}

// Whatever was taken arrives, with what is written afterwards behind it, even if
// the connection had room for half a frame only.
func TestTryWriteToASlowPeer(t *testing.T) {
	eachTrying(t, func(t *testing.T, near, far *Conn) {
		want := fillUp(t, near)
		wrote := make(chan error, 1)
		go func() {
			_, err := near.Write([]byte("then this")) // waits
			if err == nil {
				err = near.CloseWrite()
			}
			wrote <- err
		}()
		_ = near.c.ping() // goes between, or behind
		got, err := io.ReadAll(far)
		if err != nil || !bytes.Equal(got, append(want, "then this"...)) {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want)+9)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	})
}

// While a Write waits for the peer, TryWrite neither waits nor overtakes it.
func TestTryWriteBesideAWriteThatWaits(t *testing.T) {
	near, far := narrowConns(t, true)
	want := fillUp(t, near)
	large := bytes.Repeat([]byte("large"), 20_000)
	wrote := make(chan error, 1)
	go func() { _, err := near.Write(large); wrote <- err }()
	eventually(t, func() error {
		if len(near.writer) == 0 {
			return errors.New("Write has not begun")
		}
		return nil
	})
	if n := near.TryWrite([]byte("overtakes")); n != 0 {
		t.Errorf("took %d bytes", n)
	}
	got := make([]byte, len(want)+len(large))
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, append(want, large...)) {
		t.Errorf("got something else, %v", err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// Close lets half a frame end before it says goodbye.
func TestTryWriteThenClose(t *testing.T) {
	eachTrying(t, func(t *testing.T, near, far *Conn) {
		want := fillUp(t, near)
		closed := make(chan struct{})
		go func() { defer close(closed); near.Close() }()
		got, err := io.ReadAll(far)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
		}
		far.Close()
		<-closed
		if n := near.TryWrite([]byte("x")); n != 0 {
			t.Errorf("took %d bytes after Close", n)
		}
	})
}

// Reset gives half a frame up, and the peer does not take it for the end.
func TestTryWriteThenReset(t *testing.T) {
	eachTrying(t, func(t *testing.T, near, far *Conn) {
		want := fillUp(t, near)
		near.Reset()
		got, err := io.ReadAll(far)
		if err == nil || !bytes.HasPrefix(want, got) {
			t.Errorf("got %d bytes of %d, %v", len(got), len(want), err)
		}
		near.Close()
	})
}

func TestTryWriteWhereNothingCanBeWritten(t *testing.T) {
	near, far := narrowConns(t, true)
	near.CloseWrite()
	if n := near.TryWrite([]byte("x")); n != 0 {
		t.Errorf("took %d bytes after CloseWrite", n)
	}
	far.Reset()
	far.Close()
	x, _ := memPair()
	other := newConn(newCarrier(x, nil, true), true)
	defer other.Close()
	if n := other.TryWrite([]byte("x")); n != 0 {
		t.Errorf("took %d bytes although nobody knows whether the connection would wait", n)
	}
	if len(other.writer) > 0 || len(other.c.wlock) > 0 {
		t.Error("holds a lock")
	}
}

// A reset that TryWrite has met is what the next Write says: of the system it
// is to be heard only once.
func TestTryWriteKeepsWhatItMet(t *testing.T) {
	a, b := tcpPair(t)
	near := newConn(newCarrier(a, nil, false), true)
	defer near.Close()
	b.SetLinger(0)
	b.Close()
	eventually(t, func() error { // until the reset has arrived
		near.TryWrite([]byte("x"))
		near.c.wlock <- struct{}{}
		defer func() { <-near.c.wlock }()
		if near.c.ctl.err == nil {
			return errors.New("TryWrite has met nothing")
		}
		return nil
	})
	_, first := near.Write([]byte("x"))
	_, second := near.Write([]byte("x"))
	if !errors.Is(first, syscall.ECONNRESET) || !errors.Is(second, syscall.ECONNRESET) {
		t.Errorf("Write: %v, then %v", first, second)
	}
}

// Several who write and try, and pings both ways: what each has written comes in
// its order, and nothing else.
func TestTryWriteAmongWriters(t *testing.T) {
	eachTrying(t, func(t *testing.T, near, far *Conn) {
		const rounds = 400
		var writing sync.WaitGroup
		for id := range byte(3) {
			writing.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(id), 1))
				for i := range rounds {
					// A record is written whole or not at all: it fits a message.
					record := append([]byte{id, byte(i), byte(i >> 8), byte(rnd.IntN(250))}, make([]byte, 250)...)
					record = record[:4+int(record[3])]
					if near.TryWrite(record) == 0 {
						if _, err := near.Write(record); err != nil {
							t.Error(err)
							return
						}
					}
					if i%10 == 0 {
						_ = near.c.ping()
						_ = far.c.ping()
					}
				}
			})
		}
		go func() { writing.Wait(); near.CloseWrite() }()
		go io.Copy(io.Discard, near) // pongs
		var next [3]int
		for {
			var head [4]byte
			if _, err := io.ReadFull(far, head[:]); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, far, int64(head[3])); err != nil {
				t.Fatal(err)
			}
			id, i := head[0], int(head[1])|int(head[2])<<8
			if int(id) >= len(next) || next[id] != i {
				t.Fatalf("record %v after %v", head, next)
			}
			next[id]++
		}
		if next != [3]int{rounds, rounds, rounds} {
			t.Errorf("got %v records", next)
		}
		far.Close()
	})
}

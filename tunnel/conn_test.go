package tunnel

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"piko/fault"
)

// connServer accepts connections and hands them over.
func connServer(t testing.TB) (url string, accepted <-chan *Conn) {
	t.Helper()
	ch := make(chan *Conn, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, TCPPath) {
			t.Errorf("asked for %s", r.URL.Path)
		}
		c, err := AcceptTCP(w, r)
		if err != nil {
			return
		}
		t.Cleanup(func() { c.Close() })
		ch <- c
	}))
	t.Cleanup(srv.Close)
	return srv.URL, ch
}

// connPair is both ends of one connection over loopback.
func connPair(t testing.TB) (client, node *Conn) {
	t.Helper()
	url, accepted := connServer(t)
	client, err := (&Dialer{URL: url}).DialTCP(t.Context(), "db")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, <-accepted
}

// bothSides runs a test from either end.
func bothSides(t *testing.T, test func(t *testing.T, a, b *Conn)) {
	t.Run("from the client", func(t *testing.T) {
		client, node := connPair(t)
		test(t, client, node)
	})
	t.Run("from the node", func(t *testing.T) {
		client, node := connPair(t)
		test(t, node, client)
	})
}

func readAll(t *testing.T, c *Conn, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(c); string(b) != want || err != nil {
		t.Errorf("read %q and %v, want %q and an end in order", b, err, want)
	}
}

func TestConnCarriesBytesBothWays(t *testing.T) {
	bothSides(t, func(t *testing.T, a, b *Conn) {
		if !a.HalfClose() || !b.HalfClose() {
			t.Fatal("both ends are ours and know half-close")
		}
		go io.Copy(struct{ io.Writer }{b}, struct{ io.Reader }{b})
		echoes(t, a)
	})
}

func TestConnEndsOneDirectionByItself(t *testing.T) {
	bothSides(t, func(t *testing.T, a, b *Conn) {
		io.WriteString(a, "question")
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Errorf("CloseWrite again: %v", err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write behind CloseWrite: %v", err)
		}
		readAll(t, b, "question")
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read again behind the end: %v", err)
		}
		io.WriteString(b, "answer")
		select {
		case <-b.Done():
			t.Error("half of the connection is of use")
		default:
		}
		if err := b.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		readAll(t, a, "answer")
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	})
}

// What a client says and hangs up arrives, and then an end: who does not want
// an answer does not wait for it.
func TestConnCloseIsAnEndInOrder(t *testing.T) {
	bothSides(t, func(t *testing.T, a, b *Conn) {
		sent := make([]byte, 3<<20)
		rand.Read(sent)
		go func() {
			a.Write(sent)
			a.Close()
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(sent, got) {
			t.Fatalf("read %d of %d bytes, %v", len(got), len(sent), err)
		}
		eventually(t, func() error {
			if _, err := b.Write([]byte("answer")); err == nil {
				return errors.New("the other end is closed, but takes more")
			}
			return nil
		})
	})
}

func TestConnCloseLosesNothingOfWhatWasWritten(t *testing.T) {
	bothSides(t, func(t *testing.T, a, b *Conn) {
		const size = 1 << 20
		if err := b.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		readAll(t, a, "")
		if _, err := a.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		a.Close() // gives up waiting after a second
		if n, err := io.Copy(io.Discard, b); n != size || err != nil {
			t.Errorf("read %d bytes and %v, want %d", n, err, size)
		}
	})
}

func TestConnResetIsNoEnd(t *testing.T) {
	bothSides(t, func(t *testing.T, a, b *Conn) {
		io.WriteString(a, "half a")
		if _, err := io.ReadFull(b, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		a.Reset()
		if _, err := b.Read(make([]byte, 10)); !errors.Is(err, ErrStreamReset) || !strings.Contains(err.Error(), "1011") {
			t.Errorf("Read: %v, want that it was reset", err)
		}
		<-b.Done()
		if _, err := b.Write([]byte("x")); !errors.Is(err, ErrStreamReset) {
			t.Errorf("Write: %v", err)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read here: %v", err)
		}
		<-a.Done()
	})
}

// A Reset behind the end of one direction is noticed by who does nothing but
// wait for the other one.
func TestConnResetBehindAnEndIsNoticed(t *testing.T) {
	bothSides(t, func(t *testing.T, a, b *Conn) {
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		readAll(t, b, "")
		a.Reset()
		select {
		case <-b.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("nobody noticed")
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, ErrStreamReset) {
			t.Errorf("Write: %v", err)
		}
	})
}

func TestConnResetWakesWhoWaits(t *testing.T) {
	for _, end := range []string{"Reset", "Close"} {
		t.Run(end, func(t *testing.T) {
			bothSides(t, func(t *testing.T, a, b *Conn) {
				read, wrote := make(chan error, 1), make(chan error, 1)
				go func() {
					_, err := a.Read(make([]byte, 1))
					read <- err
				}()
				go func() {
					_, err := a.Write(make([]byte, 64<<20)) // nobody reads
					wrote <- err
				}()
				eventually(t, func() error {
					if q, ok := readSendQueue(a.c.nc); ok && q.queued < 64<<10 {
						return errors.New("nothing is being written")
					}
					return nil
				})
				if end == "Reset" {
					a.Reset()
				} else {
					go a.Close() // waits for room for 5 s
					<-a.Done()
					defer a.Reset()
				}
				if err := <-read; !errors.Is(err, net.ErrClosed) {
					t.Errorf("Read: %v", err)
				}
				if n, err := io.Copy(io.Discard, b); err == nil {
					t.Errorf("the other end read %d bytes and an end in order", n)
				}
				if err := <-wrote; !errors.Is(err, net.ErrClosed) {
					t.Errorf("Write: %v", err)
				}
			})
		})
	}
}

func TestConnDeadlines(t *testing.T) {
	bothSides(t, func(t *testing.T, a, b *Conn) {
		a.SetReadDeadline(time.Now().Add(-time.Second))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %v", err)
		}
		a.SetReadDeadline(time.Time{})
		io.WriteString(b, "later")
		b.CloseWrite()
		readAll(t, a, "later")
		a.SetDeadline(time.Now().Add(-time.Second))
		if _, err := a.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read behind the end: %v", err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %v", err)
		}
	})
}

func TestConnBulkBothWaysAtOnce(t *testing.T) {
	size := 64 << 20
	if raceEnabled || testing.Short() {
		size = 8 << 20
	}
	client, node := connPair(t)
	sums := make(chan [sha256.Size]byte, 4)
	for _, c := range []*Conn{client, node} {
		go func() {
			data := make([]byte, size)
			rand.Read(data)
			for rest := data; len(rest) > 0; {
				n := min(len(rest), 1+len(rest)%200_000)
				if _, err := c.Write(rest[:n]); err != nil {
					t.Error(err)
					break
				}
				rest = rest[n:]
			}
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
			sums <- sha256.Sum256(data)
		}()
		go func() {
			data, err := io.ReadAll(c)
			if err != nil || len(data) != size {
				t.Errorf("read %d bytes, %v", len(data), err)
			}
			sums <- sha256.Sum256(data)
		}()
	}
	seen := make(map[[sha256.Size]byte]int)
	for range 4 {
		seen[<-sums]++
	}
	for _, n := range seen {
		if n != 2 {
			t.Error("what was read is not what was written")
		}
	}
}

func TestDialTCPErrors(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fault.Write(w, r, fault.New(fault.NoUpstream, nil))
	}))
	defer srv.Close()
	_, err := (&Dialer{URL: srv.URL}).DialTCP(t.Context(), "db")
	if refused, ok := errors.AsType[*fault.Refused](err); !ok || refused.Status != http.StatusBadGateway {
		t.Errorf("the node says 502: %v", err)
	}
	if _, err := (&Dialer{URL: srv.URL}).DialTCP(t.Context(), "no/endpoint"); !errors.Is(err, fault.InvalidEndpoint) {
		t.Errorf("an endpoint that none may have: %v", err)
	}
}

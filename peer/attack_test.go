package peer

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestBrokenHandshakesEndAndLeaveNothing(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		a, b := g.start(t, "a", secure, nil), g.start(t, "b", secure, nil)
		hello := rawHello(a.node, b.node, b.proof(), nil)
		var attacks sync.WaitGroup
		for name, attack := range map[string]func(c *net.TCPConn){
			"silence":                     func(c *net.TCPConn) {},
			"an end":                      func(c *net.TCPConn) { c.CloseWrite() },
			"garbage":                     func(c *net.TCPConn) { c.Write(bytes.Repeat([]byte("garbage"), 1000)) },
			"zeros":                       func(c *net.TCPConn) { c.Write(make([]byte, 64)) },
			"half a proof":                func(c *net.TCPConn) { c.Write(make([]byte, macSize/2)); c.CloseWrite() },
			"another request":             func(c *net.TCPConn) { io.WriteString(c, hello) },
			"the client of a websocket":   func(c *net.TCPConn) { c.Write([]byte{0x82, 0x80, 0, 0, 0, 0}) },
			"a TLS record without an end": func(c *net.TCPConn) { c.Write([]byte{22, 3, 1, 0x40, 0}) },
			"TLS 1.2": func(c *net.TCPConn) {
				tls.Client(c, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{tlsProtocol}}).Handshake()
			},
			"TLS without a certificate": func(c *net.TCPConn) {
				conn := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{tlsProtocol}})
				conn.Handshake()
				io.Copy(io.Discard, conn)
			},
			"TLS with a certificate of its own": func(c *net.TCPConn) {
				id, _ := newIdentity(true)
				conf := id.tlsConfig(b.Key())
				conn := tls.Client(c, conf)
				conn.Handshake()
				io.Copy(io.Discard, conn)
			},
			"TLS for another purpose": func(c *net.TCPConn) {
				if !secure {
					return
				}
				conf := a.id.tlsConfig(b.Key())
				conf.NextProtos, conf.VerifyConnection = []string{"h2"}, nil
				conn := tls.Client(c, conf)
				conn.Handshake()
				io.Copy(io.Discard, conn)
			},
			"TLS without a purpose": func(c *net.TCPConn) {
				if !secure {
					return
				}
				conf := a.id.tlsConfig(b.Key())
				conf.NextProtos, conf.VerifyConnection = nil, nil
				conn := tls.Client(c, conf)
				conn.Handshake()
				io.Copy(io.Discard, conn)
			},
		} {
			attacks.Go(func() {
				c := dialTCP(t, b.node.Addr)
				begun := time.Now()
				io.WriteString(c, hello)
				br := bufio.NewReader(c)
				if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
					t.Errorf("%s: %v, %v", name, res, err)
					return
				}
				attack(c)
				got, err := io.ReadAll(br)
				if errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) > 5*time.Second {
					t.Errorf("%s: closed after %v, %v", name, time.Since(begun), err)
				}
				if !secure && len(got) > nonceSize+macSize {
					t.Errorf("%s: %d bytes came", name, len(got))
				}
			})
		}
		attacks.Wait()
		if n := b.inSessions(); n != 0 {
			t.Errorf("%d sessions", n)
		}
		eventually(t, func() error {
			b.slots.mu.Lock()
			defer b.slots.mu.Unlock()
			if b.slots.all != 0 || len(b.slots.byHost) != 0 {
				return fmt.Errorf("%d handshakes are counted", b.slots.all)
			}
			return nil
		})
		t.Run("bytes before the 101", func(t *testing.T) {
			c := dialTCP(t, b.node.Addr)
			io.WriteString(c, hello+"early")
			if got, _ := io.ReadAll(c); len(got) != 0 {
				t.Errorf("answered %q", got)
			}
		})
		connect(t, a, b)
	})
}

func TestSlowHandshakesKeepNobodyOut(t *testing.T) {
	var g gossip
	a, b := g.start(t, "a", false, nil), g.start(t, "b", false, nil)
	hello := rawHello(a.node, b.node, proofMAC, nil)
	var slow []net.Conn
	refused := 0
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	for range 2 * maxUnprovenPerHost {
		c, err := from.DialContext(t.Context(), "tcp", b.node.Addr)
		if err != nil {
			t.Skip(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(c, hello)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case res.StatusCode == 503:
			refused++
		default:
			slow = append(slow, c)
		}
	}
	if refused == 0 || len(slow) < maxUnprovenPerHost {
		t.Errorf("%d are let hang and %d refused", len(slow), refused)
	}
	begun := time.Now()
	connect(t, a, b) // from another address
	t.Logf("connected after %v", time.Since(begun))
	for _, c := range slow {
		if _, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the slow ones were let go after %v", took)
	}
}

// A callee that answers strangely gets nothing but the request.
func TestStrangeAnswersOfACallee(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		a := g.start(t, "a", secure, nil)
		var callees sync.WaitGroup
		defer callees.Wait()
		for name, answer := range map[string]string{
			"nothing":              "",
			"ssh":                  "SSH-2.0-OpenSSH_9.6\r\n",
			"another protocol":     "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			"200":                  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
			"101 and garbage":      switching + strings.Repeat("x", 100),
			"101 and half a proof": switching + strings.Repeat("x", 10),
			"a header without end": "HTTP/1.1 101 Switching Protocols\r\nX: " + strings.Repeat("x", 64<<10),
			"a refusal without end": "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\n\r\n" +
				strings.Repeat("x", 64<<10),
			"301": "HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:22/\r\nContent-Length: 0\r\n\r\n",
			"100": strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 10),
		} {
			callees.Go(func() {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Error(err)
					return
				}
				defer l.Close()
				heard := make(chan string, 1)
				go func() {
					c, err := l.Accept()
					if err != nil {
						heard <- ""
						return
					}
					defer c.Close()
					br := bufio.NewReader(c)
					if _, err := http.ReadRequest(br); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					io.WriteString(c, answer)
					rest, _ := io.ReadAll(br)
					heard <- string(rest)
				}()
				n := Node{ID: "b", Epoch: "b-1", Addr: l.Addr().String(), Key: make([]byte, len(a.Key()))}
				begun := time.Now()
				refusedLink(t, a, n)
				if took := time.Since(begun); took > 5*time.Second {
					t.Errorf("%s: refused after %v", name, took)
				}
				if rest := <-heard; !secure && rest != "" {
					t.Errorf("%s: the caller went on: %q", name, rest)
				}
			})
		}
	})
}

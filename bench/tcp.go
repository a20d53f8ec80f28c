package bench

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// TCP is bytes that come back over a connection.
type TCP struct {
	// Dial opens a connection to the endpoint, or for a target that knows no
	// endpoints to the target.
	Dial func(ctx context.Context, endpoint string) (net.Conn, error)
	// Endpoints are what connections are for, by chance; none for a target that
	// knows no endpoints.
	Endpoints []string
	// Size is how many bytes go there and back in an exchange.
	Size int
	// Connect makes a new connection for each exchange.
	Connect bool
}

// Target returns what Load.Run wants.
func (b TCP) Target(name string, processes ...Process) Target {
	body := newBodies(b.Size)
	return Target{Name: name, Processes: processes, Client: func() Client {
		return &tcpClient{TCP: b, bodies: body, buf: make([]byte, 64<<10)}
	}}
}

// tcpClient is one of the clients.
type tcpClient struct {
	TCP
	bodies *bodies
	buf    []byte
	conn   net.Conn // nil: the next exchange makes one
}

// Close implements Client.
func (c *tcpClient) Close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// Exchange implements Client.
func (c *tcpClient) Exchange(ctx context.Context) error {
	endpoint := ""
	if len(c.Endpoints) > 0 {
		endpoint = c.Endpoints[rand.IntN(len(c.Endpoints))]
	}
	err := c.exchange(ctx, endpoint, c.bodies.one())
	if err != nil || c.Connect {
		c.Close()
	}
	return err
}

// exchange sends body and reads it again. What is more than a buffer is sent by a
// goroutine of its own, as the echo may wait for us to read.
func (c *tcpClient) exchange(ctx context.Context, endpoint string, body []byte) error {
	if c.conn == nil {
		conn, err := c.Dial(ctx, endpoint)
		if err != nil {
			return err
		}
		c.conn = conn
	}
	conn := c.conn
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	sent := make(chan error, 1)
	if len(body) > 16<<10 {
		go func() { sent <- write(conn, body) }()
	} else {
		sent <- write(conn, body)
	}
	err := c.read(body)
	if err != nil {
		_ = conn.SetDeadline(time.Unix(1, 0)) // the sender may wait for somebody who does not read
	}
	if werr := <-sent; err == nil {
		err = werr
	}
	return err
}

func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// read wants as many bytes as there are in body, and that they are those.
func (c *tcpClient) read(body []byte) error {
	for len(body) > 0 {
		n, err := c.conn.Read(c.buf[:min(len(c.buf), len(body))])
		if string(c.buf[:n]) != string(body[:n]) {
			return errWrongEcho
		}
		if body = body[n:]; err != nil && len(body) > 0 {
			if err == io.EOF {
				err = errTruncated
			}
			return err
		}
	}
	return nil
}

// Await returns once every endpoint answers.
func (b TCP) Await(ctx context.Context) error {
	b.Size = 1
	c := b.Target("").Client().(*tcpClient)
	defer c.Close()
	for _, endpoint := range b.Endpoints {
		c.Close()
		if err := await(ctx, awaitPause, func() error {
			err := c.exchange(ctx, endpoint, c.bodies.one())
			if err != nil {
				c.Close()
			}
			return err
		}); err != nil {
			return fmt.Errorf("reach %s: %w", endpoint, err)
		}
	}
	return nil
}

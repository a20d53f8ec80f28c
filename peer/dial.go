package peer

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"piko/fault"
)

// maxAnswer bounds the head of the callee's answer and a refusal's body.
const maxAnswer = 8 << 10

// refusedError is a callee's answer other than 101.
type refusedError struct {
	answer *fault.Refused
	reason string // one of ours, or ""
}

// Error says what the callee answered.
func (e *refusedError) Error() string { return e.answer.Error() }

// Unwrap returns the answer.
func (e *refusedError) Unwrap() error { return e.answer }

// unknownThere says that the callee has not heard of us yet.
func unknownThere(err error) bool {
	e, ok := errors.AsType[*refusedError](err)
	return ok && e.reason == refusedUnknown
}

// dial connects to n and proves both sides to each other, within 1 s.
func (p *Peers) dial(ctx context.Context, n *Node) (net.Conn, error) {
	switch {
	case !p.fits(n):
		return nil, errors.New("dial node: only one of the nodes has a cluster secret, or certificates of the cluster's authority")
	case !validEpoch(n.Epoch), n.Epoch == p.opt.Epoch:
		return nil, errors.New("dial node: its epoch is not one of another node")
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	nc, err := p.connect(ctx, "tcp", n.Addr)
	if err != nil {
		return nil, fmt.Errorf("dial node: %w", err)
	}
	stop := closeOnEnd(ctx, nc)
	conn, err := p.call(nc, n)
	if !stop() {
		err = context.Cause(ctx) // which has closed nc
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("shake hands with node: %w", err)
	}
	return conn, nil
}

// closeOnEnd closes nc when ctx ends, until stop is called, which reports
// whether it has not.
func closeOnEnd(ctx context.Context, nc net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { nc.Close() })
}

// call is the caller's side of the handshake.
func (p *Peers) call(nc net.Conn, n *Node) (net.Conn, error) {
	if err := nc.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, err
	}
	h := hello{caller: p.opt.Epoch, callee: n.Epoch, proof: p.proof()}
	rand.Read(h.nonce[:])
	if _, err := nc.Write(appendHello(nil, &h, n.Addr)); err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	// All that comes before our proof is in br's limit, and nothing else.
	br := bufio.NewReaderSize(&io.LimitedReader{R: nc, N: maxAnswer}, 1<<10)
	if err := readSwitching(br); err != nil {
		return nil, err
	}
	conn, err := p.proveTo(nc, br, &h, n)
	if err != nil {
		return nil, err
	}
	if err := readWelcome(conn); err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

// proveTo proves us to n and n to us.
func (p *Peers) proveTo(nc net.Conn, br *bufio.Reader, h *hello, n *Node) (net.Conn, error) {
	if p.proof() != proofMAC && br.Buffered() > 0 {
		return nil, errEarly
	}
	switch p.proof() {
	case proofCA:
		return p.proveToCA(nc, n)
	case proofTLS:
		conn := tls.Client(nc, p.id.tlsConfig(n.Key))
		return conn, conn.Handshake()
	}
	x := exchange{caller: p.self(), callee: *n, callerNonce: h.nonce}
	if err := x.proveCaller(br, nc); err != nil {
		return nil, err
	}
	if br.Buffered() > 0 {
		return nil, errEarly // the callee has to wait for our proof
	}
	return nc, nil
}

// readSwitching reads the callee's answer, which should be 101.
func readSwitching(br *bufio.Reader) error {
	res, err := http.ReadResponse(br, &http.Request{Method: http.MethodGet})
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer res.Body.Close()
		reason := res.Header.Get(headerRefused)
		return &refusedError{answer: fault.ReadRefused(res), reason: reason}
	}
	if !hasToken(res.Header["Upgrade"], upgradeToken) {
		return errors.New("read answer: it switches to another protocol")
	}
	return nil
}

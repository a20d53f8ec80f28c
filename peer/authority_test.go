package peer

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"piko/certs/certstest"
)

// authority is what a node shows, and whom it trusts.
func authority(shown certstest.Pair, trusted *x509.CertPool) *Authority {
	certificates := []tls.Certificate{shown.TLS()}
	return &Authority{
		Server: &tls.Config{
			Certificates: certificates, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert,
			MinVersion: tls.VersionTLS13, NextProtos: []string{AuthorityProtocol},
		},
		Client: func() *tls.Config { return &tls.Config{Certificates: certificates, RootCAs: trusted} },
	}
}

// startCertified runs a node with certificates that others know of.
func (g *gossip) startCertified(t testing.TB, id string, a *Authority) *testNode {
	t.Helper()
	n := g.startWith(t, id, Options{
		Epoch: id + "-0197f0000000", Secure: true, Authority: a, Lookup: g.lookup,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s", id) }),
	})
	g.tell(n.node)
	return n
}

const localhost = "127.0.0.1"

func TestNodesOfOneAuthorityMeet(t *testing.T) {
	var g gossip
	ca := certstest.NewCA(t, "cluster")
	a := g.startCertified(t, "a", authority(ca.Issue([]string{localhost}), ca.Pool()))
	b := g.startCertified(t, "b", authority(ca.Issue([]string{localhost}), ca.Pool()))
	l, _ := connect(t, a, b)
	res, err := l.RoundTrip(request(t, "GET", "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "hello from b" {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestTheServerNameIsCheckedOfTheCallee(t *testing.T) {
	var g gossip
	ca := certstest.NewCA(t, "cluster")
	named := func(name, want string) *Authority {
		a := authority(ca.Issue([]string{name}), ca.Pool())
		base := a.Client()
		base.ServerName = want
		a.Client = func() *tls.Config { return base }
		return a
	}
	a := g.startCertified(t, "a", named("nodes.test", "nodes.test"))
	b := g.startCertified(t, "b", named("nodes.test", ""))
	c := g.startCertified(t, "c", named("other.test", "nodes.test"))
	connect(t, a, b)
	refusedLink(t, b, a.node) // by the address, which the certificate is not for
	refusedLink(t, a, c.node)
}

// A member of the gossip that has the secret and no right certificate gets
// nowhere, in either direction.
func TestMembersWithoutACertificateOfTheAuthorityAreRefused(t *testing.T) {
	ca, other := certstest.NewCA(t, "cluster"), certstest.NewCA(t, "cluster")
	for _, tt := range []struct {
		name  string
		wrong *Authority
	}{
		{"of another authority", authority(other.Issue([]string{localhost}), other.Pool())},
		{"of another authority, trusting ours", authority(other.Issue([]string{localhost}), ca.Pool())},
		{"expired", authority(ca.Issue([]string{localhost}, certstest.Expiring(time.Now().Add(-time.Minute))), ca.Pool())},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var g gossip
			right := g.startCertified(t, "right", authority(ca.Issue([]string{localhost}), ca.Pool()))
			wrong := g.startCertified(t, "wrong", tt.wrong)
			refusedLink(t, right, wrong.node)
			refusedLink(t, wrong, right.node)
		})
	}
	t.Run("for servers alone", func(t *testing.T) {
		var g gossip
		right := g.startCertified(t, "right", authority(ca.Issue([]string{localhost}), ca.Pool()))
		wrong := g.startCertified(t, "wrong", authority(ca.Issue([]string{localhost}, certstest.ForServers), ca.Pool()))
		refusedLink(t, wrong, right.node)
	})
	t.Run("none", func(t *testing.T) {
		var g gossip
		right := g.startCertified(t, "right", authority(ca.Issue([]string{localhost}), ca.Pool()))
		for _, secure := range []bool{false, true} {
			wrong := g.start(t, fmt.Sprintf("wrong-%v", secure), secure, nil)
			refusedLink(t, right, wrong.node)
			refusedLink(t, wrong, right.node)
			// And not if gossip lies about the kind of key either.
			lie := right.node
			lie.Key = make([]byte, len(wrong.node.Key))
			refusedLink(t, wrong, lie)
		}
	})
}

// A certificate alone is worth nothing either: the key is that of the process
// that gossip knows.
func TestCertificatesDoNotStandInForTheKey(t *testing.T) {
	var g gossip
	ca := certstest.NewCA(t, "cluster")
	a := g.startCertified(t, "a", authority(ca.Issue([]string{localhost}), ca.Pool()))
	b := g.startCertified(t, "b", authority(ca.Issue([]string{localhost}), ca.Pool()))
	thief := g.startCertified(t, "c", authority(ca.Issue([]string{localhost}), ca.Pool()))

	stolen := a.node // its name with the thief's key is what the thief can offer
	stolen.Key = thief.node.Key
	g.tell(stolen)
	refusedLink(t, a, b.node)
	g.tell(a.node)
	callee := b.node
	callee.Addr = thief.node.Addr // the thief answers where b should
	refusedLink(t, a, callee)
	callee = b.node
	callee.Key = thief.node.Key
	refusedLink(t, a, callee)
	connect(t, a, b)
}

// One who has a certificate and stands where b should, but does not know b's key,
// cannot make a believe that it is b.
func TestACalleeMustKnowItsKey(t *testing.T) {
	var g gossip
	ca := certstest.NewCA(t, "cluster")
	au := authority(ca.Issue([]string{localhost}), ca.Pool())
	a := g.startCertified(t, "a", authority(ca.Issue([]string{localhost}), ca.Pool()))
	ln, err := net.Listen("tcp", localhost+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		if _, err := http.ReadRequest(bufio.NewReader(nc)); err != nil {
			t.Error(err)
		}
		io.WriteString(nc, switching)
		conn := tls.Server(nc, au.Server)
		conn.Write(append(make([]byte, nonceSize+macSize), welcome)) // whatever the caller proves
		io.Copy(io.Discard, conn)
	}()
	refusedLink(t, a, Node{ID: "b", Epoch: "b-0197f0000000", Addr: ln.Addr().String(), Key: make([]byte, authorityKey)})
	ln.Close()
	<-done
}

// The MACs of one TLS connection are of no use in another: a node in the middle,
// with a certificate of the authority, could pass them on otherwise.
func TestTheProofIsBoundToItsConnection(t *testing.T) {
	ca := certstest.NewCA(t, "cluster")
	au := authority(ca.Issue([]string{localhost}), ca.Pool())
	caller, callee := Node{Epoch: "a-1", Key: make([]byte, authorityKey)}, Node{Epoch: "b-1", Key: make([]byte, authorityKey)}
	var macs []string
	for range 2 {
		client, server := tlsPipe(t, au)
		for _, conn := range []*tls.Conn{client, server} {
			x, err := bound(conn, caller, callee)
			if err != nil {
				t.Fatal(err)
			}
			macs = append(macs, string(x.mac(fromCaller)))
		}
	}
	if macs[0] != macs[1] || macs[2] != macs[3] || macs[0] == macs[2] {
		t.Error("the proofs of two connections are the same, or those of one are not")
	}
}

// tlsPipe is both ends of a TLS connection.
func tlsPipe(t *testing.T, a *Authority) (client, server *tls.Conn) {
	t.Helper()
	accepted := make(chan *tls.Conn, 1)
	ln, err := tls.Listen("tcp", localhost+":0", a.Server)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			t.Error(err)
			close(accepted)
			return
		}
		conn := nc.(*tls.Conn)
		if err := conn.HandshakeContext(t.Context()); err != nil {
			t.Error(err)
		}
		accepted <- conn
	}()
	config := a.Client()
	config.NextProtos, config.ServerName = []string{AuthorityProtocol}, localhost
	client = tls.Client(dialTCP(t, ln.Addr().String()), config)
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	server = <-accepted
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func TestAuthorityWithoutTheProtocolIsNoProof(t *testing.T) {
	ca := certstest.NewCA(t, "cluster")
	au := authority(ca.Issue([]string{localhost}), ca.Pool())
	client, _ := tlsPipe(t, au)
	if _, err := bound(client, Node{}, Node{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(client.ConnectionState().NegotiatedProtocol, "piko-peer") {
		t.Error("no protocol was agreed on")
	}
	au.Server.NextProtos = nil
	client, _ = tlsPipe(t, au)
	if _, err := bound(client, Node{}, Node{}); err == nil {
		t.Error("a connection without the protocol is taken for one between nodes")
	}
}

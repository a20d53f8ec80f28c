package upstreamconn

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"piko/tunnel"
)

// openFor opens a stream to the endpoint's upstream for a client and says
// something on it.
func openFor(t *testing.T, n *node, client, text string) net.Conn {
	t.Helper()
	ctx := tunnel.WithClientAddr(t.Context(), netip.MustParseAddrPort(client))
	conn, err := n.waitFor(t, "endpoint", 1)[0].Upstream().Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	io.WriteString(conn, text)
	return conn
}

func TestUpstreamLearnsWhoTheClientIs(t *testing.T) {
	for name, c := range map[string]struct {
		features []string
		want     string
	}{
		"with the feature":    {[]string{tunnel.FeatureMeta}, "192.0.2.7:4711"},
		"without the feature": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, nil)
			sess, err := (&tunnel.Dialer{URL: n.url, Features: c.features}).Dial(t.Context(), "endpoint")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { sess.Close() })
			openFor(t, n, "192.0.2.7:4711", "hello")
			st, err := sess.Accept()
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 5)
			st.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.ReadFull(st, b); string(b) != "hello" || err != nil {
				t.Errorf("read %q, %v", b, err)
			}
			if addr := st.ClientAddr(); addr.IsValid() != (c.want != "") || c.want != "" && addr.String() != c.want {
				t.Errorf("the client is %v, want %q", addr, c.want)
			}
		})
	}
}

// A v0.9.0 agent must get the client's bytes and no other.
func TestOldAgentSeesNoPreamble(t *testing.T) {
	n := startNode(t, nil)
	old := dialOldAgent(t, n.url, "endpoint")
	openFor(t, n, "192.0.2.7:4711", "hello")
	st, err := old.sess.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	st.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(st, b); string(b) != "hello" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}

package gossip

import (
	"bytes"
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

func FuzzMeta(f *testing.F) {
	f.Add(meta{proxyAddr: "10.0.0.1:8000", adminAddr: "[2001:db8::1]:8002", key: []byte("0123456789abcdef"), draining: true}.encode())
	f.Add(meta{proxyAddr: "n:1", leaving: true}.encode())
	f.Add([]byte{1, 0xff, 3, 'a', ':', '1', 0, 0, 9, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMeta(b)
		if err != nil {
			return
		}
		if again, err := parseMeta(m.encode()); err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%+v becomes %+v, %v", m, again, err)
		}
		if strings.ContainsAny(m.proxyAddr+m.adminAddr, " \n\"/") {
			t.Errorf("accepted %+v", m)
		}
	})
}

func FuzzAnnouncement(f *testing.F) {
	f.Add(announcement{7, head{epoch: "n-00dc6acfac00", seq: 1, digest: 2, count: 3, upstreams: 4}}.encode())
	f.Add([]byte{1, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnnouncement(b)
		if err != nil {
			return
		}
		if again, err := parseAnnouncement(a.encode()); err != nil || again != a {
			t.Errorf("%+v becomes %+v, %v", a, again, err)
		}
	})
}

func FuzzMergeState(f *testing.F) {
	b := appendAnnouncement(nil, announcement{7, head{epoch: "n-00dc6acfac00", seq: 1}})
	f.Add(b)
	f.Add(append(b, b[:4]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &Cluster{nodes: map[string]*node{"n-00dc6acfac00": {}}}
		c.metrics = newMetrics(nil, c)
		c.queue.NumNodes = func() int { return 1 }
		delegate{c}.MergeRemoteState(b, false)
	})
}

func TestMeta(t *testing.T) {
	good := meta{proxyAddr: "10.0.0.1:8000", adminAddr: "10.0.0.1:8002", key: bytes.Repeat([]byte{7}, 32)}
	later := append(good.encode(), "of a later version"...)
	later[1] |= 0xf8
	if m, err := parseMeta(later); err != nil || !reflect.DeepEqual(m, good) {
		t.Errorf("what is not known is left alone: %+v, %v", m, err)
	}
	for i := range good.encode() {
		if _, err := parseMeta(good.encode()[:i]); err == nil {
			t.Errorf("%d bytes are enough", i)
		}
	}
	newer := good.encode()
	newer[0]++
	if _, err := parseMeta(newer); err == nil {
		t.Error("another version is understood")
	}
	for _, addr := range []string{"", "10.0.0.1", "a:1\n", "a b:1", "a\x1b[2J:1", "a/b:1", "u@a:1", "\"a\":1", "\u202e:1", ":1"} {
		for _, m := range []meta{{proxyAddr: addr}, {proxyAddr: "a:1", adminAddr: addr}} {
			if _, err := parseMeta(m.encode()); err == nil && m.proxyAddr+m.adminAddr != "a:1" {
				t.Errorf("an address may be %q", addr)
			}
		}
	}
	long := good
	long.proxyAddr = strings.Repeat("a", 180) + ":8000"
	if long.check() == nil {
		t.Error("a meta that is too long passes")
	}
}

func TestAnnouncementsOfOtherVersionsAreNone(t *testing.T) {
	b := announcement{7, head{epoch: "n-00dc6acfac00", seq: 1}}.encode()
	if _, err := parseAnnouncement(b); err != nil {
		t.Fatal(err)
	}
	b[0]++
	if a, err := parseAnnouncement(b); err == nil {
		t.Errorf("%+v", a)
	}
}

// TestOldNewsAreNoNews: a replayed announcement changes nothing, and a replayed message does not bring a node back that
// has left.
func TestOldNewsAreNoNews(t *testing.T) {
	const epoch, left = "n-00dc6acfac00", "n-00dc6acfab00"
	c := &Cluster{nodes: map[string]*node{epoch: {}}, gone: map[string]time.Time{left: time.Now()}}
	c.metrics = newMetrics(nil, c)
	c.queue.NumNodes = func() int { return 1 }
	for _, round := range []uint64{7, 6, 7} {
		c.hear(announcement{round, head{epoch: epoch, seq: round, upstreams: round}}.encode())
		if n := c.nodes[epoch]; n.round != 7 || n.head.seq != 7 {
			t.Errorf("after round %d: round %d, %+v", round, n.round, n.head)
		}
	}
	alive := func(epoch string) error {
		return membership{c}.NotifyAlive(&memberlist.Node{Name: epoch, Addr: net.IPv4(10, 0, 0, 1), Port: 8003, Meta: meta{proxyAddr: "10.0.0.1:8000"}.encode()})
	}
	if err := alive(left); !errors.Is(err, errGone) {
		t.Errorf("one that has left: %v", err)
	}
	if err := errors.Join(alive(epoch), alive("n-00dc6acfad00")); err != nil {
		t.Errorf("others: %v", err)
	}
}

func TestEpoch(t *testing.T) {
	start := time.UnixMilli(1_700_000_000_123)
	if id, at, err := parseEpoch(NewEpoch("node-1", start)); id != "node-1" || !at.Equal(start) || err != nil {
		t.Errorf("got %s, %v, %v", id, at, err)
	}
	for _, bad := range []string{"", "-018bcfe5687b", "n018bcfe5687b", "n-018BCFE5687B", "n-18bcfe5687b", "n-+18bcfe5687b", "a b-018bcfe5687b", strings.Repeat("n", 200) + "-018bcfe5687b"} {
		if id, _, err := parseEpoch(bad); err == nil {
			t.Errorf("%q is of node %q", bad, id)
		}
	}
}

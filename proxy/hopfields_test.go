package proxy

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"

	"piko/relay"
)

// FuzzHopHead: what a lane takes of another node the handler takes, too, and understands as the same.
func FuzzHopHead(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\nX-Piko-Route: e\r\nX-Piko-Attempts: 2\r\nX-Piko-Endpoint: E\r\n\r\n",
		"GET /%5Fpiko/x HTTP/1.1\r\nHost: a\r\nX-Piko-Route: t/e\r\n\r\n", "GET /_piko HTTP/1.1\r\nHost: a\r\nX-Piko-Route: e\r\n\r\n",
		"GET /a?/_piko HTTP/1.1\r\nHost: a\r\nx-piko-route: e\r\nx-piko-attempts: -1\r\nX-Piko-Foo: x\r\n\r\n",
		"GET /%2f HTTP/1.1\r\nHost: a\r\nX-Piko-Route: e\r\nX-Piko-Route: f\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX-Piko-Route: e\r\nX-Piko-: a\r\n\r\n",
		"GET /_pik%6 HTTP/1.1\r\nHost: a\r\nX-PIKO-ROUTE: E\r\nX-Piko-Attempts: 9\r\nX_Piko_Route: f\r\nConnection: x\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		i := bytes.Index(p, []byte("\r\n\r\n"))
		k := &hopLane{}
		if i < 0 || !relay.Plain(p[:i+4], k) || k.routes != 1 {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(p)))
		if err != nil {
			t.Fatalf("taken, but net/http says %v", err)
		}
		endpoint, err := routeOf(r)
		x := &exchange{r: r}
		x.readAttempts()
		if err != nil || endpoint != k.endpoint || x.attempt.most != 1+k.more || isReserved(r.URL.Path) {
			t.Errorf("%q: endpoint %q, %d more, path %q; the handler says %q %v, %d", p, k.endpoint, k.more, r.URL.Path, endpoint, err, x.attempt.most-1)
		}
		for name := range r.Header {
			keep, ok := k.RequestField([]byte(name), []byte("0"))
			if internal(name) && name != headerEndpoint && (keep || !ok && k.routes < 2 && k.attempts < 2) || !internal(name) && !keep {
				t.Errorf("%s is sent on: %v", name, keep)
			}
		}
	})
}

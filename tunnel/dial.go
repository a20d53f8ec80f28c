package tunnel

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"piko/fault"
)

const (
	// dialTimeout bounds an attempt, from the first packet to the 101.
	dialTimeout = 10 * time.Second

	// maxAnswer bounds the header of the server's answer, and what is read of a
	// refusal's body.
	maxAnswer = 64 << 10

	// maxInterim is how many 1xx answers may come before the last one.
	maxInterim = 5
)

// Dialer opens tunnels to a server. Only URL is needed. It must not be changed
// while it is in use; any number of goroutines may dial.
type Dialer struct {
	// URL of the server or a load balancer before it: http, https, ws or wss.
	// A path is a prefix.
	URL string
	// ProxyURL of a forward proxy: http, https, socks5 or socks5h, with
	// credentials if it wants any. "" follows HTTPS_PROXY, HTTP_PROXY and
	// NO_PROXY of the environment.
	ProxyURL string
	// TLS for https and wss; nil trusts the system's roots. It is cloned, and
	// its ServerName and NextProtos are set by the Dialer where they must be.
	// Its roots hold for a proxy that is reached by https, too.
	TLS *tls.Config
	// GetTLS, if not nil, is asked for each connection in place of TLS.
	GetTLS func() *tls.Config
	// Token gives the bearer token of an attempt; nil, or "", sends none.
	Token func(context.Context) (string, error)
	// TenantID of the token's issuer; "" for the default tenant.
	TenantID string
	// Instance names this process to nodes; see HeaderInstance.
	Instance string
	// Protocol is http or tcp; see HeaderProtocol.
	Protocol string
	// Features are what the upstream offers beside FeatureControl, which it
	// always does; the node accepts what it knows, see Peer.
	Features []string
	// Nodes are the ids of nodes that are to refuse the tunnel, as there is one
	// to each of them; see HeaderNodes, which names the first 16. A v0.9.0 node
	// does not know of it.
	Nodes []string
	// Unhealthy says that traffic is to come only if no other upstream is better,
	// until Session.Weight says otherwise; see HeaderWeight.
	Unhealthy bool
	// Timeout bounds one attempt; 0 means 10 s.
	Timeout time.Duration
	// Options of the sessions.
	Options Options
}

// Dial makes one attempt to open a tunnel on which the server takes traffic for
// the endpoint. ctx and Timeout bound the attempt, not the session.
//
// An HTTP answer other than 101 is a *fault.Refused, an endpoint that no server
// would take a *fault.Error; any other error is the network's or the setting's.
func (d *Dialer) Dial(ctx context.Context, endpoint string) (*Session, error) {
	if _, err := ParseEndpoint(endpoint); err != nil {
		return nil, fmt.Errorf("dial tunnel: %w", err)
	}
	extra := http.Header{}
	set := func(name, value string) {
		if value != "" {
			extra.Set(name, value)
		}
	}
	offered := append([]string{FeatureControl}, d.Features...)
	set(HeaderFeatures, strings.Join(offered, ", "))
	set(HeaderInstance, d.Instance)
	set(HeaderProtocol, d.Protocol)
	set(HeaderNodes, nodeList(d.Nodes))
	if d.Unhealthy {
		set(HeaderWeight, "0")
	}
	// As the user wrote it: a v0.9.0 server tells cases apart.
	c, answer, err := d.dialWebSocket(ctx, UpstreamPath+url.PathEscape(endpoint), extra)
	if err != nil {
		return nil, fmt.Errorf("dial tunnel: %w", wrongPort(err))
	}
	return startSession(c, false, readPeer(answer, offered), d.Options), nil
}

// wrongPort adds a hint to the answers that another port of a node gives: they
// would say that the request names no endpoint, or that there is nothing.
func wrongPort(err error) error {
	if errors.Is(err, fault.MissingEndpoint) || errors.Is(err, fault.NotFound) || errors.Is(err, fault.NoUpstream) {
		return fmt.Errorf("%w (is this the upstream port of a server? It is 8001 unless set otherwise)", err)
	}
	return err
}

// readPeer reads what a node says of itself; a v0.9.0 node says nothing. A
// feature that was not offered is not accepted by it.
func readPeer(answer http.Header, offered []string) Peer {
	var p Peer
	for _, name := range readFeatures(answer) {
		if slices.Contains(offered, name) {
			p.Features = append(p.Features, name)
		}
	}
	if id := answer.Get(HeaderNodeID); isToken(id) {
		p.NodeID = id
	}
	if n, err := strconv.ParseUint(answer.Get(HeaderClusterSize), 10, 16); err == nil {
		p.ClusterSize = int(n)
	}
	return p
}

// dialWebSocket connects to path, which is escaped and gets the URL's path
// before it, and returns the header of the 101.
func (d *Dialer) dialWebSocket(ctx context.Context, path string, extra http.Header) (*carrier, http.Header, error) {
	server, err := parseServerURL(d.URL)
	if err != nil {
		return nil, nil, err
	}
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = dialTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := d.request(ctx, server, path, extra)
	if err != nil {
		return nil, nil, err
	}
	nc, err := d.connect(ctx, server)
	if err != nil {
		return nil, nil, err
	}
	var res *http.Response
	var buffered []byte
	err = underContext(ctx, nc, func() (err error) {
		res, buffered, err = shakeHands(nc, req)
		return err
	})
	if err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("open websocket at %s: %w", server.Host, err)
	}
	tuneSocket(nc)
	return newCarrier(nc, buffered, true), res.Header, nil
}

// request makes the handshake's request.
func (d *Dialer) request(ctx context.Context, server *url.URL, path string, extra http.Header) (*http.Request, error) {
	target := *server
	target.RawPath = strings.TrimRight(server.EscapedPath(), "/") + path
	var err error
	if target.Path, err = url.PathUnescape(target.RawPath); err != nil {
		return nil, fmt.Errorf("parse path: %w", err)
	}
	key := make([]byte, handshakeKey)
	rand.Read(key)
	h := http.Header{}
	maps.Copy(h, extra)
	h.Set("User-Agent", userAgent())
	h.Set("Upgrade", "websocket")
	h.Set("Connection", "Upgrade")
	h.Set("Sec-WebSocket-Version", "13")
	h.Set("Sec-WebSocket-Key", base64.StdEncoding.EncodeToString(key))
	if d.TenantID != "" {
		h.Set(HeaderTenantID, d.TenantID)
	}
	if err := d.authorize(ctx, h); err != nil {
		return nil, err
	}
	return &http.Request{Method: http.MethodGet, URL: &target, Host: server.Host, Header: h}, nil
}

// authorize adds the token.
func (d *Dialer) authorize(ctx context.Context, h http.Header) error {
	if d.Token == nil {
		return nil
	}
	token, err := d.Token(ctx)
	if err != nil {
		return fmt.Errorf("get token: %w", err)
	}
	if token = strings.TrimSpace(token); token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	return nil
}

// underContext runs f, which works on nc, until ctx ends.
func underContext(ctx context.Context, nc net.Conn, f func() error) error {
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() {
		// The deadline is set, or will be: nc is of no use any more.
		return context.Cause(ctx)
	}
	return err
}

// shakeHands sends the request and reads the answer, and what came behind it.
func shakeHands(nc net.Conn, req *http.Request) (*http.Response, []byte, error) {
	if err := req.Write(nc); err != nil {
		return nil, nil, fmt.Errorf("send handshake: %w", err)
	}
	res, br, err := readAnswer(nc, req)
	if err != nil {
		return nil, nil, fmt.Errorf("read handshake's answer: %w", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer res.Body.Close()
		return nil, nil, fault.ReadRefused(res)
	}
	if err := checkAnswer(res, req.Header.Get("Sec-WebSocket-Key")); err != nil {
		return nil, nil, err
	}
	buffered, _ := br.Peek(br.Buffered())
	return res, buffered, nil
}

// readAnswer reads the answer that is the last: 1xx may come before it. Behind
// it, the reader may hold more than belongs to it.
func readAnswer(nc net.Conn, req *http.Request) (*http.Response, *bufio.Reader, error) {
	limited := &io.LimitedReader{R: nc, N: maxAnswer}
	br := bufio.NewReader(limited)
	for range maxInterim {
		res, err := http.ReadResponse(br, req)
		switch {
		case err != nil && limited.N <= 0:
			return nil, nil, errors.New("header is over 64 KiB")
		case err == io.EOF:
			return nil, nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, nil, err
		case res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols:
			return res, br, nil
		}
	}
	return nil, nil, errors.New("too many 1xx answers")
}

// checkAnswer makes sure that the 101 is a WebSocket server's and to our request.
func checkAnswer(res *http.Response, key string) error {
	h := res.Header
	switch {
	case !hasToken(h, "Upgrade", "websocket"), !hasToken(h, "Connection", "upgrade"):
		return &ProtocolError{Reason: "the 101 is not for a websocket"}
	case h.Get("Sec-WebSocket-Accept") != acceptKey(key):
		return &ProtocolError{Reason: "the 101 has a wrong Sec-WebSocket-Accept"}
	case h.Get("Sec-WebSocket-Extensions") != "", h.Get("Sec-WebSocket-Protocol") != "":
		return &ProtocolError{Reason: "the 101 names an extension or a subprotocol that was not offered"}
	}
	return nil
}

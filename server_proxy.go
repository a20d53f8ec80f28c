package main

import (
	"log/slog"
	"net/http"
	"time"
)

// Settings of HTTP/2 on the proxy port. The windows bound what one connection
// may have us hold for services that do not read. net/http's own default is one
// window for all streams and each: there, a single upload that nobody reads
// stops all others of the connection.
const (
	h2Streams      = 250       // at once on a connection
	h2ConnWindow   = 16 << 20  // of all uploads of a connection
	h2StreamWindow = 512 << 10 // of one upload; 10 MB/s at 50 ms, as in a tunnel
	h2FrameSize    = 64 << 10  // which a connection keeps as a buffer

	// h2PingAfter and h2PingTimeout find clients that are gone without a word.
	// The latter is long, since the answer to a ping waits behind all that the
	// network still has for a client on a slow line.
	h2PingAfter   = 30 * time.Second
	h2PingTimeout = 60 * time.Second
)

// newProxyServer is the server of the proxy port: HTTP/1.1, HTTP/2 and, where the
// port speaks TLS, both of them by ALPN.
func newProxyServer(h http.Handler, cfg *proxyConfig, log *slog.Logger) *http.Server {
	srv := newHTTPServer(h, subsystem(log, "proxy"))
	srv.DisableGeneralOptionsHandler = true // OPTIONS * is the service's
	srv.ReadHeaderTimeout = cfg.HTTP.ReadHeaderTimeout
	srv.IdleTimeout = cfg.HTTP.IdleTimeout
	srv.MaxHeaderBytes = int(cfg.HTTP.MaxHeaderBytes)
	serveHTTP2(srv, cfg.HTTP.WriteTimeout)
	return srv
}

// newUpstreamServer is the server of the upstream port.
func newUpstreamServer(h http.Handler, log *slog.Logger) *http.Server {
	srv := newHTTPServer(h, subsystem(log, "upstream"))
	srv.ReadTimeout = readHeaderTimeout // a handshake has no body; what is refused must not linger
	return srv
}

// newAdminServer is the server of the admin port. http.Server's ReadTimeout would
// end what takes long, such as a profile, so it is for requests with a body only.
func newAdminServer(h http.Handler, log *slog.Logger) *http.Server {
	return newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readHeaderTimeout))
		}
		h.ServeHTTP(w, r)
	}), subsystem(log, "admin"))
}

// serveHTTP2 makes a server speak HTTP/2 beside HTTP/1.1, over TLS and, with
// prior knowledge, without. stalled is how long a connection may take no byte
// while some wait for it; 0 is for ever.
func serveHTTP2(srv *http.Server, stalled time.Duration) {
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	srv.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams:          h2Streams,
		MaxReceiveBufferPerConnection: h2ConnWindow,
		MaxReceiveBufferPerStream:     h2StreamWindow,
		MaxReadFrameSize:              h2FrameSize,
		SendPingTimeout:               h2PingAfter,
		PingTimeout:                   h2PingTimeout,
		WriteByteTimeout:              stalled,
	}
}

package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// service is what the agents of the pages forward to: it says hello, gives bodies back, and
// passes gRPC's health checks.
func service(addr string, tcp bool) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if tcp {
		return echo(ln)
	}
	srv := &http.Server{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv.Serve(ln)
}

func hello(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "grpc-status")
		io.WriteString(w, "\x00\x00\x00\x00\x02\x08\x01") // HealthCheckResponse{status: SERVING}
		w.Header().Set("grpc-status", "0")
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		io.WriteString(w, "hello from the service\n")
	default:
		io.Copy(w, r.Body)
	}
}

// echo gives the bytes of TCP connections back.
func echo(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
		}()
	}
}

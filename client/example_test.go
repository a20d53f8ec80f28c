package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"piko/client"
)

// A program that serves an endpoint and stops without losing a request.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	c := &client.Client{URL: "https://piko.example.com"}
	ln, err := c.Listen(ctx, "my-endpoint")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		ln.Shutdown(grace) // before the HTTP server's: that one closes the listener
	}()
	hello := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") }
	if err := http.Serve(ln, http.HandlerFunc(hello)); !errors.Is(err, net.ErrClosed) {
		log.Fatal(err)
	}
}

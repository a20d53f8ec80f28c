package client_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"piko/client"
	"piko/fault"
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
	hello := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") }
	go func() {
		if err := http.Serve(ln, http.HandlerFunc(hello)); !errors.Is(err, net.ErrClosed) {
			log.Fatal(err)
		}
	}()

	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := ln.Shutdown(grace); err != nil {
		log.Print("requests were cut: ", err)
	}
}

// A token from a file, which somebody replaces before the token expires.
func ExampleClient_token() {
	c := &client.Client{
		URL: "https://piko.example.com",
		Token: func(context.Context) (string, error) {
			text, err := os.ReadFile("/run/secrets/piko-token")
			return string(text), err
		},
		TokenMayChange: true,        // a refusal is not the last word
		TokenPoll:      time.Second, // so often the file is looked at
	}
	ln, err := c.Listen(context.Background(), "my-endpoint")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(ln, nil))
}

// Certificates that change while the program runs.
func ExampleClient_getTLS() {
	var current atomic.Pointer[tls.Config] // set by whatever watches your files
	c := &client.Client{URL: "https://piko.example.com:8001", GetTLS: current.Load}
	ln, err := c.Listen(context.Background(), "my-endpoint")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(ln, nil))
}

// An HTTP server whose clients send their requests to piko.
func ExampleClient_Listen() {
	piko := startPiko() // yours runs elsewhere
	defer piko.Stop()
	ctx := context.Background()

	c := &client.Client{URL: piko.UpstreamURL}
	ln, err := c.Listen(ctx, "hello")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello, %s", r.URL.Query().Get("name"))
	}))
	piko.WaitFor("hello")

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, piko.ProxyURL+"/greet?name=world", nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set("x-piko-endpoint", "hello")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(os.Stdout, res.Body)

	http.DefaultClient.CloseIdleConnections()
	ln.Shutdown(ctx)
	// Output: hello, world
}

// A WebSocket server is an HTTP server, and any client library reaches it.
func ExampleClient_Listen_webSocket() {
	piko := startPiko()
	defer piko.Stop()
	ctx := context.Background()

	c := &client.Client{URL: piko.UpstreamURL}
	ln, err := c.Listen(ctx, "shout")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		if kind, text, err := ws.ReadMessage(); err == nil {
			ws.WriteMessage(kind, bytes.ToUpper(text))
		}
	}))
	piko.WaitFor("shout")

	url := strings.Replace(piko.ProxyURL, "http:", "ws:", 1)
	ws, _, err := websocket.DefaultDialer.DialContext(ctx, url, http.Header{"x-piko-endpoint": {"shout"}})
	if err != nil {
		log.Fatal(err)
	}
	defer ws.Close()
	ws.WriteMessage(websocket.TextMessage, []byte("hello"))
	_, text, err := ws.ReadMessage()
	fmt.Println(string(text), err)

	ws.Close()
	ln.Shutdown(ctx)
	// Output: HELLO <nil>
}

// A redis server has an endpoint, and a program elsewhere asks it for a value.
// With go-redis, Dial goes into redis.Options:
//
//	rdb := redis.NewClient(&redis.Options{
//		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
//			return c.Dial(ctx, "redis")
//		},
//	})
func ExampleClient_Dial() {
	piko := startPiko()
	defer piko.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	// This is what `piko agent tcp redis 6379` does for a server of your own.
	ln, err := (&client.Client{URL: piko.UpstreamURL, Protocol: "tcp"}).Listen(ctx, "redis")
	if err != nil {
		log.Fatal(err)
	}
	go serveRedis(ln)

	c := &client.Client{URL: piko.ProxyURL}
	conn, err := c.Dial(ctx, "redis")
	if err != nil {
		log.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	for _, command := range []string{"SET color blue", "GET color", "GET size"} {
		fmt.Fprintf(conn, "%s\r\n", command)
		answer, err := answers.ReadString('\n')
		if err != nil {
			log.Fatal(err)
		}
		if strings.HasPrefix(answer, "$") && answer != "$-1\r\n" {
			answer, _ = answers.ReadString('\n')
		}
		fmt.Println(strings.TrimSpace(answer))
	}

	conn.Close()
	ln.Shutdown(ctx)
	// Output:
	// +OK
	// blue
	// $-1
}

// serveRedis is as much of a redis server as the example needs: SET and GET, as
// one types them.
func serveRedis(ln net.Listener) {
	values := map[string]string{}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			switch words := strings.Fields(lines.Text()); {
			case len(words) == 3 && words[0] == "SET":
				values[words[1]] = words[2]
				fmt.Fprint(conn, "+OK\r\n")
			case len(words) == 2 && words[0] == "GET" && values[words[1]] != "":
				value := values[words[1]]
				fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(value), value)
			case len(words) == 2 && words[0] == "GET":
				fmt.Fprint(conn, "$-1\r\n")
			default:
				fmt.Fprint(conn, "-ERR unknown command\r\n")
			}
		}
		conn.Close()
	}
}

// Errors say what the server said, in words for machines and for people. What
// may pass is tried again until ctx ends; an expired token is final.
func ExampleClient_Dial_errors() {
	piko := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fault.Write(w, r, fault.ExpiredToken) // as a server does
	}))
	defer piko.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	c := &client.Client{
		URL:   piko.URL,
		Token: func(context.Context) (string, error) { return "old", nil },
	}
	_, err := c.Dial(ctx, "redis")
	if refused, ok := errors.AsType[*fault.Refused](err); ok {
		fmt.Println(refused.Status, refused.Text)
	}
	fmt.Println(errors.Is(err, fault.ExpiredToken), errors.Is(err, context.DeadlineExceeded))
	// Output:
	// 401 expired token
	// true false
}

// State and counters of a listener, for a health check and for metrics.
func ExampleListener_Phase() {
	piko := startPiko()
	defer piko.Stop()
	ctx := context.Background()

	c := &client.Client{
		URL:     piko.UpstreamURL,
		Metrics: &client.Metrics{},
		OnState: func(s client.State) { fmt.Println("now:", s.Phase) },
	}
	ln, err := c.Listen(ctx, "hello")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ln.Phase(), "by", ln.Tunnels(), "tunnel after", c.Metrics.Dials.Load(), "dial")
	ln.Shutdown(ctx)
	fmt.Println(ln.Phase())
	// Output:
	// now: connected
	// connected by 1 tunnel after 1 dial
	// now: draining
	// now: closed
	// closed
}

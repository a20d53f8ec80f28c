package suites

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"piko/client"
)

// wrapperEnv makes the test binary be the server under test of the conformance suite: the
// suite's own reference server, with a tunnel before it. Its value is a wrapper as JSON.
const wrapperEnv = "PIKO_SUITES_WRAPPER"

// What the wrapper may put before the reference server.
const (
	upstreamAgent = "agent"
	upstreamSDK   = "SDK listener"
)

// wrapper is one server under test: its fields say what to put before it.
type wrapper struct {
	Upstream         string // upstreamAgent or upstreamSDK; "" is nothing
	URL              string // of the upstream port
	Owner            string // the node that it belongs to
	Proxy, Admin     string // of the node that the suite asks
	Cert             string // file of the certificate that the node shows; "" is no TLS
	Piko, Reference  string // programs
	Names            string // directory for the names that are taken, and other files
	endpoint         string
	service          string
	reference, agent *exec.Cmd
	listener         *client.Listener
}

// fieldVersion and others are numbers of fields of ServerCompatRequest and
// ServerCompatResponse, whose Go packages are internal.
const (
	fieldVersion = 2 // of the request: an HTTPVersion
	fieldTLS     = 4
	fieldHost    = 1 // of the response
	fieldPort    = 2
	fieldCert    = 3

	versionHTTP2 = 2 // an HTTPVersion
)

// runWrapper is the main function of a wrapper. The suite ends it with SIGTERM.
func runWrapper(arg string) error {
	var w wrapper
	if err := json.Unmarshal([]byte(arg), &w); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	request, err := readMessage(os.Stdin)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if w.Upstream == upstreamSDK {
		request = withoutTLS(request) // the node has it, and its upstream none
	}
	response, err := w.startReference(request)
	if err != nil {
		return fmt.Errorf("start reference server: %w", err)
	}
	defer end(w.reference)
	if w.Upstream != "" {
		if response, err = w.startTunnel(ctx, varint(request, fieldVersion) >= versionHTTP2); err != nil {
			return fmt.Errorf("start tunnel: %w", err)
		}
		defer w.stopTunnel()
	}
	if _, err := os.Stdout.Write(response); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// startReference starts the suite's server and returns its answer.
func (w *wrapper) startReference(request []byte) (response []byte, err error) {
	w.reference = command(w.Reference)
	w.reference.Stderr = os.Stderr
	in, err := w.reference.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := w.reference.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.reference.Start(); err != nil {
		return nil, err
	}
	if _, err = in.Write(request); err == nil {
		response, err = readMessage(bufio.NewReader(out))
	}
	if err != nil {
		end(w.reference)
	}
	w.service = net.JoinHostPort("127.0.0.1", strconv.FormatUint(varint(response, fieldPort), 10))
	return response, err
}

// startTunnel makes a name lead to the reference server and returns the answer that says so.
func (w *wrapper) startTunnel(ctx context.Context, http2 bool) (response []byte, err error) {
	if w.endpoint, err = takeName(w.Names); err != nil {
		return nil, err
	}
	if w.Upstream == upstreamAgent {
		err = w.startAgent()
	} else {
		w.listener, err = listenSDK(ctx, w.URL, w.endpoint, http2)
		if err == nil {
			go forward(w.listener, w.service)
		}
	}
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(8 * time.Second); ; <-time.After(10 * time.Millisecond) {
		if err = knows(w.Admin, w.Owner, w.endpoint); err == nil {
			return w.response()
		}
		if time.Now().After(deadline) {
			w.stopTunnel()
			return nil, err
		}
	}
}

// startAgent starts an agent with default settings, but for trusting a service whose
// certificate nobody has signed.
func (w *wrapper) startAgent() error {
	args := agentArgs(w.URL, w.endpoint, w.service)
	if w.Cert != "" {
		file := filepath.Join(w.Names, w.endpoint+".yaml")
		listener := fmt.Sprintf("listeners: [{endpoint_id: %s, addr: 'https://%s', tls: {insecure_skip_verify: true}}]\n", w.endpoint, w.service)
		if err := os.WriteFile(file, []byte(listener), 0o600); err != nil {
			return err
		}
		args = []string{"agent", "start", "--config.path", file, "--connect.url", w.URL, "--connections", "1"}
	}
	w.agent = command(w.Piko, append(args, "--log.level", "error")...)
	w.agent.Stderr = os.Stderr
	return w.agent.Start()
}

// response says where the suite's clients find the node.
func (w *wrapper) response() ([]byte, error) {
	_, port, _ := net.SplitHostPort(w.Proxy)
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	m := protowire.AppendTag(nil, fieldHost, protowire.BytesType)
	m = protowire.AppendString(m, hostOf(w.endpoint))
	m = protowire.AppendTag(m, fieldPort, protowire.VarintType)
	m = protowire.AppendVarint(m, n)
	if w.Cert != "" {
		cert, err := os.ReadFile(w.Cert)
		if err != nil {
			return nil, err
		}
		m = protowire.AppendTag(m, fieldCert, protowire.BytesType)
		m = protowire.AppendBytes(m, cert)
	}
	return withLength(m), nil
}

// withLength puts the length before a message.
func withLength(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...)
}

func (w *wrapper) stopTunnel() {
	if w.listener != nil {
		w.listener.Close()
	}
	if w.agent != nil {
		end(w.agent)
	}
}

func end(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// forward carries the bytes of what a listener accepts to a service and back, as it is.
func forward(ln net.Listener, service string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go splice(c, service)
	}
}

func splice(c net.Conn, service string) {
	defer c.Close()
	s, err := net.Dial("tcp", service)
	if err != nil {
		fmt.Fprintln(os.Stderr, "dial reference server:", err)
		return
	}
	defer s.Close()
	var wg sync.WaitGroup
	wg.Go(func() { oneWay(s, c) })
	wg.Go(func() { oneWay(c, s) })
	wg.Wait()
}

// oneWay copies until the end, which it passes on, or until one side has failed, which ends
// both directions.
func oneWay(to, from net.Conn) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err == nil && ok && half.CloseWrite() == nil {
		return
	}
	to.Close()
	from.Close()
}

// takeName returns an endpoint that testdata/hosts has a name for and no other wrapper has
// taken.
func takeName(dir string) (string, error) {
	for i := 1; i <= 40; i++ {
		name := "c" + strconv.Itoa(i)
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return name, f.Close()
		}
	}
	return "", errors.New("no name is left")
}

// maxMessage bounds a message of the suite.
const maxMessage = 1 << 20

// readMessage reads a message with its length before it.
func readMessage(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return nil, fmt.Errorf("message of %d bytes", n)
	}
	message := append(head[:], make([]byte, n)...)
	_, err := io.ReadFull(r, message[4:])
	return message, err
}

// withoutTLS asks for a server without TLS.
func withoutTLS(message []byte) []byte {
	m := protowire.AppendTag(bytes.Clone(message[4:]), fieldTLS, protowire.VarintType) // the last one counts
	return withLength(protowire.AppendVarint(m, 0))
}

// varint returns a field of a message with its length before it; 0 if it is not there.
func varint(message []byte, field protowire.Number) uint64 {
	for b := message[min(4, len(message)):]; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0
		}
		b = b[n:]
		if number == field && kind == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b)
			return v
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return 0
		}
		b = b[n:]
	}
	return 0
}
